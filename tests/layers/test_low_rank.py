"""Tests of the layer `LowRank`, against Keras's own Dense layers."""

import keras
import numpy as np
import pytest
from catalogue import close, numpy, raises

from keras_butterfly import LowRank


def built(units, n, **arguments):
    layer = LowRank(units, **arguments)
    layer.build((None, n))
    return layer


@pytest.mark.parametrize("leading", [(3,), (2, 5)])
def test_equals_a_pair_of_dense_layers(leading, rng):
    layer = built(7, 12, rank=4, activation="tanh", bias_initializer="ones")
    pair = [keras.layers.Dense(4, use_bias=False), keras.layers.Dense(7, "tanh")]
    x = rng.standard_normal((*leading, 12)).astype("float32")
    expected = keras.Sequential(pair)
    expected(x)
    expected.set_weights([numpy(weight) for weight in layer.weights])
    close(layer(x), expected(x))
    close(layer.linear(x), x @ numpy(layer.kernel))
    assert layer.count_params() == expected.count_params() == layer.effective_parameters + 7


@pytest.mark.parametrize(
    "initializer",
    ["glorot_uniform", *(pytest.param(name, marks=pytest.mark.long) for name in ("he_normal", "lecun_normal"))],
)
def test_outputs_start_with_the_variance_of_dense(initializer):
    def mean_square(make):
        values = []
        for seed in range(10):
            keras.utils.set_random_seed(seed)
            layer = make(100, kernel_initializer=initializer)
            layer.build((None, 200))
            values.append(np.mean(np.square(numpy(layer.kernel))))
        return np.mean(values)

    dense = mean_square(keras.layers.Dense)
    for rank in (1, 8, 60):
        assert mean_square(lambda units, rank=rank, **settings: LowRank(units, rank=rank, **settings)) == pytest.approx(
            dense, rel=0.25
        )


def test_other_initializers_are_taken_as_they_are():
    layer = built(3, 5, rank=2, kernel_initializer="ones")
    np.testing.assert_array_equal(numpy(layer.kernel), np.full((5, 3), 2.0))


def test_config_and_weights_survive(tmp_path, rng):
    model = keras.Sequential([keras.Input((12,)), LowRank(7, "relu", rank=3, kernel_regularizer="l2", name="thin")])
    x = rng.standard_normal((4, 12)).astype("float32")
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(restored(x)), numpy(model(x)))
    assert restored.layers[0].get_config() == model.layers[0].get_config()


def test_bad_arguments():
    with raises("`rank` must be a positive integer"):
        LowRank(3, rank=0)
    with raises("a rank of at most 3, the smaller of its 5 inputs and 3 units. Received: rank=4"):
        built(3, 5, rank=4)
    with raises("The rank is given by name, as in rank=16."):
        LowRank(3, 4, rank=2)
    with pytest.raises(TypeError, match="rank"):
        LowRank(3)
    with raises("not built"):
        _ = LowRank(3, rank=2).kernel
