"""Tests of rules that hold for every size, truncation, order, seed, rank and precision, with examples from hypothesis."""

from functools import partial
from math import prod

import keras
import numpy as np
import pytest
from backend import EXAMPLES, NAME, ROUNDOFF, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.layers import initializers
from keras_butterfly.structure import kernels
from keras_butterfly.structure.wiring import Wiring

settings.register_profile("properties", deadline=None, max_examples=EXAMPLES, derandomize=True)
settings.load_profile("properties")

sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)
orders = st.sampled_from([None, "increasing", "decreasing"])
truncations = st.sampled_from(["random", "first"])
implementations = st.sampled_from(["gather", "fused"])
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)
# A tuple whose product is too small for the sizes gets a last stage that makes up for it.
radices = st.one_of(st.just(2), st.sampled_from([2, 4, 8, 32, "auto"]), st.lists(st.integers(2, 7), min_size=1, max_size=3))


def fitting(radix, *sizes):
    """Return `radix`. Of a list make a tuple whose product is at least the largest of `sizes`."""
    missing = -(-max(sizes) // prod(radix)) if isinstance(radix, list) else 1
    return radix if missing == 1 else (*radix, missing)


wirings = st.builds(
    lambda inputs, outputs, radix, **choices: Wiring.butterfly(
        inputs, outputs, radix=fitting(radix, inputs, outputs), **choices
    ),
    sizes,
    sizes,
    radices,
    truncation=truncations,
    transposed=st.booleans(),
    order=orders,
    seed=seeds,
)
butterflies = st.builds(
    lambda n, units, radix, **arguments: (
        n,
        partial(Butterfly, units, radix=fitting(radix, n, units), dtype="float64", **arguments),
    ),
    sizes,
    sizes,
    radices,
    truncation=truncations,
    order=orders,
    transposed=st.booleans(),
    use_bias=st.booleans(),
    seed=seeds,
    stacks=st.integers(1, 2),
    kernel_initializer=st.sampled_from(["fjlt", "orthogonal"]),
    implementation=implementations,
)
replacements = st.builds(
    lambda n, units, k1, k2, **arguments: (
        n,
        partial(ButterflyDense, units, k1=min(k1, n), k2=min(k2, units), dtype="float64", **arguments),
    ),
    sizes,
    sizes,
    sizes,
    sizes,
    seed=seeds,
    implementation=implementations,
)
layers = st.one_of(butterflies, replacements)  # (n, a maker of the layer)
numpy = ops.convert_to_numpy


def close(found, expected, factor=100):
    expected = numpy(expected)
    np.testing.assert_allclose(
        numpy(found), expected, atol=factor * ROUNDOFF * max(1.0, np.abs(expected).max(initial=0)), rtol=0
    )


@given(layers, shapes, seeds)
def test_linear_and_the_same_on_every_leading_axis(sized, shape, seed):
    n, make = sized
    layer = make()
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, *shape, n))
    layer.build((None, n))
    close(layer.linear(2 * x - 3 * y), 2 * numpy(layer.linear(x)) - 3 * numpy(layer.linear(y)))
    close(numpy(layer.linear(x)).reshape(-1, layer.kernel.shape[1]), layer.linear(x.reshape(-1, n)))


@given(layers)
def test_kernel_is_the_layer_on_the_identity(sized):
    n, make = sized
    layer = make()
    layer.build((None, n))
    assert layer.kernel.shape == layer.compute_output_shape((n, n))
    close(layer.linear(np.eye(n)), layer.kernel)


def rank_at_random_weights(wiring):
    """Return the rank of the butterfly's matrix, in float64, with random orthogonal gadgets, which keep it well conditioned."""
    (weights,) = initializers.get("orthogonal")(wiring, dtype="float64", seed=0)
    weights, rows = np.append(weights, 0.0), np.eye(len(wiring.inputs))
    for stage in wiring.stages:  # in NumPy, as JAX compiles every operation for every size
        rows = sum(rows[:, source] * weights[weight] for source, weight in zip(stage.sources, stage.weights, strict=True))
    return np.linalg.matrix_rank(rows)


PAIRS = np.random.default_rng(0).integers(1, 130, (60, 2)).tolist()
LARGE = [(300, 300), (640, 640), (784, 784), (784, 1000), (1000, 784), (100, 300), (300, 260)]


@pytest.mark.parametrize("truncation", ["first", "random"])
@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(LARGE, marks=pytest.mark.long)], ids=["small", "large"])
def test_generic_rank_is_that_of_dense(pairs, truncation):
    for inputs, outputs in pairs:
        if inputs == outputs and truncation == "random":  # the same wiring as with the first nodes
            continue
        wiring = Wiring.butterfly(inputs, outputs, truncation=truncation)
        assert rank_at_random_weights(wiring) == min(inputs, outputs), (inputs, outputs)


@given(wirings)
def test_generic_rank_is_that_of_dense_in_every_order_and_radix(wiring):
    assert rank_at_random_weights(wiring) == min(len(wiring.inputs), len(wiring.outputs))


def test_generic_rank_is_lower_with_outputs_spread_over_nodes_that_no_input_uses():
    spread = np.sort(np.random.default_rng(0).permutation(512)[:300])
    assert rank_at_random_weights(Wiring.butterfly(300, 300, truncation=spread)) < 280


