"""Tests of the layer ButterflyDense: its three parts, the variance of its outputs, and `from_dense`."""

import math

import keras
import numpy as np
import pytest
from catalogue import build, close, squares

from keras_butterfly import ButterflyDense


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (1000, 10), (1024, 10), (1025, 11)]
)
def test_default_k_is_log2_rounded_up_and_at_least_one(n, expected):
    layer = ButterflyDense(n)
    layer.build((None, n))
    assert layer.middle_kernel.shape == (expected, expected)
    assert expected == max(1, math.ceil(math.log2(n)))


def test_dense_is_the_product_of_its_three_parts():
    layer = build("dense, narrowing")
    close(layer.kernel, layer.j1.kernel @ layer.middle_kernel @ layer.j2_t.kernel)


@pytest.mark.parametrize("name", ["dense, narrowing", "dense, full width"])
def test_the_second_butterfly_of_dense_runs_backwards(name):
    layer = build(name)
    assert layer.j1.wiring.increasing
    assert not layer.j2_t.wiring.increasing


@pytest.mark.parametrize(
    ("initializer", "features", "units"),
    [
        (keras.initializers.GlorotUniform, 64, 32),
        (keras.initializers.GlorotUniform, 20, 45),
        (keras.initializers.HeNormal, 20, 45),
        (keras.initializers.LecunNormal, 64, 32),
    ],
)
def test_fresh_outputs_have_the_variance_of_dense(initializer, features, units):
    fan = (features + units) / 2 if initializer is keras.initializers.GlorotUniform else features
    expected = features * initializer().scale / fan
    variances = []
    for seed in range(15):
        layer = ButterflyDense(units, seed=seed, kernel_initializer=initializer(seed=seed))
        layer.build((None, features))
        # The variance of an output, averaged over all outputs, if every input has variance 1.
        variances.append(squares(layer.kernel) / units)
    error = np.std(variances) / np.sqrt(len(variances))
    assert error < 0.08 * expected
    assert abs(np.mean(variances) - expected) < 5 * error


def dense_layer(features, units, **kwargs):
    layer = keras.layers.Dense(units, bias_initializer="random_normal", **kwargs)
    layer.build((None, features))
    return layer


def test_from_dense_is_the_least_squares_optimum():
    dense = dense_layer(20, 12)
    layer = ButterflyDense.from_dense(dense, k1=6, k2=4, seed=0)
    kernel, j1, j2_t = (
        keras.ops.convert_to_numpy(m).astype("float64") for m in (dense.kernel, layer.j1.kernel, layer.j2_t.kernel)
    )
    # vec(J1 W' J2^T) = (J1 kron J2) vec(W'), row by row.
    design = np.kron(j1, j2_t.T)
    best, *_ = np.linalg.lstsq(design, kernel.ravel(), rcond=None)

    def error(middle):
        return np.linalg.norm(design @ middle.ravel() - kernel.ravel())

    middle = keras.ops.convert_to_numpy(layer.middle_kernel).astype("float64")
    np.testing.assert_allclose(error(middle), error(best), rtol=1e-6)
    np.testing.assert_allclose(middle.ravel(), best, atol=1e-5)
    assert error(middle) < np.linalg.norm(kernel)
    for index in np.ndindex(*middle.shape):
        for step in (-0.01, 0.01):
            changed = middle.copy()
            changed[index] += step
            assert error(changed) > error(middle)


def test_from_dense_at_full_width_reproduces_the_layer(rng):
    dense = dense_layer(8, 4, activation="relu")
    layer = ButterflyDense.from_dense(dense, k1=8, k2=4)
    close(layer.kernel, dense.kernel)
    x = rng.standard_normal((5, 8)).astype("float32")
    close(layer(x), dense(x))


def test_from_dense_keeps_the_settings_unless_told_otherwise():
    dense = dense_layer(8, 4, activation="relu", name="head", dtype="mixed_bfloat16")
    layer = ButterflyDense.from_dense(dense)
    assert (layer.units, layer.activation, layer.name) == (4, keras.activations.relu, "head")
    assert layer.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(layer.bias, dense.bias)
    assert ButterflyDense.from_dense(dense, use_bias=False, name="other").bias is None
    without = ButterflyDense.from_dense(dense_layer(8, 4, use_bias=False))
    assert without.use_bias is False


def test_from_dense_refuses_other_layers():
    with pytest.raises(ValueError, match=r"`dense` must be a keras\.layers\.Dense\. Received: EinsumDense"):
        ButterflyDense.from_dense(keras.layers.EinsumDense("ab,bc->ac", 4))


def test_from_dense_refuses_an_unbuilt_layer():
    with pytest.raises(ValueError, match=r"Dense 'head' is not built: .*\. Call it on an input"):
        ButterflyDense.from_dense(keras.layers.Dense(4, name="head"))


def test_from_dense_keeps_a_frozen_layer_frozen():
    dense = dense_layer(6, 4)
    dense.trainable = False
    assert ButterflyDense.from_dense(dense).trainable_weights == []


def test_weights_of_other_widths_are_refused(tmp_path):
    def model(k):
        return keras.Sequential([keras.Input((20,)), ButterflyDense(12, k1=k, k2=k, seed=0)])

    model(4).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="shape"):
        model(5).load_weights(tmp_path / "m.weights.h5")
