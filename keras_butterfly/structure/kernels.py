"""Functions on `keras.ops` that compute a butterfly's map: stage by stage, by block factors, or folded into one matrix.

All compute the same linear map and are differentiable in the input and in the weights. Arguments:
    x        (..., inputs) float tensor
    weights  (effective weights,) float tensor, in the order that `wiring` defines. Its dtype is that of x or a wider one.
             Factors and matrices are multiplied out in the dtype of the weights, then rounded to that of x.
Axis letters, beside those of `wiring` (h, i, o, l) and `fusion` (H, R, L): B batch, I and O the mixed digits of a factor at its
input and its output, N nodes, m stages, r the radix of a stage.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from . import fusion
from .wiring import Wiring

Tensor = Any


def plan_apply(wiring: Wiring, implementation: str) -> Callable[..., Tensor]:
    """Return the function `apply(x, weights=weights)` that computes the map of `wiring`.

    Args:
        wiring: the structure.
        implementation: "gather" chooses `apply_stages`. Any other value chooses `apply_folded` or `apply_factors`, whichever
            is estimated to cost less.
    """
    if implementation == "gather":
        return partial(apply_stages, wiring=wiring)
    if fusion.folds(wiring):
        return partial(apply_folded, wiring=wiring)
    return partial(apply_factors, wiring=wiring, factors=fusion.best_factors(wiring))


def plan_kernel(wiring: Wiring) -> Callable[[Tensor], Tensor]:
    """Return the function weights -> matrix that computes the dense matrix, (inputs, outputs), with y = x @ matrix.

    The function folds the stages or multiplies out block factors, whichever is estimated to cost less.
    """
    if fusion.folds(wiring):
        return partial(fold, wiring)
    return partial(_multiply_factors, wiring, fusion.best_factors(wiring))


def apply_stages(x: Tensor, wiring: Wiring, weights: Tensor) -> Tensor:
    """Compute the map stage by stage, (..., inputs) -> (..., outputs). This is the reference.

    Each stage gathers r values for each effective node and multiplies them by the weights: r multiply-adds per effective node
    and stage.
    """
    weights = _rounded(_with_zero(wiring, weights), x)
    for stage in wiring.stages:
        terms = [
            ops.take(x, source, axis=-1) * ops.take(weights, weight)
            for source, weight in zip(stage.sources, stage.weights, strict=True)
        ]
        x = sum(terms[1:], terms[0])
    return x


def apply_factors(x: Tensor, wiring: Wiring, weights: Tensor, factors: Sequence[fusion.Factor]) -> Tensor:
    """Compute the map by one batched matmul for each of `factors`, (..., inputs) -> (..., outputs)."""
    if not factors:  # a single node is joined to itself, without a weight
        return x
    leading = ops.shape(x)[:-1]
    x = place_inputs(ops.reshape(x, (-1, len(wiring.inputs))), wiring, factors[0].nodes_in)
    # Between two factors a single transpose turns the output of one matmul into the input of the next.
    for factor, blocks in zip(factors, block_factors(wiring, weights, factors), strict=True):
        if factor.first == 0:
            x = ops.reshape(x, (-1, factor.high, factor.inputs, factor.low))
            x = ops.transpose(x, (1, 3, 0, 2))  # (H, L, B, I)
        else:
            x = _regroup(x, factor)
        x = ops.matmul(x, _rounded(blocks, x))  # (H, L, B, O)
    x = ops.reshape(ops.transpose(x, (2, 0, 3, 1)), (-1, factors[-1].nodes_out))  # (B, H O L)
    return ops.reshape(read_outputs(x, wiring, factors[-1].nodes_out), (*leading, len(wiring.outputs)))


def apply_folded(x: Tensor, wiring: Wiring, weights: Tensor) -> Tensor:
    """Fold the stages into one dense matrix and multiply by it, (..., inputs) -> (..., outputs)."""
    return ops.matmul(x, _rounded(fold(wiring, weights), x))


def block_factors(wiring: Wiring, weights: Tensor, factors: Sequence[fusion.Factor]) -> list[Tensor]:
    """Multiply out the blocks of each of `factors`, as tensors (H, L, I, O).

    Block (h, l) maps the inputs (h, :, l) to the outputs (h, :, l). The blocks grow by broadcast multiplies, a stage at a
    time, with about 2 N R multiplies for each factor.
    """
    gadgets = stage_gadgets(wiring, weights)
    blocks = []
    for factor in factors:
        stages = gadgets[factor.first : factor.first + factor.count]
        if wiring.increasing:
            block = _multiply_stages(stages, factor.low)
        else:
            # Stages of decreasing strides, read backwards with i and o swapped, are stages of increasing strides.
            stages = [ops.transpose(gadget, (0, 2, 1, 3)) for gadget in reversed(stages)]
            block = ops.transpose(_multiply_stages(stages, factor.low), (0, 1, 3, 2))
        blocks.append(block[: factor.high, :, : factor.inputs, : factor.outputs])
    return blocks


def fold(wiring: Wiring, weights: Tensor) -> Tensor:
    """Fold the stages into the dense matrix, (inputs, outputs), with y = x @ matrix.

    The matrix grows from the narrower end of width ell, a stage at a time. That takes one gather of about 2 ell N weights,
    and as many multiplies.
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


