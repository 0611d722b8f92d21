"""Tests of factorizing kernels, compared with explicit products and known transforms."""

import keras
import numpy as np
import oracles
import pytest
import scipy.fft
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.compression import fitting
from keras_butterfly.structure.factorization import factorize, low_rank, monarch
from keras_butterfly.structure.wiring import Wiring


def relative(matrix, wanted):
    return np.linalg.norm(matrix - wanted) / np.linalg.norm(wanted)


def bit_reversed(n):
    return [int(f"{index:0{n.bit_length() - 1}b}"[::-1], 2) for index in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["first", "random"]),
    st.booleans(),
    st.sampled_from([None, "increasing", "decreasing"]),
    st.integers(0, 99),
)
def test_the_kernel_of_any_butterfly_is_recovered(inputs, outputs, truncation, transposed, order, seed):
    wiring = Wiring.butterfly(inputs, outputs, truncation=truncation, transposed=transposed, order=order, seed=seed)
    weights = np.random.default_rng(seed).standard_normal(wiring.effective_weights)
    kernel = oracles.dense_matrix(wiring, weights)
    assert relative(oracles.dense_matrix(wiring, factorize(kernel, wiring)), kernel) < 1e-9


@pytest.mark.parametrize("n", [2, 64, 256])
def test_hadamard_is_recovered(n):
    wiring, kernel = Wiring.butterfly(n, n), scipy.linalg.hadamard(n) / np.sqrt(n)
    assert relative(oracles.dense_matrix(wiring, factorize(kernel, wiring)), kernel) < 1e-12


def test_fourier_with_bit_reversal_is_recovered():
    n = 64
    wiring, kernel = Wiring.butterfly(n, n), np.fft.fft(np.eye(n))[:, bit_reversed(n)].T
    weights = factorize(kernel, wiring)
    assert np.iscomplexobj(weights)
    assert relative(oracles.dense_matrix(wiring, weights), kernel) < 1e-12


def test_cosine_transform_with_bit_reversal_is_recovered():
    """DCT-II is the real part of a rotated Fourier transform of the even inputs ascending, then the odd ones descending."""
    n = 64
    turned = 2 * np.exp(-1j * np.pi * np.arange(n) / (2 * n))[:, None] * np.fft.fft(np.eye(n))
    wiring, reversal = Wiring.butterfly(n, n), bit_reversed(n)
    weights = factorize(turned[:, reversal].T, wiring)
    order = np.array([*range(0, n, 2), *range(n - 1, 0, -2)])[reversal]
    wanted = scipy.fft.dct(np.eye(n), axis=0)[:, order].T
    assert relative(oracles.dense_matrix(wiring, weights).real, wanted) < 1e-12


def test_other_kernels_are_approximated_better_than_by_zero(rng):
    kernel = rng.standard_normal((60, 50))
    for truncation in ("first", "random"):
        wiring = Wiring.butterfly(60, 50, truncation=truncation)
        assert relative(oracles.dense_matrix(wiring, factorize(kernel, wiring)), kernel) < 0.95


@pytest.mark.parametrize(("outputs", "radix"), [(64, 2), (64, 4), (64, (8, 8)), (23, 2)])
def test_the_approximation_is_a_projection(outputs, radix, rng):
    """With the last least-squares step the error is orthogonal to the approximation, for real and for complex kernels."""
    wiring = Wiring.butterfly(64, outputs, radix=radix)
    for kernel in (rng.standard_normal((64, outputs)), rng.standard_normal((64, outputs, 2)) @ (1, 1j)):
        matrix = oracles.dense_matrix(wiring, factorize(kernel, wiring))
        assert abs(np.vdot(matrix, kernel - matrix)) < 1e-12 * np.linalg.norm(kernel) ** 2


def test_the_fit_of_the_right_half_improves_on_cuts_without_it(rng):
    """The mean error of 20 Gaussian matrices was 0.908 when each half was factorized by itself."""
    wiring = Wiring.butterfly(64, 64)
    kernels = rng.standard_normal((20, 64, 64))
    assert np.mean([relative(oracles.dense_matrix(wiring, factorize(kernel, wiring)), kernel) for kernel in kernels]) < 0.9


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_very_small_and_very_large_kernels_are_recovered(scale):
    wiring, kernel = Wiring.butterfly(16, 16), scipy.linalg.hadamard(16)
    weights = factorize(scale * kernel, wiring) * scale ** (-1 / 4)
    assert relative(oracles.dense_matrix(wiring, weights), kernel) < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.sampled_from([2, 4]), st.floats(0, 1), st.integers(0, 99))
def test_sparse_kernels_have_finite_weights(inputs, outputs, radix, density, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((inputs, outputs)) * (rng.random((inputs, outputs)) < density)
    wiring = Wiring.butterfly(inputs, outputs, truncation="random", radix=radix, seed=seed)
    weights = factorize(kernel, wiring)
    assert weights.shape == (wiring.effective_weights,)
    assert np.linalg.norm(oracles.dense_matrix(wiring, weights) - kernel) <= np.linalg.norm(kernel) * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(16, 16), (12, 5)])
def test_all_stages_have_the_same_norm(shape, rng):
    wiring = Wiring.butterfly(*shape)
    weights = factorize(rng.standard_normal(shape), wiring)
    norms = [np.linalg.norm(weights[stage.span]) for stage in wiring.stages]
    assert np.allclose(norms, norms[0])


