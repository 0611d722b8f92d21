"""Lowerings that write a butterfly stage by stage: no larger than its effective weights, but many operators."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.layers.butterfly import Butterfly
from keras_butterfly.structure import kernels
from keras_butterfly.structure.wiring import Wiring

from .lowering import Affine, Lowering, Part, PartByPart, Work, has_stages, plus, unflatten


@dataclass(frozen=True)
class Gather(PartByPart):
    """Each stage by GATHER, MUL and ADD, on the effective nodes alone. XNNPACK does not run GATHER."""

    kind = "gather"

    def stack(self, wiring: Wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        weights = np.append(weights, np.zeros(1, weights.dtype))

        def affine(x):
            for index, stage in enumerate(wiring.stages):
                with tf.name_scope(f"stage_{index}"):
                    straight = _take(x, stage.straight) * weights[stage.straight_weight]
                    x = straight + _take(x, stage.cross) * weights[stage.cross_weight]
            return plus(x, bias)

        return affine

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        wiring, stages = butterfly.wiring, len(butterfly.wiring.strides)
        weights = 4 * 2 * wiring.effective_weights
        return Counter({"gathers": stages, "gathered": stages * rows * wiring.size, "weights": weights})


@dataclass(frozen=True)
class Slice(PartByPart):
    """Each stage by slices swapped by CONCATENATION, MUL and ADD, on all N nodes. XNNPACK runs all of it."""

    kind = "slice"

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator[Lowering]:
        if any(map(has_stages, parts)):
            yield cls()

    def stack(self, wiring: Wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        gadgets = [ops.convert_to_numpy(gadget) for gadget in kernels.stage_gadgets(wiring, ops.convert_to_tensor(weights))]
        straight = [np.stack([gadget[:, 0, 0], gadget[:, 1, 1]], axis=1).ravel() for gadget in gadgets]
        cross = [np.stack([gadget[:, 1, 0], gadget[:, 0, 1]], axis=1).ravel() for gadget in gadgets]

        def affine(x):
            nodes = kernels.place_inputs(tf.reshape(x, (-1, len(wiring.inputs))), wiring, wiring.size)
            for index, stride in enumerate(wiring.strides):
                with tf.name_scope(f"stage_{index}"):
                    pairs = tf.reshape(nodes, (-1, wiring.size // (2 * stride), 2, stride))
                    swapped = tf.reshape(tf.concat([pairs[:, :, 1:], pairs[:, :, :1]], axis=2), (-1, wiring.size))
                    nodes = nodes * straight[index] + swapped * cross[index]
            return unflatten(plus(kernels.read_outputs(nodes, wiring, wiring.size), bias), x.shape)

        return affine

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        size, stages = butterfly.wiring.size, len(butterfly.wiring.strides)
        return Counter({"stages": stages, "stage values": stages * rows * size, "weights": 4 * 2 * size * stages})


def _take(x, index: np.ndarray):
    return x if np.array_equal(index, np.arange(x.shape[-1])) else tf.gather(x, index, axis=-1)
