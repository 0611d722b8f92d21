"""Stateless executions of a wiring on `keras.ops`: stage by stage, by block factors, folded into one matrix.

All compute the same linear map and are differentiable in the input and in the weights. Arguments:
    x        (..., inputs) float tensor
    weights  (effective weights,) float tensor, in the order that `wiring` defines; of x's dtype or a wider one, in which
             factors and matrices are multiplied out before they are rounded to x's dtype
Axis letters, beside those of `wiring` (h, i, o, l) and `fusion` (H, R, L): B batch, I and O the mixed bits of a factor at its
input and its output, N nodes, m stages.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from . import fusion
from .wiring import Wiring

Tensor = Any


def apply_stages(x: Tensor, wiring: Wiring, weights: Tensor) -> Tensor:
    """Stage by stage, each a gather and elementwise multiplies on the effective nodes: the reference.

    (..., inputs) -> (..., outputs), 2 multiply-adds per effective node and stage.
    """
    weights = _rounded(_with_zero(wiring, weights), x)
    for stage in wiring.stages:
        straight = ops.take(x, stage.straight, axis=-1) * ops.take(weights, stage.straight_weight)
        cross = ops.take(x, stage.cross, axis=-1) * ops.take(weights, stage.cross_weight)
        x = straight + cross
    return x


def apply_factors(x: Tensor, wiring: Wiring, weights: Tensor, counts: Sequence[int]) -> Tensor:
    """By block factors of `counts` stages each: one batched matmul per factor. (..., inputs) -> (..., outputs)."""
    grouped = fusion.factors(wiring, tuple(counts))
    if not grouped:  # one node, joined to itself
        return x
    leading = ops.shape(x)[:-1]
    x = place_inputs(ops.reshape(x, (-1, len(wiring.inputs))), wiring, grouped[0].nodes_in)
    # Between factors one transpose turns the layout one matmul leaves, (H, L, B, O), into what the next one reads.
    for factor, blocks in zip(grouped, block_factors(wiring, weights, counts), strict=True):
        if factor.first == 0:
            x = ops.reshape(x, (-1, factor.high, factor.inputs, factor.low))
            x = ops.transpose(x, (1, 3, 0, 2))  # (H, L, B, I)
        else:
            x = _regroup(x, factor)
        x = ops.matmul(x, _rounded(blocks, x))  # (H, L, B, O)
    x = ops.reshape(ops.transpose(x, (2, 0, 3, 1)), (-1, grouped[-1].nodes_out))  # (B, H O L)
    return ops.reshape(read_outputs(x, wiring, grouped[-1].nodes_out), (*leading, len(wiring.outputs)))


def apply_folded(x: Tensor, wiring: Wiring, weights: Tensor) -> Tensor:
    """As one dense matrix, multiplied out inside the graph. (..., inputs) -> (..., outputs)."""
    return ops.matmul(x, _rounded(fold(wiring, weights), x))


def block_factors(wiring: Wiring, weights: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """The factors' blocks, each (H, L, I, O): block (h, l) maps the inputs (h, :, l) to the outputs (h, :, l).

    Built by broadcast multiplies that double the mixed bits a stage at a time, about 2 N R multiplies a factor.
    """
    gadgets, grouped = stage_gadgets(wiring, weights), fusion.factors(wiring, tuple(counts))
    if wiring.increasing:
        blocks = [_block_factor(gadgets, factor) for factor in grouped]
    else:
        # The stages of a transpose, read backwards with i and o swapped, are an increasing butterfly's.
        gadgets = [ops.transpose(gadget, (0, 2, 1, 3)) for gadget in reversed(gadgets)]
        mirrored = fusion.factors(wiring.transpose(), tuple(counts)[::-1])
        blocks = [ops.transpose(_block_factor(gadgets, factor), (0, 1, 3, 2)) for factor in reversed(mirrored)]
    return [block[: factor.high, :, : factor.inputs, : factor.outputs] for block, factor in zip(blocks, grouped, strict=True)]


def fold(wiring: Wiring, weights: Tensor) -> Tensor:
    """The equivalent dense matrix, (inputs, outputs), with y = x @ matrix.

    Starts at the narrower end, where few nodes are known, and doubles their reach stage by stage: one gather of about 2 ell N
    weights, ell the width of the narrower end, and as many multiplies.
    """
    walk = wiring.fold_walk
    matrix = ops.ones((walk.width, 1), dtype=weights.dtype)
    if walk.steps:
        gathered = ops.take(_with_zero(wiring, weights), walk.index)
        parts = ops.split(gathered, walk.splits) if walk.splits else [gathered]
        for part, step in zip(parts, walk.steps, strict=True):
            matrix = ops.expand_dims(matrix, 2 if step.append else 1) * ops.reshape(part, step.shape)
            matrix = ops.reshape(matrix, (walk.width, -1))
    if walk.from_outputs:
        return ops.transpose(_columns(matrix, wiring.inputs, wiring.size))
    return _columns(matrix, wiring.outputs, wiring.size)


def kernel(wiring: Wiring, weights: Tensor) -> Tensor:
    """The equivalent dense matrix, (inputs, outputs), by whichever of folding and block factors costs less."""
    if fusion.folds(wiring):
        return fold(wiring, weights)
    return apply_factors(ops.eye(len(wiring.inputs), dtype=weights.dtype), wiring, weights, fusion.best_counts(wiring))


def stage_gadgets(wiring: Wiring, weights: Tensor) -> list[Tensor]:
    """Per stage the untruncated butterfly's gadgets, (N / 2s, 2, 2, s) in (h, i, o, l) order; pruned edges are zero."""
    if not wiring.strides:
        return []
    if not wiring.full:
        weights = ops.take(_with_zero(wiring, weights), wiring.edge_index.ravel())
    stages = ops.reshape(weights, (len(wiring.strides), 2 * wiring.size))
    return [ops.reshape(stages[t], (wiring.size // (2 * stride), 2, 2, stride)) for t, stride in enumerate(wiring.strides)]


def _with_zero(wiring: Wiring, weights: Tensor) -> Tensor:
    """The weights with the zero appended that missing edges point to."""
    if wiring.full or not wiring.strides:
        return weights
    return ops.concatenate([weights, ops.zeros((1,), dtype=weights.dtype)])


def _rounded(weights: Tensor, x: Tensor) -> Tensor:
    return weights if weights.dtype == x.dtype else ops.cast(weights, x.dtype)


def place_inputs(x: Tensor, wiring: Wiring, size: int) -> Tensor:
    """(B, inputs) -> (B, size): every input at its node, zeros elsewhere."""
    count = len(wiring.inputs)
    if wiring.inputs == tuple(range(count)):
        return x if count == size else ops.pad(x, ((0, 0), (0, size - count)))
    position = np.full(size, count, np.int32)
    position[list(wiring.inputs)] = np.arange(count)
    return ops.take(ops.pad(x, ((0, 0), (0, 1))), position, axis=-1)


def read_outputs(x: Tensor, wiring: Wiring, size: int) -> Tensor:
    """(B, size) -> (B, outputs)."""
    return _columns(x, wiring.outputs, size)


def _regroup(x: Tensor, factor: fusion.Factor) -> Tensor:
    """(H, L, B, O) as the previous factor left it -> (H, L, B, I) of `factor`."""
    high, low, _, out = x.shape
    if factor.low > low:  # increasing strides: the new mixed bits are the low bits of H
        x = ops.reshape(x, (factor.high, factor.inputs, low, -1, out))
        x = ops.transpose(x, (0, 4, 2, 3, 1))  # (H', O, L, B, I')
    else:  # decreasing strides: the new mixed bits are the high bits of L
        x = ops.reshape(x, (high, factor.inputs, factor.low, -1, out))
        x = ops.transpose(x, (0, 4, 2, 3, 1))  # (H, O, L', B, I')
    return ops.reshape(x, (factor.high, factor.low, -1, factor.inputs))


def _block_factor(gadgets: list[Tensor], factor: fusion.Factor) -> Tensor:
    """Multiplies out `factor` of an increasing butterfly. -> (H, L, I, O)"""
    # product[(h a), i, o, l]: from the bits i mixed so far to the same bits o, at the bits a still to be mixed.
    product = gadgets[factor.first]
    for done in range(1, factor.count):
        gadget, mixed = gadgets[factor.first + done], 1 << done
        rows = gadget.shape[0]
        product = ops.reshape(product, (rows, 2, mixed, 1, mixed, factor.low))
        gadget = ops.reshape(gadget, (rows, 2, 1, 2, mixed, factor.low))
        product = ops.reshape(product * gadget, (rows, 2 * mixed, 2 * mixed, factor.low))
    return ops.transpose(product, (0, 3, 1, 2))


def _columns(rows: Tensor, nodes: tuple[int, ...], size: int) -> Tensor:
    if nodes == tuple(range(len(nodes))):
        return rows if len(nodes) == size else rows[:, : len(nodes)]
    return ops.take(rows, np.array(nodes, np.int32), axis=1)
