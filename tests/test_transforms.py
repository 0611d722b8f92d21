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
    np.testing.assert_allclose(outputs(transforms.dct(n, norm=norm), x), expected, atol=1e-6 * n)


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


@pytest.mark.parametrize("transform", [transforms.dft, transforms.dct])
@pytest.mark.parametrize("n", [1, 2, 12, 100])
def test_size_must_be_a_power_of_two(transform, n):
    with pytest.raises(ValueError, match=rf"`n` must be a power of two, at least 4\. Received: n={n}"):
        transform(n)


def test_unknown_norm():
    with pytest.raises(ValueError, match=re.escape('`norm` must be "ortho", "backward" or None. Received: norm=\'forward\'')):
        transforms.dct(8, norm="forward")
