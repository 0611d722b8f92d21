"""Lowerings: the same linear map written in TFLite's built-in operators, with all weights folded to constants.

A `Lowering` names one; `lower(layer, lowering)` gives the function on TensorFlow tensors that takes the layer's place while
the model is traced. Only operators that the XNNPACK delegate runs are used, except GATHER, which is what "gather" is for.
Axis letters as in `keras_butterfly.kernels`: B batch, H R L a factor's blocks, I and O its mixed bits, N nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly import Butterfly, ButterflyDense, fusion, kernels
from keras_butterfly.wiring import Wiring

Layer = Butterfly | ButterflyDense
Linear = Callable[[Any], Any]

KINDS = ("gather", "fused", "folded", "dense")
# Columns that XNNPACK's float kernels compute at a time, a multiple of what each instruction set takes.
LANES = 16


@dataclass(frozen=True)
class Lowering:
    """One way to write a layer's linear map.

    Attributes:
        kind: "gather": stage by stage; GATHER, MUL, ADD.
            "fused": block factors; one CONV_2D with groups, or one BATCH_MATMUL, a factor, and one TRANSPOSE between two.
            "folded": `ButterflyDense` as two thin FULLY_CONNECTED n1 -> min(k1, k2) -> n2; `Butterfly` as one.
            "dense": one FULLY_CONNECTED with the whole kernel.
        counts: stages in each factor of a fused `Butterfly`; empty: the grouping with the lowest estimated cost.
        operator: "conv" or "matmul", for "fused".
        width: for a folded `ButterflyDense`, the columns that its first product computes, the surplus over the rank being
            zeros that are sliced off. 0: none. On AVX2 10 columns have been seen to take 1.7 times as long as 16.
    """

    kind: str
    counts: tuple[int, ...] = ()
    operator: str = "conv"
    width: int = 0

    def __str__(self) -> str:
        if self.kind != "fused":
            return f"{self.kind} through {self.width}" if self.width else self.kind
        radices = "x".join(str(1 << count) for count in self.counts)
        return f"fused {radices} {self.operator}".replace("  ", " ")


def lower(layer: Layer, lowering: Lowering) -> Linear:
    """The layer's linear map, without bias and activation, as a function (..., n) -> (..., units) on float tensors."""
    if lowering.kind == "dense":
        return _matmuls(ops.convert_to_numpy(layer.kernel))
    if isinstance(layer, ButterflyDense):
        return _lower_sandwich(layer, lowering)
    return _lower_butterfly(layer, lowering)


