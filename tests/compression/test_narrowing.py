"""Dense networks made narrower, with the weights of their strongest units."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly.compression.narrowing import narrow, narrowable_layers, narrowed_widths


def test_a_network_whose_weak_units_are_zero_keeps_its_outputs(rng):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, "relu", name="a"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(10, "tanh", name="b"),
            layers.Dense(3, "softmax", name="head"),
        ]
    )
    x = rng.normal(size=(20, 6)).astype("float32")
    model.layers[1].moving_mean.assign(rng.normal(size=12))
    for name, alive in (("a", 8), ("b", 4)):
        layer = model.get_layer(name)
        weak = rng.permutation(layer.units)[alive:]
        kernel, bias = layer.get_weights()
        kernel[:, weak] = 0
        layer.set_weights([kernel, bias])
        after = model.layers[model.layers.index(layer) + (3 if name == "a" else 1)]
        after_kernel, after_bias = after.get_weights()
        after_kernel[weak] = 0
        after.set_weights([after_kernel, after_bias])
    assert narrowable_layers(model) == {"a": 12, "b": 10}
    small = narrow(model, {"a": 8, "b": 4})
    assert [small.get_layer(name).units for name in ("a", "b", "head")] == [8, 4, 3]
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def check_that_five_units_suffice(model, name, rng):
    """Set the other units of a layer to zero, and compare the model with one without them."""
    kernel, bias = model.get_layer(name).get_weights()
    kernel[:, 5:] = 0
    model.get_layer(name).set_weights([kernel, bias])
    small = narrow(model, {name: 5})
    x = rng.normal(size=(3, 5, 4)).astype("float32")
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_flattened_units_and_branches(rng):
    inputs = keras.Input((5, 4))
    each = layers.Dense(8, "relu", name="each")(inputs)
    flat = layers.Flatten()(each)
    first = layers.Dense(6, name="first")(flat)
    sum_ = layers.Add()([first, layers.Dense(6, name="second")(flat)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(sum_))
    assert narrowable_layers(model) == {"each": 8}  # the two that are added can only become narrower together
    check_that_five_units_suffice(model, "each", rng)


def test_the_feed_forward_layers_of_a_transformer(rng):
    inputs = keras.Input((5, 4))
    x = inputs + layers.MultiHeadAttention(2, 2)(inputs, inputs)
    model = keras.Model(inputs, x + layers.Dense(4, name="out")(layers.Dense(8, "relu", name="in")(x)))
    assert narrowable_layers(model) == {"in": 8}
    check_that_five_units_suffice(model, "in", rng)


def test_what_cannot_be_narrowed():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, name="a"), layers.Reshape((2, 4)), layers.Dense(3, name="head")]
    )
    assert narrowable_layers(model) == {}
    with pytest.raises(ValueError, match="Expected layers that can be made narrower"):
        narrow(model, {"a": 4})

    class Own(keras.Model):
        def call(self, x):
            return x

    assert narrowable_layers(Own()) == {}


def test_widths():
    assert narrowed_widths({"a": 1024, "b": 10, "c": 2}, 0.3) == {"a": 308, "b": 3, "c": 1}