@given(wirings, seeds)
def test_the_transpose_is_the_adjoint(wiring, seed):
    """<J x, y> = <x, J' y>, where J' has the transposed wiring and the transposed gadgets."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal(wiring.effective_weights)
    gadgets = [numpy(gadget) for gadget in kernels.stage_gadgets(wiring, ops.convert_to_tensor(weights))]
    transpose = wiring.transpose()
    swapped = [gadget.transpose(0, 2, 1, 3).reshape(-1) for gadget in reversed(gadgets)]
    picked = [gadget[stage.edges] for gadget, stage in zip(swapped, transpose.stages, strict=True)]
    x, y = rng.standard_normal(len(wiring.inputs)), rng.standard_normal(len(wiring.outputs))
    forward = numpy(kernels.apply_stages(ops.convert_to_tensor(x), wiring, ops.convert_to_tensor(weights)))
    back = kernels.apply_stages(ops.convert_to_tensor(y), transpose, ops.convert_to_tensor(np.concatenate([[], *picked])))
    assert transpose.effective_weights == wiring.effective_weights
    np.testing.assert_allclose(forward @ y, x @ numpy(back), rtol=1e-9, atol=1e-9 * np.abs(forward).max() * np.abs(y).max())


@given(st.integers(0, 7), orders, seeds, implementations)
def test_orthogonal_weights_of_a_full_butterfly_keep_every_norm(stages, order, seed, implementation):
    layer = Butterfly(kernel_initializer="orthogonal", order=order, seed=seed, implementation=implementation, dtype="float64")
    x = np.random.default_rng(seed).standard_normal((3, 1 << stages))
    layer.build(x.shape)
    # Initial weights are computed in float64 but returned in float32.
    np.testing.assert_allclose(np.linalg.norm(numpy(layer.linear(x)), axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)


@given(wirings, seeds)
def test_effective_weights_are_those_with_a_gradient(wiring, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, len(wiring.inputs)))
    # All weights of the untruncated butterfly are random, but only the effective ones change the outputs.
    full = Wiring(wiring.size, wiring.strides, tuple(range(wiring.size)), tuple(range(wiring.size)))

    def read(weights):
        placed = kernels.place_inputs(ops.convert_to_tensor(x), wiring, wiring.size)
        return ops.sum(kernels.read_outputs(kernels.apply_stages(placed, full, weights), wiring, wiring.size) ** 2)

    _, (gradient,) = value_and_gradients(read, [rng.standard_normal(full.effective_weights)], np.ones(()))
    assert np.count_nonzero(gradient) == wiring.effective_weights


UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}
if NAME == "torch":
    del UNIT_ROUNDOFF["float64"]  # Keras's matmul on torch computes float64 in float32


@given(st.integers(0, 9), st.sampled_from(sorted(UNIT_ROUNDOFF)), implementations, orders, seeds)
def test_error_of_every_precision_is_within_the_bound_of_the_docstring(stages, policy, implementation, order, seed):
    layer = Butterfly(dtype=policy, implementation=implementation, order=order, seed=seed, kernel_initializer="orthogonal")
    layer.build((None, 1 << stages))
    exact = Butterfly(dtype="float64", implementation="gather", order=order, seed=seed, kernel_initializer="orthogonal")
    exact.build((None, 1 << stages))
    if layer.weights:
        exact.set_weights(layer.get_weights())
    x = np.random.default_rng(seed).standard_normal((3, 1 << stages))
    x = numpy(ops.cast(ops.cast(x, layer.compute_dtype), "float64"))  # the exact input of the layer
    y = layer(ops.cast(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    error = np.linalg.norm(numpy(ops.cast(y, "float64")) - numpy(exact(x)), axis=1)
    assert np.all(error <= 2 * (stages + 2) * UNIT_ROUNDOFF[policy] * np.linalg.norm(x, axis=1))


@given(layers, st.sampled_from(["mixed_float16", "mixed_bfloat16"]))
def test_low_precision_stays_finite_in_values_and_gradients(sized, policy):
    n, make = sized
    low = make(dtype=policy)
    low.build((None, n))
    x = np.random.default_rng(0).standard_normal((4, n)).astype("float32")
    upstream = np.ones((4, low.compute_output_shape((4, n))[1]), "float32")
    y, gradients = value_and_gradients(lambda x: ops.cast(low(x), "float32"), [x, *low.trainable_variables], upstream)
    assert np.all(np.isfinite(y))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def fjlt_kernel(n, k, seed):
    """Return the matrix of an FJLT from n to k numbers, in float64."""
    layer = Butterfly(k, truncation="random", seed=seed, kernel_initializer="fjlt")
    layer.build((None, n))
    return numpy(layer.kernel).astype("float64")


def test_fjlt_keeps_norms_and_inner_products_with_the_stated_confidence(rng):
    """For unit vectors the error of <J x, J y> has mean 0 and standard deviation about sqrt((1 + <x, y>^2) (1 - k / n) / k).

    So 95 of 100 draws are within twice the deviation. The bound is 1.25 times that, because the formula is approximate.
    """
    n, trials = 128, 60
    x, y = rng.standard_normal((2, n))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    for k in (8, 32, 80):
        kernels = [fjlt_kernel(n, k, seed) for seed in range(trials)]
        for other in (x, y):
            deviation = np.sqrt((1 + (x @ other) ** 2) * (1 - k / n) / k)
            errors = np.array([(x @ kernel) @ (other @ kernel) - x @ other for kernel in kernels])
            assert np.mean(np.abs(errors) <= 2.5 * deviation) >= 0.95
            assert abs(errors.mean()) < 5 * deviation / np.sqrt(trials)
            assert errors.std() > 0.4 * deviation  # the errors are not zero by mistake