def candidates(layer: Layer) -> list[Lowering]:
    """The lowerings worth measuring for `layer`, at least one; "gather", never the fastest, is not among them."""
    if isinstance(layer, ButterflyDense):
        rank = min(layer.middle_kernel.shape)
        n1, n2 = len(layer.j1.wiring.inputs), layer.units
        costs = {Lowering("folded"): (n1 + n2) * rank, Lowering("fused"): _fused_cost(layer), Lowering("dense"): n1 * n2}
        if rank % LANES:
            width = -(-rank // LANES) * LANES
            costs[Lowering("folded", width=width)] = n1 * width + n2 * rank
        return _affordable(costs)
    costs = {}
    for counts in _groupings(layer.wiring):
        cost = layer.stacks * sum(factor.multiply_adds for factor in fusion.factors(layer.wiring, counts))
        costs |= {Lowering("fused", counts, operator): cost for operator in ("conv", "matmul")}
    return _affordable({**costs, Lowering("dense"): len(layer.wiring.inputs) * len(layer.wiring.outputs)})


def _affordable(costs: dict[Lowering, int]) -> list[Lowering]:
    """Those within 16 times the fewest multiply-adds: a dense kernel has been seen to win at 6 times, never at 16."""
    return [lowering for lowering, cost in costs.items() if cost <= 16 * min(costs.values())]


def _groupings(wiring: Wiring) -> list[tuple[int, ...]]:
    """Balanced groupings into 2 to 4 factors of radix 4 to 128, the range in which one has been seen to win."""
    stages = len(wiring.strides)
    groupings = [fusion.balanced_counts(stages, groups) for groups in (2, 3, 4) if groups <= stages]
    return [counts for counts in groupings if min(counts) >= 2 and max(counts) <= 7]


def _fused_cost(layer: ButterflyDense) -> int:
    wirings = (layer.j1.wiring, layer.j2_t.wiring)
    return sum(factor.multiply_adds for w in wirings for factor in fusion.factors(w, fusion.best_counts(w)))


def _lower_sandwich(layer: ButterflyDense, lowering: Lowering) -> Linear:
    middle = ops.convert_to_numpy(layer.middle_kernel)
    if lowering.kind == "folded":
        j1, j2_t = (ops.convert_to_numpy(butterfly.kernel) for butterfly in (layer.j1, layer.j2_t))
        # W' goes to the side that leaves the thinner middle.
        first, second = (j1, middle @ j2_t) if middle.shape[0] <= middle.shape[1] else (j1 @ middle, j2_t)
        return _thin(first, second, lowering.width)
    first, second = _lower_butterfly(layer.j1, lowering), _lower_butterfly(layer.j2_t, lowering)
    between = _matmuls(middle)
    return lambda x: second(between(first(x)))


def _lower_butterfly(layer: Butterfly, lowering: Lowering) -> Linear:
    wiring = layer.wiring
    if lowering.kind == "folded" or not wiring.strides:
        return _matmuls(ops.convert_to_numpy(layer.kernel))
    gadgets = ops.convert_to_numpy(layer.gadget_weights)
    if lowering.kind == "gather":
        stacks = [_stages(wiring, weights) for weights in gadgets]
    else:
        counts = lowering.counts or fusion.best_counts(wiring)
        multiply = {"conv": _grouped_conv, "matmul": _batch_matmul}[lowering.operator]
        stacks = [_factors(wiring, weights, counts, multiply) for weights in gadgets]
    return lambda x: tf.add_n([linear(x) for linear in stacks]) if len(stacks) > 1 else stacks[0](x)


def _matmuls(*matrices: np.ndarray) -> Linear:
    def linear(x):
        for matrix in matrices:
            x = tf.linalg.matmul(x, tf.constant(matrix)) if x.shape.rank == 2 else tf.tensordot(x, tf.constant(matrix), 1)
        return x

    return linear


def _thin(first: np.ndarray, second: np.ndarray, width: int) -> Linear:
    """`x @ first @ second`, with `first` padded by zero columns to `width`."""
    rank = first.shape[1]
    if width <= rank:
        return _matmuls(first, second)
    widen, narrow = _matmuls(np.pad(first, ((0, 0), (0, width - rank)))), _matmuls(second)
    return lambda x: narrow(widen(x)[..., :rank])


def _stages(wiring: Wiring, weights: np.ndarray) -> Linear:
    weights = np.append(weights, np.zeros(1, weights.dtype))

    def take(x, index):
        return x if np.array_equal(index, np.arange(x.shape[-1])) else tf.gather(x, index, axis=-1)

    def linear(x):
        for stage in wiring.stages:
            straight = take(x, stage.straight) * weights[stage.straight_weight]
            x = straight + take(x, stage.cross) * weights[stage.cross_weight]
        return x

    return linear


def _factors(wiring: Wiring, weights: np.ndarray, counts: tuple[int, ...], multiply: Callable) -> Linear:
    factors = fusion.factors(wiring, counts)
    blocks = [ops.convert_to_numpy(block) for block in kernels.block_factors(wiring, ops.convert_to_tensor(weights), counts)]

    def linear(x):
        shape = x.shape
        x = tf.reshape(x, (-1, len(wiring.inputs)))
        x = kernels.place_inputs(x, wiring)
        previous = None
        for factor, block in zip(factors, blocks, strict=True):
            x = multiply(_regroup(x, previous, factor), block)  # (B, H L O)
            previous = factor
        last = factors[-1]
        if last.low > 1:
            x = tf.transpose(tf.reshape(x, (-1, last.high, last.low, last.radix)), (0, 1, 3, 2))
        x = kernels.read_outputs(tf.reshape(x, (-1, wiring.size)), wiring)
        return tf.reshape(x, (*(-1 if axis is None else axis for axis in shape[:-1]), len(wiring.outputs)))

    return linear


def _regroup(x, previous: fusion.Factor | None, factor: fusion.Factor):
    """(B, N), in natural order or as `previous` left it, (H L O) -> (B, H L I) of `factor`."""
    if previous is None:
        if factor.low > 1:
            x = tf.transpose(tf.reshape(x, (-1, factor.high, factor.radix, factor.low)), (0, 1, 3, 2))
    elif factor.low > previous.low:  # increasing strides: (B, (H' I') L O) -> (B, H' (O L) I')
        x = tf.reshape(x, (-1, factor.high, factor.radix, previous.low, previous.radix))
        x = tf.transpose(x, (0, 1, 4, 3, 2))
    else:  # decreasing strides: (B, H (I' L') O) -> (B, (H O) L' I')
        x = tf.reshape(x, (-1, previous.high, factor.radix, factor.low, previous.radix))
        x = tf.transpose(x, (0, 1, 4, 3, 2))
    return tf.reshape(x, (-1, factor.high * factor.low * factor.radix))


def _grouped_conv(x, blocks: np.ndarray):
    """One block-diagonal factor as a 1x1 CONV_2D with H L groups. (B, N) -> (B, N); blocks (H, L, I, O)."""
    size = x.shape[-1]
    radix = blocks.shape[-1]
    kernel = blocks.reshape(-1, radix, radix).transpose(1, 0, 2).reshape(1, 1, radix, size)
    x = tf.nn.conv2d(tf.reshape(x, (-1, 1, 1, size)), tf.constant(kernel), 1, "VALID")
    return tf.reshape(x, (-1, size))


def _batch_matmul(x, blocks: np.ndarray):
    """One block-diagonal factor as a BATCH_MATMUL over its H L blocks. (B, N) -> (B, N); blocks (H, L, I, O)."""
    size = x.shape[-1]
    radix = blocks.shape[-1]
    x = tf.transpose(tf.reshape(x, (-1, size // radix, radix)), (1, 0, 2))
    x = tf.linalg.matmul(x, tf.constant(blocks.reshape(-1, radix, radix)))
    return tf.reshape(tf.transpose(x, (1, 0, 2)), (-1, size))