def test_wide_truncated_kernels_do_not_become_square(rng):
    """The N x N matrix in float64 would take 2 GiB."""
    wiring = Wiring.butterfly(16384, 3, truncation="random")
    weights = factorize(rng.standard_normal((16384, 3)), wiring)
    assert weights.shape == (wiring.effective_weights,)
    assert np.all(np.isfinite(weights))


@pytest.mark.parametrize("bad", [np.ones((3, 4)), np.full((4, 4), np.nan)])
def test_kernels_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=r"Expected a kernel of shape \(4, 4\) with finite entries"):
        factorize(bad, Wiring.butterfly(4, 4))


def test_monarch_recovers_its_own_products(rng):
    first, second = rng.standard_normal((4, 6, 8)), rng.standard_normal((8, 4, 5))
    kernel = np.einsum("jlp,pjo->jlop", first, second).reshape(24, 40)
    found = monarch(kernel, (4, 8))
    assert [factor.shape for factor in found] == [first.shape, second.shape]
    assert relative(np.einsum("jlp,pjo->jlop", *found).reshape(24, 40), kernel) < 1e-12


def test_monarch_wants_divisors(rng):
    with pytest.raises(ValueError, match=r"divisors of the kernel.s 6 inputs and 8 outputs. Received: blocks=\(4, 2\)"):
        monarch(rng.standard_normal((6, 8)), (4, 2))


def test_low_rank_is_the_best_one(rng):
    kernel = rng.standard_normal((9, 7))
    singular = np.linalg.svd(kernel, compute_uv=False)
    assert np.isclose(np.linalg.norm(low_rank(kernel, 3) - kernel) ** 2, np.sum(singular[3:] ** 2))


def built(layer, inputs):
    layer.build((None, inputs))
    return layer


@pytest.mark.parametrize("stacks", [1, 2])
def test_fit_recovers_a_butterfly_from_its_kernel(stacks, rng):
    teacher = built(Butterfly(16, seed=1, kernel_initializer="orthogonal"), 16)
    layer = built(Butterfly(16, seed=2, stacks=stacks), 16)
    assert fitting.fit(layer, keras.ops.convert_to_numpy(teacher.kernel), steps=0) < 1e-3
    assert relative(keras.ops.convert_to_numpy(layer.kernel), keras.ops.convert_to_numpy(teacher.kernel)) < 1e-3


@pytest.mark.parametrize(
    "layer", [Butterfly(24, seed=0), Butterfly(24, stacks=2, seed=0), ButterflyDense(24, k1=6, k2=5, seed=0)]
)
def test_gradient_steps_improve_on_the_start_and_the_error_is_true(layer, rng):
    built(layer, 20)
    kernel = rng.standard_normal((20, 24)).astype("float32")
    x = (rng.standard_normal((200, 8)) @ rng.standard_normal((8, 20))).astype("float32")
    start = fitting.fit(layer, kernel, (x, x @ kernel), steps=0)
    error = fitting.fit(layer, kernel, (x, x @ kernel), steps=60)
    assert error < 0.97 * start
    assert abs(relative(keras.ops.convert_to_numpy(layer.linear(x)), x @ kernel) - error) < 0.01


def test_fit_to_data_sees_only_the_directions_in_the_data(rng):
    """On inputs of rank 2 a ButterflyDense of rank 2 can be exact for any kernel."""
    kernel = rng.standard_normal((16, 16)).astype("float32")
    x = (rng.standard_normal((100, 2)) @ rng.standard_normal((2, 16))).astype("float32")
    layer = built(ButterflyDense(16, k1=4, k2=4, seed=0), 16)
    assert fitting.fit(layer, kernel, (x, x @ kernel), steps=200) < 0.1
    assert fitting.fit(layer, kernel, steps=200) > 0.3


def test_fit_keeps_bias_activation_and_precision(rng):
    layer = built(Butterfly(8, "relu", dtype="mixed_float16", lr_multiplier=3.0, seed=0), 8)
    layer.bias.assign(np.arange(8.0))
    fitting.fit(layer, np.eye(8), steps=3)
    assert np.allclose(keras.ops.convert_to_numpy(layer.bias), np.arange(8.0), atol=1e-5)
    assert relative(keras.ops.convert_to_numpy(layer.kernel), np.eye(8)) < 0.05
    assert layer.lr_multiplier == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ones((5, 4)), np.ones((5, 7))), r"Received: \(5, 4\), \(5, 7\)"),
        ((np.ones((5, 4)), np.ones((4, 8))), r"Received: \(5, 4\), \(4, 8\)"),
        ((np.full((5, 4), np.inf), np.ones((5, 8))), "Expected finite inputs and targets"),
    ],
)
def test_fit_refuses_data_that_do_not_fit(data, message):
    with pytest.raises(ValueError, match=message):
        fitting.fit(built(Butterfly(8, seed=0), 4), np.ones((4, 8)), data)


def test_the_middle_kernel_stays_small_for_a_kernel_of_full_rank(rng):
    """If a singular value of J1 is nearly zero, W' must not divide by it."""
    layer = built(ButterflyDense(64, k1=16, k2=16, seed=0), 64)
    assert fitting.fit(layer, scipy.linalg.hadamard(64) / 8, steps=0) < 1.5
