"""A catalogue of layers that covers their arguments, and helpers of the tests of layers."""

import re

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope

# name -> (size of the input's last axis, layer, its arguments). Seeds are fixed so that rebuilt layers are equal.
CATALOGUE = {
    "one node": (1, Butterfly, {}),
    "square": (8, Butterfly, {"seed": 1}),
    "square in block factors": (64, Butterfly, {"seed": 1, "use_bias": False}),
    "padded in block factors": (61, Butterfly, {"units": 59, "seed": 1, "transposed": True, "truncation": "random"}),
    "prime": (13, Butterfly, {"seed": 2, "kernel_initializer": "orthogonal"}),
    "prime, given nodes": (5, Butterfly, {"seed": 2, "truncation": [7, 0, 3, 5, 6]}),
    "truncated": (16, Butterfly, {"units": 5, "seed": 3, "truncation": "random", "bias_initializer": "ones"}),
    "truncated transposed": (16, Butterfly, {"units": 5, "seed": 3, "transposed": True, "activation": "tanh"}),
    "truncated to given nodes": (16, Butterfly, {"truncation": [9, 0, 14], "units": 3, "seed": 4, "use_bias": False}),
    "truncated to the first": (13, Butterfly, {"units": 6, "seed": 4, "bias_initializer": "ones"}),
    "truncated to one": (9, Butterfly, {"units": 1, "seed": 4}),
    "expanded": (5, Butterfly, {"units": 12, "seed": 5, "truncation": "random"}),
    "expanded from the first": (5, Butterfly, {"units": 12, "seed": 5, "use_bias": False}),
    "expanded within a power of two": (9, Butterfly, {"units": 14, "seed": 5, "truncation": "random"}),
    "stacked": (12, Butterfly, {"units": 7, "seed": 6, "stacks": 3, "truncation": "random", "use_bias": False}),
    "radix 2": (16, Butterfly, {"units": 13, "radix": 2, "seed": 6}),
    "radix 2 in block factors": (61, Butterfly, {"units": 59, "radix": 2, "seed": 1, "truncation": "random"}),
    "radices without padding": (12, Butterfly, {"radix": (3, 4), "seed": 6, "truncation": "random", "units": 10}),
    "radices in block factors": (60, Butterfly, {"radix": (3, 4, 5), "seed": 6, "transposed": True, "units": 48}),
    "automatic radices": (20, Butterfly, {"radix": "auto", "seed": 6, "stacks": 2, "units": 31}),
    "plus low rank": (12, Butterfly, {"units": 9, "rank": 3, "seed": 6, "stacks": 2, "activation": "tanh"}),
    "with an lr_multiplier": (16, Butterfly, {"units": 6, "seed": 6, "lr_multiplier": 0.25}),
    "keras initializer": (8, Butterfly, {"seed": 6, "kernel_initializer": keras.initializers.RandomNormal(seed=1)}),
    "dense, narrowing": (20, ButterflyDense, {"units": 3, "seed": 7, "activation": "softmax"}),
    "dense, widening": (3, ButterflyDense, {"units": 20, "k1": 2, "seed": 7, "bias_initializer": "ones"}),
    "dense, full width": (8, ButterflyDense, {"units": 8, "k1": 8, "k2": 8, "seed": 8, "use_bias": False}),
    "dense, one unit": (7, ButterflyDense, {"units": 1, "truncation": "first", "seed": 8, "lr_multiplier": 3.0}),
    "dense from one feature": (1, ButterflyDense, {"units": 4, "seed": 8}),
    "dense with lora": (9, ButterflyDense, {"units": 5, "k1": 4, "k2": 3, "lora_rank": 2, "seed": 8}),
    "decreasing strides": (16, Butterfly, {"units": 5, "order": "decreasing", "seed": 5}),
    "increasing strides, expanding": (5, Butterfly, {"units": 12, "order": "increasing", "seed": 5}),
    "product": (8, Kaleidoscope, {"seed": 3, "bias_initializer": "ones", "activation": "relu"}),
    "long product, expanded": (6, Kaleidoscope, {"units": 5, "width": 2, "expansion": 2, "seed": 3, "use_bias": False}),
    "product of radix 4": (10, Kaleidoscope, {"units": 5, "radix": 4, "seed": 3}),
    "dense, radix 4": (20, ButterflyDense, {"units": 13, "k1": 5, "radix": 4, "seed": 9}),
    "dense, orthogonal": (6, ButterflyDense, {"units": 5, "seed": 9, "butterfly_initializer": "orthogonal"}),
}


# Names of a few layers, for tests in which tracing or compiling takes long.
FEW = ["one node", "padded in block factors", "truncated", "expanded", "stacked", "dense, narrowing", "product"]


def make(name, **changes):
    """Return a new layer of the catalogue, not built."""
    _, cls, arguments = CATALOGUE[name]
    if cls is ButterflyDense:
        arguments = {"kernel_initializer": keras.initializers.GlorotUniform(seed=1), **arguments}
    return cls(**{**arguments, **changes})


def build(name, **changes):
    """Return a new layer of the catalogue, built for its input size."""
    layer = make(name, **changes)
    layer.build((None, CATALOGUE[name][0]))
    return layer


def butterflies(layer):
    """Return the butterflies of which a layer consists."""
    if isinstance(layer, Kaleidoscope):
        return layer.butterflies
    return [layer] if isinstance(layer, Butterfly) else [layer.j1, layer.j2_t]


def draw(rng, name, leading=(5,)):
    """Return random inputs for a layer of the catalogue."""
    return rng.standard_normal((*leading, CATALOGUE[name][0])).astype("float32")


def close(found, expected):
    """Assert that two arrays are equal up to float32 round-off."""
    expected = keras.ops.convert_to_numpy(expected)
    scale = max(1.0, np.abs(expected).max()) if expected.size else 1.0
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-5 * scale)


numpy = keras.ops.convert_to_numpy


def raises(message):
    """Expect a ValueError whose message contains `message`."""
    return pytest.raises(ValueError, match=re.escape(message))


def squares(weights):
    """Return the sum of the squares of the weights."""
    return float(np.sum(np.square(numpy(weights))))


both = pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
