"""A butterfly stage by stage as TFLite operators: no larger than its effective weights, but many operators.

gather  GATHER, MUL, ADD on the effective nodes alone; GATHER is what XNNPACK does not run
slice   slices swapped by CONCATENATION, MUL, ADD on all N nodes; one XNNPACK partition
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.structure import kernels
from keras_butterfly.structure.wiring import Wiring

Linear = Callable[[Any], Any]


def gather(wiring: Wiring, weights: np.ndarray) -> Linear:
    """(..., inputs) -> (..., outputs)."""
    weights = np.append(weights, np.zeros(1, weights.dtype))

    def linear(x):
        for number, stage in enumerate(wiring.stages):
            with tf.name_scope(f"stage_{number}"):
                straight = _take(x, stage.straight) * weights[stage.straight_weight]
                x = straight + _take(x, stage.cross) * weights[stage.cross_weight]
        return x

    return linear


def slice_(wiring: Wiring, weights: np.ndarray) -> Linear:
    """(B, N) -> (B, N)."""
    gadgets = [ops.convert_to_numpy(gadget) for gadget in kernels.stage_gadgets(wiring, ops.convert_to_tensor(weights))]
    straight = [np.stack([gadget[:, 0, 0], gadget[:, 1, 1]], axis=1).ravel() for gadget in gadgets]
    cross = [np.stack([gadget[:, 1, 0], gadget[:, 0, 1]], axis=1).ravel() for gadget in gadgets]

    def linear(x):
        for number, stride in enumerate(wiring.strides):
            with tf.name_scope(f"stage_{number}"):
                pairs = tf.reshape(x, (-1, wiring.size // (2 * stride), 2, stride))
                swapped = tf.reshape(tf.concat([pairs[:, :, 1:], pairs[:, :, :1]], axis=2), (-1, wiring.size))
                x = x * straight[number] + swapped * cross[number]
        return x

    return linear


def _take(x, index: np.ndarray):
    return x if np.array_equal(index, np.arange(x.shape[-1])) else tf.gather(x, index, axis=-1)
