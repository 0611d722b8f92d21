"""Tests of what the layer Kaleidoscope can do and other layers cannot."""

import keras
import numpy as np
import oracles
import pytest

from keras_butterfly import Butterfly, Kaleidoscope

numpy = keras.ops.convert_to_numpy


def built(n, *arguments, **kwargs):
    layer = Kaleidoscope(*arguments, **kwargs)
    layer.build((None, n))
    return layer


def test_is_the_product_of_its_butterflies_in_alternating_order():
    layer = built(8, width=2, seed=0)
    assert [butterfly.wiring.increasing for butterfly in layer.butterflies] == [False, True, False, True]
    product = np.eye(8)
    for butterfly in layer.butterflies:
        product = product @ oracles.dense_matrix(butterfly.wiring, numpy(butterfly.gadget_weights)[0].astype("float64"))
    np.testing.assert_allclose(numpy(layer.kernel), product, atol=1e-5)


def test_full_width_counts_four_n_log_n_weights():
    layer = built(64, width=3)
    assert layer.effective_parameters == 3 * 2 * (2 * 64 * 6)
    assert layer.count_params() == layer.effective_parameters + 64  # one bias, none inside
    assert all(butterfly.bias is None for butterfly in layer.butterflies)


def test_starts_as_an_isometry():
    kernel = numpy(built(16, width=2, seed=0).kernel)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(16), atol=1e-5)


def test_a_pair_of_hadamards_is_the_identity():
    np.testing.assert_allclose(numpy(built(32, kernel_initializer="hadamard").kernel), np.eye(32), atol=1e-6)


def test_holds_permutations_that_one_butterfly_cannot():
    """A pair of butterflies can be any permutation (Benes). A single one cannot: some blocks of its matrix have rank one."""
    reversal = [int(f"{node:03b}"[::-1], 2) for node in range(8)]
    target, steps = np.eye(8)[reversal], 400

    def error(cls):
        layer = cls(kernel_initializer="orthogonal", use_bias=False, seed=3)  # other starts end at a saddle
        model = keras.Sequential([keras.Input((8,)), layer])
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)), "mse")
        model.fit(np.tile(np.eye(8), (steps, 1)), np.tile(target, (steps, 1)), batch_size=8, verbose=0)
        return np.linalg.norm(numpy(layer.kernel) - target)

    assert error(Kaleidoscope) < 1e-3
    assert error(Butterfly) > 1


@pytest.mark.parametrize(("argument", "value"), [("width", 0), ("width", 1.5), ("expansion", -1), ("units", "a")])
def test_counts_must_be_positive_integers(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be a positive integer. Received: {argument}={value!r}"):
        Kaleidoscope(**{argument: value})


def test_unbuilt_says_so():
    for attribute in ("kernel", "effective_parameters"):
        with pytest.raises(ValueError, match="Kaleidoscope 'whole' is not built"):
            getattr(Kaleidoscope(4, name="whole"), attribute)
