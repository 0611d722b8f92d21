"""Layouts: in which order a tensor holds the values of all nodes for a batch, as a tuple of axes, the slowest first.

An axis is `BATCH`, or the digit of the node's number that one factor mixes. A node's number is the sum of digit times stride
over its digits. Most operators want the digit that they mix last, so values move between two factors; `factors.route` says
which layout each takes. Because layouts are tracked by digits, a move is one TRANSPOSE of few axes, or nothing where the values
already lie as the next factor wants them.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_butterfly.structure.fusion import Factor


class Axis(NamedTuple):
    """One digit of a node's number. It counts in steps of `stride` and takes `extent` values. The batch has stride 0."""

    stride: int
    extent: int


BATCH = Axis(0, -1)
Layout = tuple[Axis, ...]


def entry(factors: Sequence[Factor]) -> Layout:
    """Return the layout of the first factor's input: the batch, then a digit for each factor, the largest stride first."""
    return natural(tuple(Axis(factor.low, factor.inputs) for factor in factors))


def natural(layout: Layout) -> Layout:
    """Return the axes of `layout` in the order (B, N): the batch, then the nodes in their own order."""
    return (BATCH, *sorted((axis for axis in layout if axis != BATCH), reverse=True))


def split(layout: Layout, stride: int) -> tuple[Layout, Axis, Layout]:
    """Return the axes of smaller strides than `stride`, the axis of `stride`, and those of larger ones, without the batch."""
    digits = natural(layout)[1:]
    place = [axis.stride for axis in digits].index(stride)
    return digits[place + 1 :], digits[place], digits[:place]


def rotated(layout: Layout, stride: int) -> Layout:
    """Return the axes of `layout` in natural order, but the digits rotated so that the one of `stride` comes last.

    A move between two rotations is a plain matrix transpose.
    """
    below, mixed, above = split(layout, stride)
    return (BATCH, *below, *above, mixed)


def queued(layout: Layout, strides: Sequence[int]) -> Layout:
    """Return the axes of `layout` with the digits of `strides` first, in that order, and the others in natural order."""
    digits = natural(layout)[1:]
    first = sorted((axis for axis in digits if axis.stride in strides), key=lambda axis: strides.index(axis.stride))
    return (BATCH, *first, *(axis for axis in digits if axis not in first))


def resized(layout: Layout, factor: Factor) -> Layout:
    """Return `layout` with as many values along the digit that `factor` mixes as the factor gives."""
    return tuple(axis._replace(extent=factor.outputs) if axis.stride == factor.low else axis for axis in layout)


def move(x, layout: Layout, wanted: Layout, batch: int | None):
    """Return `x`, of whatever shape, with its values moved from `layout` to `wanted`. `batch` is None where unknown."""
    layout, wanted = _longer_axes(layout, batch), _longer_axes(wanted, batch)
    if layout == wanted:
        return x
    runs = _runs(layout, wanted)
    stored = sorted(runs, key=lambda run: layout.index(run[0]))
    x = tf.reshape(x, [extent(run, batch) for run in stored])
    return tf.transpose(x, [stored.index(run) for run in runs])


def differ(layout: Layout, wanted: Layout, batch: int | None) -> bool:
    """Return whether values that lie as in `layout` have to be moved to lie as in `wanted`."""
    return _longer_axes(layout, batch) != _longer_axes(wanted, batch)


def extent(axes: Layout, batch: int | None) -> int:
    """Return the number of values along `axes` together; -1 where it depends on an unknown batch."""
    values = prod(axis.extent for axis in axes if axis != BATCH)
    if BATCH not in axes:
        return values
    return -1 if batch is None else batch * values


def nodes(layout: Layout) -> np.ndarray:
    """Return the node at each place of one example in `layout`."""
    places = np.zeros(1, np.int32)
    for axis in layout:
        if axis != BATCH:
            places = (places[:, None] + axis.stride * np.arange(axis.extent, dtype=np.int32)).ravel()
    return places


def _longer_axes(layout: Layout, batch: int | None) -> Layout:
    """Return the axes of more than one element. An axis of one element lies anywhere."""
    return tuple(axis for axis in layout if axis.extent != 1 and not (axis == BATCH and batch == 1))


def _runs(layout: Layout, wanted: Layout) -> list[Layout]:
    """Return `wanted` cut into the longest pieces whose axes follow each other in `layout` too."""
    runs: list[Layout] = []
    for axis in wanted:
        if runs and layout.index(axis) == layout.index(runs[-1][-1]) + 1:
            runs[-1] = (*runs[-1], axis)
        else:
            runs.append((axis,))
    return runs
