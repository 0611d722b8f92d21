"""Lowerings: the same affine map written in TFLite's built-in operators, with all weights folded to constants.

A `Lowering` names one; `lower(layer, lowering)` gives the function on TensorFlow tensors that takes the layer's place while
the model is traced. Its operators carry the layer's name: "dense_1/butterfly/factor_0/...".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.structure import fusion, kernels
from keras_butterfly.structure.wiring import Wiring

from . import layout as layouts
from . import stages
from .factors import OPERATORS
from .layout import BATCH, Layout

Layer = Butterfly | ButterflyDense
Affine = Callable[[Any], Any]

KINDS = ("gather", "slice", "fused", "folded", "dense")
# The scope of a layer's operators by `Lowering.keep_float32`, from which quantization knows what to leave in float32.
SCOPES = {"": "butterfly", "arithmetic": "butterfly_float32", "weights": "butterfly_float32_weights"}


@dataclass(frozen=True)
class Lowering:
    """One way to write a layer's affine map.

    Attributes:
        kind: "gather": stage by stage; GATHER, MUL, ADD. "slice": the same by slices and CONCATENATION.
            "fused": block factors, each by an operator of `factors.OPERATORS`.
            "folded": `ButterflyDense` as two thin FULLY_CONNECTED n1 -> min(k1, k2) -> n2; `Butterfly` as one.
            "dense": one FULLY_CONNECTED with the whole kernel.
        counts: stages in each factor of a fused `Butterfly`, of a `ButterflyDense` those of J1 and then those of J2^T; empty:
            `fusion.best_counts`.
        operators: of each factor, "conv", "matmul", "split" or "sum"; empty: "conv" for all.
        width: for a folded `ButterflyDense`, the columns that its first product computes, the surplus over the rank being
            zeros that are sliced off. 0: none. On AVX2 10 columns have been seen to take 1.7 times as long as 16.
        keep_float32: what stays in float32 inside a quantized model. "arithmetic": the layer computes in float32 from weights
            stored in int8. "weights": those are in float32 too, in an int8 model. "": nothing.
    """

    kind: str
    counts: tuple[int, ...] = ()
    operators: tuple[str, ...] = ()
    width: int = 0
    keep_float32: str = ""

    def grouping(self, wiring: Wiring) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Stages and operator of each factor of a fused butterfly, the defaults filled in."""
        counts = self.counts or fusion.best_counts(wiring)
        return counts, self.operators or ("conv",) * len(counts)

    def __str__(self) -> str:
        kept = {"": "", "arithmetic": "in float32 from int8", "weights": "in float32"}[self.keep_float32]
        return " ".join(part for part in (self.kind, self._detail(), kept) if part)

    def _detail(self) -> str:
        if self.width:
            return f"through {self.width}"
        operators = self.operators or ("",) * len(self.counts)
        return ", ".join(f"{1 << count} {operator}".strip() for count, operator in zip(self.counts, operators, strict=True))


def lower(layer: Layer, lowering: Lowering) -> Affine:
    """The layer's linear map and bias, without activation, as a function (..., n) -> (..., units) on float tensors."""
    bias = None if layer.bias is None else ops.convert_to_numpy(layer.bias)
    affine = _affine(layer, lowering, bias)
    scope = f"{_scope(layer.name)}/{SCOPES[lowering.keep_float32]}/"

    def scoped(x):
        with tf.name_scope(scope):  # the slash at the end makes it the whole name, wherever in the model the layer sits
            return affine(x)

    return scoped


