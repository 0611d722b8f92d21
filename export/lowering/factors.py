"""One block factor of a butterfly as TFLite operators, in four ways.

Each function takes values in some layout and returns them in the layout that suits it, with that layout. The factor's blocks
(H, L, I, O) become constants. A bias is N values in natural order.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_butterfly.structure.fusion import Factor

from . import layout as layouts
from .layout import BATCH, Layout
from .lowering import Work, padded, product_work

Apply = Callable[..., tuple[tf.Tensor, Layout]]


def conv(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    """Apply the factor by TRANSPOSE where needed, then CONV_2D with H L groups."""
    wanted = layouts.rotated(layout, factor.low)
    given = layouts.resized(wanted, factor)
    x = layouts.move(x, layout, wanted, batch)
    kernel = _by_place(blocks).transpose(1, 0, 2).reshape(1, 1, factor.inputs, factor.nodes_out)
    # The batch as an image's height: XNNPACK multiplies all its rows by a group's kernel at once.
    image = tf.reshape(x, (1, layouts.extent((BATCH,), batch), 1, factor.nodes_in))
    x = tf.nn.conv2d(image, tf.constant(kernel), 1, "VALID")
    return tf.reshape(_biased(x, bias, given), (-1, factor.nodes_out)), given


def matmul(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    """Apply the factor by TRANSPOSE where needed, then BATCH_MATMUL over H L blocks."""
    below, mixed, above = layouts.split(layout, factor.low)
    wanted = (*below, *above, BATCH, mixed)
    given = layouts.resized(wanted, factor)
    x = layouts.move(x, layout, wanted, batch)
    x = tf.reshape(x, (factor.blocks, layouts.extent((BATCH,), batch), factor.inputs))
    x = tf.linalg.matmul(x, tf.constant(_by_place(blocks)))
    if bias is not None:
        x = x + bias[layouts.nodes(given)].reshape(-1, 1, factor.outputs)
    return tf.reshape(x, (-1, factor.nodes_out)), given


def split(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    """Apply the factor by TRANSPOSE where needed, then SPLIT, H L FULLY_CONNECTEDs and CONCATENATION."""
    wanted = layouts.rotated(layout, factor.low)
    given = layouts.resized(wanted, factor)
    x = tf.reshape(layouts.move(x, layout, wanted, batch), (-1, factor.nodes_in))
    parts = tf.split(x, factor.blocks, axis=1)
    parts = [tf.linalg.matmul(part, tf.constant(block)) for part, block in zip(parts, _by_place(blocks), strict=True)]
    if bias is not None:
        biases = bias[layouts.nodes(given)].reshape(-1, factor.outputs)
        parts = [part + added for part, added in zip(parts, biases, strict=True)]
    return tf.concat(parts, axis=1), given


def sum_(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    """Apply the factor by MUL by the blocks, broadcast over O, then SUM over I. It needs no digit last, so no TRANSPOSE."""
    if layout[0] != BATCH:
        x, layout = layouts.move(x, layout, layouts.natural(layout), batch), layouts.natural(layout)
    below, mixed, above = layouts.split(layout, factor.low)
    place = layout.index(mixed)
    before, after = layout[1:place], layout[place + 1 :]
    stored = [*above, *below]
    axes = [stored.index(axis) for axis in (*before, *after)]
    # (H, L, I, O) -> (before, I, O, after)
    weights = blocks.reshape(*(axis.extent for axis in stored), factor.inputs, factor.outputs)
    mixing = [len(stored), len(stored) + 1]
    weights = weights.transpose(*axes[: len(before)], *mixing, *axes[len(before) :])
    outer, inner = layouts.extent(before, batch), layouts.extent(after, batch)
    rows = layouts.extent((BATCH,), batch)
    leading, one = ((), ()) if batch == 1 else ((rows,), (1,))
    x = tf.reshape(x, (*leading, outer, factor.inputs, 1, inner))
    x = x * tf.constant(weights.reshape(*one, outer, factor.inputs, factor.outputs, inner))
    given = layouts.resized(layout, factor)
    return _biased(tf.reshape(tf.reduce_sum(x, axis=-3), (-1, factor.nodes_out)), bias, given), given


OPERATORS: dict[str, Apply] = {"conv": conv, "matmul": matmul, "split": split, "sum": sum_}


def factor_work(operator: str, factor: Factor, rows: int) -> Work:
    """Return how much of each unit of work one factor does on `rows` rows, moves between layouts not counted."""
    blocks, entries = factor.blocks, factor.multiply_adds
    stored = Counter({"weights": 4 * entries})
    if operator == "sum":  # in pieces of values that lie side by side; at stride 1 they are single ones
        return stored + Counter({"sums": 1, "sum products": rows * entries, "sum pieces": rows * entries // factor.low})
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


def _biased(x, bias: np.ndarray | None, layout: Layout):
    """Return `x` plus the bias, where the last axis of `x` holds all nodes in `layout`."""
    return x if bias is None else x + bias[layouts.nodes(layout)]


def _by_place(blocks: np.ndarray) -> np.ndarray:
    """Return the blocks (H, L, I, O) as (L H, I, O), the order in which a rotated layout holds them."""
    return blocks.transpose(1, 0, 2, 3).reshape(-1, *blocks.shape[2:])
