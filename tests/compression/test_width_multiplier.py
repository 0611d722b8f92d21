"""Networks in which all hidden layers have a part of their width."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly.compression.width_multiplier import hidden_widths, resized, with_multiplier


def transformer():
    """A network whose embedding, attention and feed-forward layer are added to each other."""
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 32, name="words")(words)
    x = x + layers.MultiHeadAttention(2, 16, name="attention")(x, x)
    x = layers.LayerNormalization()(x)
    x = x + layers.Dense(32, name="out")(layers.Dense(64, "relu", name="in")(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(words, layers.Dense(3, "softmax", name="head")(x))


def test_layers_that_are_added_become_narrower_together():
    model = transformer()
    widths = hidden_widths(model)
    assert widths == {
        "words": {"output_dim": 32},
        "attention": {"key_dim": 16, "value_dim": 16},
        "in": {"units": 64},
        "out": {"units": 32},
    }
    small = resized(model, with_multiplier(widths, 0.5))
    assert (small.get_layer("words").output_dim, small.get_layer("in").units, small.get_layer("head").units) == (16, 32, 3)
    assert small.get_layer("attention").key_dim == 8
    shape = small.predict(np.zeros((2, 5), "int32"), verbose=0).shape
    assert shape == (2, 3)
    assert small.count_params() < 0.5 * model.count_params()
    assert model.get_layer("words").output_dim == 32  # the original is not changed


def test_convolutions_become_narrower(rng):
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="first")(images)
    x = x + layers.SeparableConv2D(16, 3, padding="same", name="second")(layers.BatchNormalization()(x))
    model = keras.Model(images, layers.Dense(10, name="head")(layers.Flatten()(x)))
    widths = hidden_widths(model)
    assert widths == {"first": {"filters": 16}, "second": {"filters": 16}}
    small = resized(model, with_multiplier(widths, 0.25))
    assert [small.get_layer(name).filters for name in ("first", "second")] == [4, 4]
    assert small.predict(rng.normal(size=(2, 8, 8, 3)), verbose=0).shape == (2, 10)


def test_a_hidden_layer_as_wide_as_the_head_becomes_narrower_alone():
    names = ("a", "b", "head")
    model = keras.Sequential([keras.Input((6,)), *(layers.Dense(10, name=name) for name in names)])
    assert hidden_widths(model) == {"a": {"units": 10}, "b": {"units": 10}}


def test_layers_that_keep_their_shape_keep_their_weights(rng):
    normalization = layers.Normalization()
    normalization.adapt(rng.normal(3, 5, (50, 6)))
    model = keras.Sequential([keras.Input((6,)), normalization, layers.Dense(32, name="a"), layers.Dense(32, name="b")])
    small = resized(model, {"a": {"units": 8}})
    np.testing.assert_array_equal(small.layers[0].mean, normalization.mean)
    assert small.get_layer("b").kernel.shape == (8, 32)
    same = resized(model, {})
    np.testing.assert_array_equal(same.get_layer("b").kernel, model.get_layer("b").kernel)


def test_layers_that_could_not_be_trained_can_be_trained_with_random_weights(rng):
    """A frozen part of a pretrained network, as in transfer learning."""
    part = keras.Sequential([keras.Input((6,)), layers.Dense(32, name="a"), layers.Dense(32, name="b")], name="part")
    model = keras.Sequential([keras.Input((6,)), part, layers.Dense(2, name="head")])
    part.trainable = False
    small = resized(model, {"part/a": {"units": 8}})
    trained = {variable.path for variable in small.trainable_variables}
    assert len(trained) == 6
    part.trainable = True
    part.get_layer("b").trainable = False
    kept = resized(model, {"head": {"units": 2}})
    assert len(kept.trainable_variables) == 4


def test_groups_of_widths_that_exclude_each_other(rng):
    """Each of two layers can become narrower, but not both, because their outputs are reshaped together."""
    inputs = keras.Input((4,))
    both = layers.Concatenate()([layers.Dense(8, name="a")(inputs), layers.Dense(16, name="b")(inputs)])
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Reshape((4, -1))(both)))
    widths = hidden_widths(model)
    assert set(widths) == {"a", "b"}
    assert resized(model, with_multiplier(widths, 0.5)).output_shape == (None, 4, 3)


def test_what_cannot_become_narrower():
    fixed = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="a"), layers.Reshape((2, 4)), layers.Dense(3)])
    assert hidden_widths(fixed) == {}
    with pytest.raises(ValueError, match="Expected widths that can be changed"):
        resized(fixed, {"a": {"units": 4}})

    class Own(keras.Model):
        def call(self, x):
            return x

    assert hidden_widths(Own()) == {}