def _scope(name: str) -> str:
    """A layer's name as TensorFlow takes it for the first part of an operator's: letters, digits, and no underscore first."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_-") or "layer"


def _affine(layer: Layer, lowering: Lowering, bias: np.ndarray | None) -> Affine:
    if lowering.kind == "dense":
        return _product(ops.convert_to_numpy(layer.kernel), bias)
    if isinstance(layer, ButterflyDense):
        return _sandwich(layer, lowering, bias)
    return _butterfly(layer, lowering, bias)


def _sandwich(layer: ButterflyDense, lowering: Lowering, bias: np.ndarray | None) -> Affine:
    middle = ops.convert_to_numpy(layer.middle_kernel)
    if lowering.kind == "folded":
        j1, j2_t = (ops.convert_to_numpy(butterfly.kernel) for butterfly in (layer.j1, layer.j2_t))
        # W' goes to the side that leaves the thinner middle.
        first, second = (j1, middle @ j2_t) if middle.shape[0] <= middle.shape[1] else (j1 @ middle, j2_t)
        return _thin(first, second, lowering.width, bias)
    of_j1, of_j2_t = halves(layer, lowering)
    j1, j2_t = _butterfly(layer.j1, of_j1, None), _butterfly(layer.j2_t, of_j2_t, bias)
    return _in_turn({"j1": j1, "middle": _product(middle), "j2_t": j2_t})


def halves(layer: ButterflyDense, lowering: Lowering) -> tuple[Lowering, Lowering]:
    """The lowerings of J1 and J2^T, whose factors `lowering` lists one after the other."""
    stages_of_j1, first = len(layer.j1.wiring.strides), 0
    while sum(lowering.counts[:first]) < stages_of_j1 and first < len(lowering.counts):
        first += 1
    return (
        replace(lowering, counts=lowering.counts[:first], operators=lowering.operators[:first]),
        replace(lowering, counts=lowering.counts[first:], operators=lowering.operators[first:]),
    )


def _butterfly(layer: Butterfly, lowering: Lowering, bias: np.ndarray | None) -> Affine:
    wiring = layer.wiring
    if lowering.kind == "folded" or not wiring.strides:
        return _product(ops.convert_to_numpy(layer.kernel), bias)
    lowered = {"gather": _gather, "slice": _slice, "fused": _fused}[lowering.kind]
    first, *others = ops.convert_to_numpy(layer.gadget_weights)
    stacks = [lowered(wiring, first, lowering, bias), *(lowered(wiring, weights, lowering, None) for weights in others)]
    return stacks[0] if len(stacks) == 1 else _added(stacks)


def _gather(wiring: Wiring, weights: np.ndarray, _, bias: np.ndarray | None) -> Affine:
    gathered = stages.gather(wiring, weights)
    return lambda x: _plus(gathered(x), bias)


def _slice(wiring: Wiring, weights: np.ndarray, _, bias: np.ndarray | None) -> Affine:
    sliced = stages.slice_(wiring, weights)

    def affine(x):
        flat = kernels.place_inputs(tf.reshape(x, (-1, len(wiring.inputs))), wiring, wiring.size)
        return _unflatten(_plus(kernels.read_outputs(sliced(flat), wiring, wiring.size), bias), x.shape)

    return affine


def _fused(wiring: Wiring, weights: np.ndarray, lowering: Lowering, bias: np.ndarray | None) -> Affine:
    counts, operators = lowering.grouping(wiring)
    factors = fusion.factors(wiring, counts)
    blocks = [ops.convert_to_numpy(block) for block in kernels.block_factors(wiring, ops.convert_to_tensor(weights), counts)]
    # The last factor adds the bias, before values move on to their own places: TFLite fuses it there.
    biases = [None] * (len(factors) - 1) + [_at_nodes(bias, wiring)]

    def affine(x):
        shape, batch = x.shape, _rows(x)
        entry = layouts.entry(factors)
        first = layouts.rotated(entry, factors[0].low) if operators[0] in ("conv", "split") else entry
        x, layout = _enter(tf.reshape(x, (-1, len(wiring.inputs))), wiring, first)
        for number, (operator, *constants) in enumerate(zip(operators, factors, blocks, biases, strict=True)):
            factor, block, added = constants
            with tf.name_scope(f"factor_{number}"):
                x, layout = OPERATORS[operator](x, layout, factor, block, batch, added)
        return _unflatten(_leave(x, layout, wiring, batch), shape)

    return affine


def _at_nodes(bias: np.ndarray | None, wiring: Wiring) -> np.ndarray | None:
    """The bias of each node's output, 0 where a node has none."""
    if bias is None:
        return None
    nodes = np.zeros(wiring.size, bias.dtype)
    nodes[list(wiring.outputs)] = bias
    return nodes


def _enter(x, wiring: Wiring, wanted: Layout) -> tuple[Any, Layout]:
    """Place the inputs (B, n) at the nodes of `wanted`, in that layout if a GATHER is needed anyway, else in natural order."""
    count, size = len(wiring.inputs), layouts.extent(wanted, 1)
    if wiring.inputs == tuple(range(count)):
        return kernels.place_inputs(x, wiring, size), layouts.natural(wanted)
    position = np.full(size, count, np.int32)
    position[list(wiring.inputs)] = np.arange(count)
    return tf.gather(tf.pad(x, ((0, 0), (0, 1))), position[layouts.nodes(wanted)], axis=-1), wanted


def _leave(x, layout: Layout, wiring: Wiring, batch: int | None):
    """Read the outputs (B, units) from nodes in `layout`. A GATHER needed anyway reads from where they lie."""
    count, size = len(wiring.outputs), layouts.extent(layout, 1)
    if wiring.outputs == tuple(range(count)):
        x = layouts.move(x, layout, layouts.natural(layout), batch)
        return kernels.read_outputs(tf.reshape(x, (-1, size)), wiring, size)
    if layout[0] != BATCH and batch != 1:
        x, layout = layouts.move(x, layout, layouts.natural(layout), batch), layouts.natural(layout)
    place = np.argsort(layouts.nodes(layout)).astype(np.int32)
    return tf.gather(tf.reshape(x, (-1, size)), place[list(wiring.outputs)], axis=-1)


def _product(matrix: np.ndarray, bias: np.ndarray | None = None) -> Affine:
    def affine(x):
        product = tf.linalg.matmul(x, tf.constant(matrix)) if x.shape.rank == 2 else tf.tensordot(x, tf.constant(matrix), 1)
        return _plus(product, bias)

    return affine


def _thin(first: np.ndarray, second: np.ndarray, width: int, bias: np.ndarray | None) -> Affine:
    """`x @ first @ second + bias`, with `first` padded by zero columns to `width`."""
    rank = first.shape[1]
    surplus = max(0, width - rank)
    widen, narrow = _product(np.pad(first, ((0, 0), (0, surplus)))), _product(second, bias)
    return lambda x: narrow(widen(x)[..., :rank] if surplus else widen(x))


def _plus(x, bias: np.ndarray | None):
    return x if bias is None else x + bias


def _in_turn(parts: dict[str, Affine]) -> Affine:
    def affine(x):
        for name, part in parts.items():
            with tf.name_scope(name):
                x = part(x)
        return x

    return affine


def _added(stacks: list[Affine]) -> Affine:
    def affine(x):
        terms = []
        for number, stack in enumerate(stacks):
            with tf.name_scope(f"stack_{number}"):
                terms.append(stack(x))
        return tf.add_n(terms)

    return affine


def _rows(x) -> int | None:
    """The number of rows of the last axis; None where it is unknown."""
    return None if None in x.shape[:-1] else int(np.prod(x.shape[:-1]))


def _unflatten(x, shape):
    """(B, units) -> (..., units), with the leading axes of `shape`, of which one may be unknown."""
    if len(shape) == 2:
        return x
    return tf.reshape(x, (*(-1 if axis is None else axis for axis in shape[:-1]), x.shape[-1]))
