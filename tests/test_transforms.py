"""Tests of the transforms, compared with SciPy."""

import re

import keras
import numpy as np
import pytest
import scipy.fft

from keras_butterfly import Butterfly, transforms

SIZES = [4, 16, pytest.param(128, marks=pytest.mark.long)]


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x.astype("float32")))


@pytest.mark.parametrize("n", SIZES)
def test_dft_is_scipys(n, rng):
    x = rng.standard_normal((3, n))
    expected = scipy.fft.fft(x)
    found = outputs(transforms.dft(n), x).reshape(3, n, 2)
    np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], expected, atol=1e-6 * n)


@pytest.mark.parametrize("norm", ["ortho", "backward", None])
@pytest.mark.parametrize("n", SIZES)
def test_dct_is_scipys(n, norm, rng):
    x = rng.standard_normal((3, n))
    expected = scipy.fft.dct(x, type=2, norm=norm)
    assert np.linalg.norm(outputs(transforms.dct(n, norm=norm), x) - expected) < 5e-7 * np.linalg.norm(expected)


def test_a_dct_is_log2_n_butterflies_with_few_weights():
    model = transforms.dct(256)
    assert len(model.layers) == 8
    assert all(isinstance(layer, Butterfly) and not layer.wiring.increasing for layer in model.layers)
    assert all(layer.bias is None for layer in model.layers)
    # 8 butterflies of 9 stages on 512 nodes. The first and the last one have fewer weights, because some nodes are unused.
    assert model.count_params() <= 8 * 9 * 2 * 512


def test_a_dct_can_be_trained_on_or_frozen():
    assert transforms.dct(8).trainable_variables
    assert transforms.dct(8, trainable=False).trainable_variables == []


def test_a_dct_survives_saving(tmp_path, rng):
    model, x = transforms.dct(16), rng.standard_normal((2, 16))
    model.save(tmp_path / "dct.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "dct.keras"), x), outputs(model, x))


@pytest.mark.parametrize("norm", ["ortho", "backward", None])
@pytest.mark.parametrize("n", [4, 6, 16, 60, 128])
def test_real_dft_is_numpys_in_another_order(n, norm, rng):
    x, window = rng.standard_normal((3, n)), rng.uniform(size=n)
    expected = np.fft.rfft(x * window, norm=norm)
    found = outputs(transforms.real_dft(n, norm=norm, window=window), x)[:, np.argsort(transforms.real_dft_order(n))]
    np.testing.assert_allclose(found[:, : n // 2 + 1], expected.real, atol=1e-6 * n)
    # Behind n / 2 come the imaginary parts, that of the highest frequency first. Those of 0 and n / 2 are zero and left out.
    np.testing.assert_allclose(found[:, n // 2 + 1 :], expected.imag[:, (n - 1) // 2 : 0 : -1], atol=1e-6 * n)


def test_a_real_dft_is_one_trainable_layer_with_a_quarter_of_the_weights():
    layer = transforms.real_dft(256, name="spectrum")
    assert (layer.effective_parameters, layer.name, layer.bias) == (16384, "spectrum", None)
    assert layer.trainable_variables
    assert not transforms.real_dft(16, trainable=False).trainable_variables
    assert tuple(layer(np.zeros((2, 3, 256), "float32")).shape) == (2, 3, 256)


@pytest.mark.parametrize("n", [1, 3, 7, 13])
def test_size_of_a_real_dft_must_not_be_prime(n):
    for function in (transforms.real_dft, transforms.real_dft_order):
        with pytest.raises(ValueError, match=rf"must be a product of two integers above 1\. Received: n={n}"):
            function(n)


def test_window_must_fit():
    with pytest.raises(ValueError, match=r"hold 16 numbers, one for each input\. Received: shape \(8,\)"):
        transforms.real_dft(16, window=np.ones(8))


@pytest.mark.parametrize("transform", [transforms.dft, transforms.dct])
@pytest.mark.parametrize("n", [1, 2, 12, 100])
def test_size_must_be_a_power_of_two(transform, n):
    with pytest.raises(ValueError, match=rf"`n` must be a power of two, at least 4\. Received: n={n}"):
        transform(n)


@pytest.mark.parametrize("transform", [transforms.dct, transforms.real_dft])
def test_unknown_norm(transform):
    with pytest.raises(ValueError, match=re.escape('`norm` must be "ortho", "backward" or None. Received: norm=\'forward\'')):
        transform(8, norm="forward")