def stage_gadgets(wiring: Wiring, weights: Tensor) -> list[Tensor]:
    """Return the gadgets of each stage of the untruncated butterfly, as tensors (N / (r s), r, r, s) in (h, i, o, l) order.

    Edges that are not effective have the weight zero.
    """
    if not wiring.strides:
        return []
    if not wiring.full:
        weights = ops.take(_with_zero(wiring, weights), np.concatenate(wiring.edge_index))
    edges = [radix * wiring.size for radix in wiring.radices]
    stages = ops.split(weights, np.cumsum(edges)[:-1].tolist()) if len(edges) > 1 else [weights]
    return [
        ops.reshape(stage, (wiring.size // (radix * stride), radix, radix, stride))
        for stage, radix, stride in zip(stages, wiring.radices, wiring.strides, strict=True)
    ]


def _with_zero(wiring: Wiring, weights: Tensor) -> Tensor:
    """Append the zero to the weights that the edges without a weight point to."""
    if wiring.full or not wiring.strides:
        return weights
    return ops.concatenate([weights, ops.zeros((1,), dtype=weights.dtype)])


def _rounded(weights: Tensor, x: Tensor) -> Tensor:
    """Return the weights in the dtype of `x`."""
    return weights if weights.dtype == x.dtype else ops.cast(weights, x.dtype)


def place_inputs(x: Tensor, wiring: Wiring, size: int) -> Tensor:
    """Put every input at its node and zeros at the other nodes, (B, inputs) -> (B, size)."""
    count = len(wiring.inputs)
    if wiring.inputs == tuple(range(count)):
        return x if count == size else ops.pad(x, ((0, 0), (0, size - count)))
    position = np.full(size, count, np.int32)
    position[list(wiring.inputs)] = np.arange(count)
    return ops.take(ops.pad(x, ((0, 0), (0, 1))), position, axis=-1)


def read_outputs(x: Tensor, wiring: Wiring, size: int) -> Tensor:
    """Take every output from its node, (B, size) -> (B, outputs)."""
    return _columns(x, wiring.outputs, size)


def _regroup(x: Tensor, factor: fusion.Factor) -> Tensor:
    """Rearrange the outputs of the previous factor, (H, L, B, O), to the inputs of `factor`, (H, L, B, I)."""
    high, low, _, out = x.shape
    if factor.low > low:  # increasing strides: the new mixed digits are the low digits of H
        x = ops.reshape(x, (factor.high, factor.inputs, low, -1, out))
        x = ops.transpose(x, (0, 4, 2, 3, 1))  # (H', O, L, B, I')
    else:  # decreasing strides: the new mixed digits are the high digits of L
        x = ops.reshape(x, (high, factor.inputs, factor.low, -1, out))
        x = ops.transpose(x, (0, 4, 2, 3, 1))  # (H, O, L', B, I')
    return ops.reshape(x, (factor.high, factor.low, -1, factor.inputs))


def _multiply_factors(wiring: Wiring, factors: Sequence[fusion.Factor], weights: Tensor) -> Tensor:
    """Multiply the block factors out to the dense matrix, (inputs, outputs)."""
    return apply_factors(ops.eye(len(wiring.inputs), dtype=weights.dtype), wiring, weights, factors)


def _multiply_stages(gadgets: list[Tensor], low: int) -> Tensor:
    """Multiply consecutive stages of increasing strides out to blocks (H, L, I, O), `low` the smallest stride.

    Args:
        gadgets: of each stage a tensor (h, i, o, l).
        low: the smallest stride, L.
    """
    # product[(h, a), i, o, l] maps the value i of the digits mixed so far to their value o. The digits a are mixed later.
    product = gadgets[0]
    for gadget in gadgets[1:]:
        rows, radix, mixed = gadget.shape[0], gadget.shape[1], product.shape[1]
        product = ops.reshape(product, (rows, radix, mixed, 1, mixed, low))
        gadget = ops.reshape(gadget, (rows, radix, 1, radix, mixed, low))
        product = ops.reshape(product * gadget, (rows, radix * mixed, radix * mixed, low))
    return ops.transpose(product, (0, 3, 1, 2))


def _columns(rows: Tensor, nodes: tuple[int, ...], size: int) -> Tensor:
    """Take the columns `nodes` of `rows`, (B, size) -> (B, nodes)."""
    if nodes == tuple(range(len(nodes))):
        return rows if len(nodes) == size else rows[:, : len(nodes)]
    return ops.take(rows, np.array(nodes, np.int32), axis=1)
