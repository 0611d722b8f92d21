"""In which order a tensor holds the values of N = 2^m nodes for a batch: as a tuple of axes, the slowest first.

An axis is `BATCH` or a bit of the node's number, 0 the lowest. Every factor wants the bits it mixes last, so between two
factors values move. Tracking bits makes each move one TRANSPOSE of few axes, or none where the next factor happens to find
them in place.
"""

import numpy as np
import tensorflow as tf

from keras_butterfly.fusion import Factor

BATCH = -1
Layout = tuple[int, ...]


def natural(size: int) -> Layout:
    """(B, N), nodes in their own order."""
    return (BATCH, *_bits(1, size))


def rotated(factor: Factor, size: int) -> Layout:
    """(B, L H R) for `factor`: a rotation of the node's bits, so that a move between two of them is a plain matrix
    transpose."""
    below, mixed, above = split(factor, size)
    return (BATCH, *below, *above, *mixed)


def split(factor: Factor, size: int) -> tuple[Layout, Layout, Layout]:
    """The bits below those that `factor` mixes, the mixed ones, and those above; each from the highest down."""
    top = factor.low * factor.radix
    return _bits(1, factor.low), _bits(factor.low, top), _bits(top, size)


def move(x, layout: Layout, wanted: Layout, batch: int | None):
    """`x`, whose values lie in `layout`, with its values in `wanted`; of whatever shape. `batch` is None where unknown."""
    if batch == 1:  # an axis of one element lies anywhere
        layout, wanted = (tuple(axis for axis in axes if axis != BATCH) for axes in (layout, wanted))
    if layout == wanted:
        return x
    runs = _runs(layout, wanted)
    stored = sorted(runs, key=lambda run: layout.index(run[0]))
    x = tf.reshape(x, [extent(run, batch) for run in stored])
    return tf.transpose(x, [stored.index(run) for run in runs])


def extent(axes: Layout, batch: int | None) -> int:
    """The number of values along `axes` together; -1 where it depends on an unknown batch."""
    bits = sum(axis != BATCH for axis in axes)
    if BATCH not in axes:
        return 1 << bits
    return -1 if batch is None else batch << bits


def nodes(layout: Layout) -> np.ndarray:
    """The node at each place of one example in `layout`."""
    bits = [axis for axis in layout if axis != BATCH]
    places = np.zeros(1, np.int32)
    for bit in bits:
        places = (places[:, None] + np.array([0, 1 << bit], np.int32)).ravel()
    return places


def _runs(layout: Layout, wanted: Layout) -> list[Layout]:
    """`wanted` cut into the longest pieces whose axes follow each other in `layout` too."""
    runs: list[Layout] = []
    for axis in wanted:
        if runs and layout.index(axis) == layout.index(runs[-1][-1]) + 1:
            runs[-1] = (*runs[-1], axis)
        else:
            runs.append((axis,))
    return runs


def _bits(low: int, high: int) -> Layout:
    """The bits of the strides low .. high / 2, from the highest down."""
    return tuple(range(high.bit_length() - 2, low.bit_length() - 2, -1))
