"""One block factor of a butterfly as TFLite operators, in five ways.

Each function takes and gives values in the two layouts that `route` returns for its factor. The factor's blocks (H, L, I, O)
become constants. A bias is N values in natural order.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile

import numpy as np
import tensorflow as tf

from keras_butterfly.structure.fusion import Factor

from . import layout as layouts
from .layout import BATCH, Layout
from .lowering import Work, padded, product_work

# x, the layouts before and after, the factor, its blocks, the batch or None where it is unknown, and the bias or None.
Apply = Callable[[tf.Tensor, Layout, Layout, Factor, np.ndarray, int | None, np.ndarray | None], tf.Tensor]


def conv(x, taken: Layout, given: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None):
    """Return the values `x` after the factor, computed by one CONV_2D with H L groups."""
    kernel = _by_place(blocks).transpose(1, 0, 2).reshape(1, 1, factor.inputs, factor.nodes_out)
    # The batch as an image's height: XNNPACK multiplies all its rows by a group's kernel at once.
    image = tf.reshape(x, (1, layouts.extent((BATCH,), batch), 1, factor.nodes_in))
    x = tf.nn.conv2d(image, tf.constant(kernel), 1, "VALID")
    return tf.reshape(_biased(x, bias, given), (-1, factor.nodes_out))


def matmul(x, taken: Layout, given: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None):
    """Return the values `x` after the factor, computed by one BATCH_MATMUL over H L blocks."""
    x = tf.reshape(x, (factor.blocks, layouts.extent((BATCH,), batch), factor.inputs))
    x = tf.linalg.matmul(x, tf.constant(_by_place(blocks)))
    if bias is not None:
        x = x + bias[layouts.nodes(given)].reshape(-1, 1, factor.outputs)
    return tf.reshape(x, (-1, factor.nodes_out))


def split(x, taken: Layout, given: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None):
    """Return the values `x` after the factor, computed by SPLIT, a FULLY_CONNECTED for each block, and CONCATENATION."""
    parts = tf.split(tf.reshape(x, (-1, factor.nodes_in)), factor.blocks, axis=1)
    parts = [tf.linalg.matmul(part, tf.constant(block)) for part, block in zip(parts, _by_place(blocks), strict=True)]
    if bias is not None:
        biases = bias[layouts.nodes(given)].reshape(-1, factor.outputs)
        parts = [part + added for part, added in zip(parts, biases, strict=True)]
    return tf.concat(parts, axis=1)


def sum_(x, taken: Layout, given: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None):
    """Return the values `x` after the factor, computed by MUL with the blocks, broadcast over O, and SUM over I."""
    before, _, after = _around(taken, factor)
    outer, inner = layouts.extent(before, batch), layouts.extent(after, batch)
    # (H, L, I, O) -> (before, I, O, after)
    weights = _by_axes(blocks, taken, factor).reshape(outer, inner, factor.inputs, factor.outputs).transpose(0, 2, 3, 1)
    rows = layouts.extent((BATCH,), batch)
    leading, one = ((), ()) if batch == 1 else ((rows,), (1,))
    x = tf.reshape(x, (*leading, outer, factor.inputs, 1, inner))
    x = x * tf.constant(weights.reshape(*one, *weights.shape))
    return _biased(tf.reshape(tf.reduce_sum(x, axis=-3), (-1, factor.nodes_out)), bias, given)


def depthwise(x, taken: Layout, given: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None):
    """Return the values `x` after the factor, computed by O DEPTHWISE_CONV_2Ds of I taps, and CONCATENATION.

    The CONCATENATION can put the digit that is mixed at any place.
    """
    rows = layouts.extent((BATCH,), batch)
    image = tf.reshape(x, (rows, factor.inputs, 1, factor.blocks))
    kernels = _by_axes(blocks, taken, factor).reshape(factor.blocks, factor.inputs, factor.outputs).transpose(2, 1, 0)
    parts = [tf.nn.depthwise_conv2d(image, tf.constant(kernel[:, None, :, None]), (1, 1, 1, 1), "VALID") for kernel in kernels]
    before, mixed, after = _around(given, factor)
    if bias is not None:
        biases = bias[layouts.nodes((*mixed, *before, *after))].reshape(factor.outputs, factor.blocks)
        parts = [part + added for part, added in zip(parts, biases, strict=True)]
    shape = layouts.extent((BATCH, *before), batch), layouts.extent(after, batch)
    return tf.concat([tf.reshape(part, shape) for part in parts], axis=1)


OPERATORS: dict[str, Apply] = {"conv": conv, "matmul": matmul, "split": split, "sum": sum_, "depthwise": depthwise}


def route(operators: Sequence[str], factors: Sequence[Factor]) -> list[tuple[Layout, Layout]]:
    """Return the layouts in which each factor takes and gives its values.

    SUM takes the natural order, in which the most values lie side by side. A depthwise convolution takes its digit first. The
    CONCATENATION after it gives that digit a place behind those that further depthwise convolutions mix, so that only the
    first of them may need a TRANSPOSE. The other operators take their digit last.
    """
    digits, steps = layouts.entry(factors), []
    for index, (operator, factor) in enumerate(zip(operators, factors, strict=True)):
        if operator == "depthwise":
            run = _depthwise_run(operators[index:], factors[index:])
            taken, given = layouts.queued(digits, run), layouts.queued(digits, run[1:])
        else:
            taken = given = _taken(operator, digits, factor.low)
        steps.append((taken, layouts.resized(given, factor)))
        digits = layouts.resized(digits, factor)
    return steps


def factor_work(operator: str, factor: Factor, rows: int) -> Work:
    """Return how much of each unit of work one factor does on `rows` rows, moves between layouts not counted."""
    blocks, entries = factor.blocks, factor.multiply_adds
    stored = Counter({"weights": 4 * entries})
    if operator == "sum":  # in pieces of values that lie side by side; at stride 1 they are single ones
        return stored + Counter({"sums": 1, "sum products": rows * entries, "sum pieces": rows * entries // factor.low})
    if operator == "depthwise":
        return stored + Counter(
            {
                "depthwises": factor.outputs,
                "depthwise rows": rows * factor.outputs,
                "depthwise multiplies": rows * entries,
                "depthwise outputs": rows * factor.nodes_out,
            }
        )
    if operator == "split":
        one = product_work(factor.inputs, factor.outputs, rows)
        moved = Counter({"moved": rows * (factor.nodes_in + factor.nodes_out)})
        return Counter({unit: amount * blocks for unit, amount in one.items()}) + moved
    return stored + Counter(
        {
            f"{operator}s": 1,
            f"{operator} blocks": blocks,
            f"{operator} block rows": blocks * rows,
            f"{operator} multiplies": rows * factor.nodes_in * padded(factor.outputs),
        }
    )


def _depthwise_run(operators: Sequence[str], factors: Sequence[Factor]) -> list[int]:
    """Return the strides of the factors before the first one that is not written by a depthwise convolution."""
    pairs = takewhile(lambda pair: pair[0] == "depthwise", zip(operators, factors, strict=True))
    return [factor.low for _, factor in pairs]


def _taken(operator: str, digits: Layout, stride: int) -> Layout:
    """Return the layout in which an operator other than a depthwise convolution takes its values."""
    if operator == "sum":
        return layouts.natural(digits)
    if operator == "matmul":
        below, mixed, above = layouts.split(digits, stride)
        return (*below, *above, BATCH, mixed)
    return layouts.rotated(digits, stride)


def _around(layout: Layout, factor: Factor) -> tuple[Layout, Layout, Layout]:
    """Return the axes before the digit that `factor` mixes, the digit, and the axes after it, without the batch."""
    digits = tuple(axis for axis in layout if axis != BATCH)
    place = [axis.stride for axis in digits].index(factor.low)
    return digits[:place], digits[place : place + 1], digits[place + 1 :]


def _by_axes(blocks: np.ndarray, layout: Layout, factor: Factor) -> np.ndarray:
    """Return the blocks (H, L, I, O) as (..., I, O), with the digits that are not mixed in the order of `layout`."""
    below, _, above = layouts.split(layout, factor.low)
    before, _, after = _around(layout, factor)
    stored = (*above, *below)
    order = [stored.index(axis) for axis in (*before, *after)]
    weights = blocks.reshape(*(axis.extent for axis in stored), factor.inputs, factor.outputs)
    return weights.transpose(*order, len(stored), len(stored) + 1)


def _biased(x, bias: np.ndarray | None, layout: Layout):
    """Return `x` plus the bias, where the last axis of `x` holds all nodes in `layout`."""
    return x if bias is None else x + bias[layouts.nodes(layout)]


def _by_place(blocks: np.ndarray) -> np.ndarray:
    """Return the blocks (H, L, I, O) as (L H, I, O), the order in which a rotated layout holds them."""
    return blocks.transpose(1, 0, 2, 3).reshape(-1, *blocks.shape[2:])
