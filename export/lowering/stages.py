"""Lowerings that write a butterfly stage by stage: no larger than its effective weights, but many operators."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.layers.butterfly import Butterfly
from keras_butterfly.structure import kernels
from keras_butterfly.structure.wiring import Wiring

from .lowering import Affine, Lowering, Part, PartByPart, Work, has_stages, plus, unflatten

# The number of operators of a stage by slices grows with the radix. Above this one it is not worth a measurement.
MAX_RADIX = 4


@dataclass(frozen=True)
class Gather(PartByPart):
    """Each stage by GATHER, MUL and ADD, on the effective nodes alone. XNNPACK does not run GATHER."""

    kind = "gather"

    def stack(self, wiring: Wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        weights = np.append(weights, np.zeros(1, weights.dtype))

        def affine(x):
            for index, stage in enumerate(wiring.stages):
                with tf.name_scope(f"stage_{index}"):
                    pairs = zip(stage.sources, stage.weights, strict=True)
                    x = reduce(tf.add, [_take(x, source) * weights[weight] for source, weight in pairs])
            return plus(x, bias)

        return affine

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        # Of the r values that a node takes, one mostly lies at its own place.
        wiring, gathers = butterfly.wiring, sum(radix - 1 for radix in butterfly.wiring.radices)
        weights = 4 * 2 * wiring.effective_weights
        return Counter({"gathers": gathers, "gathered": gathers * rows * wiring.size, "weights": weights})


@dataclass(frozen=True)
class Slice(PartByPart):
    """Each stage by slices rotated by CONCATENATION, MUL and ADD, on all N nodes. XNNPACK runs all of it."""

    kind = "slice"

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator[Lowering]:
        radices = [radix for part in parts if has_stages(part) for radix in part.wiring.radices]
        if radices and max(radices) <= MAX_RADIX:
            yield cls()

    def stack(self, wiring: Wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        gadgets = [ops.convert_to_numpy(gadget) for gadget in kernels.stage_gadgets(wiring, ops.convert_to_tensor(weights))]
        stage_weights = [_by_rotation(gadget) for gadget in gadgets]

        def affine(x):
            nodes = kernels.place_inputs(tf.reshape(x, (-1, len(wiring.inputs))), wiring, wiring.size)
            for index, (radix, stride, rotations) in enumerate(zip(wiring.radices, wiring.strides, stage_weights, strict=True)):
                with tf.name_scope(f"stage_{index}"):
                    gadgets = tf.reshape(nodes, (-1, wiring.size // (radix * stride), radix, stride))
                    total = nodes * rotations[0]
                    for k in range(1, radix):
                        rotated = tf.concat([gadgets[:, :, k:], gadgets[:, :, :k]], axis=2)
                        total += tf.reshape(rotated, (-1, wiring.size)) * rotations[k]
                    nodes = total
            return unflatten(plus(kernels.read_outputs(nodes, wiring, wiring.size), bias), x.shape)

        return affine

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        size, radices = butterfly.wiring.size, butterfly.wiring.radices
        rotations = sum(radix - 1 for radix in radices)
        return Counter({"stages": rotations, "stage values": rotations * rows * size, "weights": 4 * size * sum(radices)})


def _by_rotation(gadgets: np.ndarray) -> list[np.ndarray]:
    """Return for k = 0 .. r - 1 the weights (N,) by which each node multiplies the value k digits above its own."""
    digits = np.arange(gadgets.shape[1])
    return [gadgets[:, (digits + k) % len(digits), digits].ravel() for k in range(len(digits))]


def _take(x, index: np.ndarray):
    return x if np.array_equal(index, np.arange(x.shape[-1])) else tf.gather(x, index, axis=-1)
