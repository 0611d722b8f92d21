"""One block factor of a butterfly as TFLite operators, in four ways.

Each takes values in some layout and gives them in the layout that suits it, with blocks (H, L, I, O) as constants. A bias,
where there is one, is N values in natural order:

    conv    TRANSPOSE where needed, CONV_2D with H L groups
    matmul  TRANSPOSE where needed, BATCH_MATMUL over H L blocks
    split   TRANSPOSE where needed, SPLIT, H L FULLY_CONNECTEDs, CONCATENATION
    sum     MUL by the blocks, broadcast over O, and SUM over I; needs no bit last, so no TRANSPOSE
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_butterfly.fusion import Factor

from . import layout as layouts
from .layout import BATCH, Layout

Apply = Callable[..., tuple[tf.Tensor, Layout]]


def conv(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    wanted, size = layouts.rotated(factor, x.shape[-1]), x.shape[-1]
    x = layouts.move(x, layout, wanted, batch)
    kernel = _by_place(blocks).transpose(1, 0, 2).reshape(1, 1, factor.radix, size)
    # The batch as an image's height: XNNPACK multiplies all its rows by a group's kernel at once.
    x = tf.nn.conv2d(tf.reshape(x, (1, layouts.extent((BATCH,), batch), 1, size)), tf.constant(kernel), 1, "VALID")
    return tf.reshape(_biased(x, bias, wanted), (-1, size)), wanted


def matmul(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    size = x.shape[-1]
    below, mixed, above = layouts.split(factor, size)
    wanted = (*below, *above, BATCH, *mixed)
    x = layouts.move(x, layout, wanted, batch)
    x = tf.reshape(x, (size // factor.radix, layouts.extent((BATCH,), batch), factor.radix))
    x = tf.linalg.matmul(x, tf.constant(_by_place(blocks)))
    if bias is not None:
        x = x + bias[layouts.nodes(wanted)].reshape(-1, 1, factor.radix)
    return tf.reshape(x, (-1, size)), wanted


def split(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    wanted, size = layouts.rotated(factor, x.shape[-1]), x.shape[-1]
    x = tf.reshape(layouts.move(x, layout, wanted, batch), (-1, size))
    parts = tf.split(x, size // factor.radix, axis=1)
    parts = [tf.linalg.matmul(part, tf.constant(block)) for part, block in zip(parts, _by_place(blocks), strict=True)]
    if bias is not None:
        biases = bias[layouts.nodes(wanted)].reshape(-1, factor.radix)
        parts = [part + added for part, added in zip(parts, biases, strict=True)]
    return tf.concat(parts, axis=1), wanted


def sum_(x, layout: Layout, factor: Factor, blocks: np.ndarray, batch: int | None, bias: np.ndarray | None = None):
    size = x.shape[-1]
    below, mixed, above = layouts.split(factor, size)
    start = layout.index(mixed[0])
    if layout[0] != BATCH or layout[start : start + len(mixed)] != mixed:
        x, layout = layouts.move(x, layout, layouts.natural(size), batch), layouts.natural(size)
        start = layout.index(mixed[0])
    before, after = layout[1:start], layout[start + len(mixed) :]
    stored = [*above, *below]
    axes = [stored.index(bit) for bit in (*before, *after)]
    # (H L, I, O) -> (before, I, O, after)
    weights = blocks.reshape(*[2] * len(stored), factor.radix, factor.radix)
    split_at, mixing = len(before), [len(stored), len(stored) + 1]
    weights = weights.transpose(*axes[:split_at], *mixing, *axes[split_at:])
    outer, inner = 1 << len(before), 1 << len(after)
    rows = layouts.extent((BATCH,), batch)
    leading, one = ((), ()) if batch == 1 else ((rows,), (1,))
    x = tf.reshape(x, (*leading, outer, factor.radix, 1, inner))
    x = x * tf.constant(weights.reshape(*one, outer, factor.radix, factor.radix, inner))
    return _biased(tf.reshape(tf.reduce_sum(x, axis=-3), (-1, size)), bias, layout), layout


OPERATORS: dict[str, Apply] = {"conv": conv, "matmul": matmul, "split": split, "sum": sum_}


def _biased(x, bias: np.ndarray | None, layout: Layout):
    """`x`, whose last axis holds all nodes in `layout`."""
    return x if bias is None else x + bias[layouts.nodes(layout)]


def _by_place(blocks: np.ndarray) -> np.ndarray:
    """(H, L, I, O) -> (L H, I, O), the order in which a rotated layout holds the blocks."""
    return blocks.transpose(1, 0, 2, 3).reshape(-1, *blocks.shape[2:])
