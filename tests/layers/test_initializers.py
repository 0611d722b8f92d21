"""Tests of the initializers: norms, matrices, seeds, and configs."""

from functools import partial
from itertools import product

import keras
import numpy as np
import oracles
import pytest
import scipy.linalg

from keras_butterfly.layers import initializers
from keras_butterfly.structure.wiring import Wiring

random = partial(Wiring.butterfly, truncation="random")
RANDOM = ["fjlt", "orthogonal"]
DETERMINISTIC = ["identity", "hadamard"]
WIRINGS = {
    "full": Wiring.butterfly(16, 16),
    "padded": Wiring.butterfly(11, 11),
    "padded, given nodes": Wiring.butterfly(11, 11, truncation=[15, 0, 1, 2, 4, 5, 8, 9, 10, 12, 13]),
    "truncated": random(16, 3, seed=1),
    "truncated and padded": random(13, 5, seed=1),
    "truncated transposed": random(16, 3, transposed=True, seed=1),
    "expanded": random(5, 16, seed=1),
    "expanded and padded": random(3, 11, seed=1),
    "expanded within a power of two": random(11, 13, seed=1),
    "truncated to the first nodes": Wiring.butterfly(13, 5),
    "expanded from the first nodes": Wiring.butterfly(3, 11),
}


@pytest.fixture(params=WIRINGS.values(), ids=WIRINGS.keys())
def wiring(request):
    return request.param


def draw(name, wiring, **kwargs):
    """Return the initial weights in float64, (effective weights,)."""
    return initializers.get(name)(wiring, dtype="float64", **kwargs)[0]


def kernel(name, wiring, **kwargs):
    """Return the matrix, (inputs, outputs), of the sum of the stacks."""
    stacks = initializers.get(name)(wiring, dtype="float64", **kwargs)
    return sum(oracles.dense_matrix(wiring, weights) for weights in stacks)


def assert_mean_is_one(ratios):
    """Assert that the mean is within five standard errors of the expected value, and that the standard error is small."""
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert error < 0.04
    assert abs(np.mean(ratios) - 1) < 5 * error + 1e-9


@pytest.mark.parametrize("name", RANDOM)
def test_expected_squared_norm_is_kept(name, wiring, rng):
    x = rng.standard_normal(len(wiring.inputs))
    assert_mean_is_one([np.sum((x @ kernel(name, wiring, seed=seed)) ** 2) / (x @ x) for seed in range(800)])


def test_outputs_of_glorot_have_the_variance_of_dense(wiring, rng):
    inputs, outputs = len(wiring.inputs), len(wiring.outputs)
    x = rng.standard_normal(inputs)
    dense = keras.initializers.GlorotUniform(seed=0)((inputs, 200 * outputs))  # its limit depends on both sizes
    expected = np.var(keras.ops.convert_to_numpy(dense)) * (inputs + 200 * outputs) / (inputs + outputs) * outputs * (x @ x)
    norms = [np.sum((x @ kernel("glorot", wiring, seed=seed)) ** 2) for seed in range(400)]
    assert np.mean(norms) == pytest.approx(expected, rel=0.1)


def test_expected_squared_norm_is_kept_by_three_stacks(rng):
    wiring = WIRINGS["truncated"]
    x = rng.standard_normal(len(wiring.inputs))
    ratios = [np.sum((x @ kernel("fjlt", wiring, stacks=3, seed=seed)) ** 2) / (x @ x) for seed in range(800)]
    assert_mean_is_one(ratios)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("radices", [(3, 4, 2), (5, 5), (4, 4)])
def test_expected_squared_norm_is_kept_with_other_radices(name, radices, rng):
    wiring = random(23 if radices != (4, 4) else 14, 3, radix=radices, seed=1)
    x = rng.standard_normal(len(wiring.inputs))
    assert_mean_is_one([np.sum((x @ kernel(name, wiring, seed=seed)) ** 2) / (x @ x) for seed in range(800)])


def test_fjlt_of_other_radices_is_orthogonal_and_hadamard_is_refused():
    wiring = Wiring.butterfly(24, 24, radix=(3, 4, 2))
    matrix = kernel("fjlt", wiring, seed=0)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(24), atol=1e-12)
    # The stages of radix 4 and 2 are Hadamard matrices, that of radix 3 is random.
    sizes = [np.abs(draw("fjlt", wiring, seed=0)[stage.span]) for stage in wiring.stages]
    assert np.ptp(sizes[0]) > 0.5
    np.testing.assert_allclose(sizes[1], 1 / 2, rtol=1e-12)
    np.testing.assert_allclose(sizes[2], 1 / np.sqrt(2), rtol=1e-12)
    with pytest.raises(ValueError, match=r"Hadamard expects radices that are powers of two\. Received: a stage of radix 3\."):
        draw("hadamard", wiring)


def test_stacks_are_drawn_apart():
    first, second = initializers.get("fjlt")(WIRINGS["full"], stacks=2, seed=0)
    assert not np.array_equal(first, second)


def test_gain_is_spread_evenly_over_the_stages():
    wiring = WIRINGS["truncated"]
    expected = (16 / 3) ** (1 / 2 / 4) / np.sqrt(2)
    np.testing.assert_allclose(np.abs(draw("fjlt", wiring, seed=0)), expected, rtol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", RANDOM)
def test_full_butterfly_is_an_isometry(name, transposed):
    matrix = kernel(name, Wiring.butterfly(16, 16, transposed=transposed), seed=0)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(16), atol=1e-12)


@pytest.mark.parametrize("name", RANDOM)
def test_expansion_to_a_power_of_two_is_an_isometry(name):
    for wiring in (random(5, 16), random(11, 16), Wiring.butterfly(5, 16), Wiring.butterfly(11, 16, order="decreasing")):
        matrix = kernel(name, wiring, seed=0)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(wiring.inputs)), atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_fjlt_is_a_hadamard_matrix_with_signs_on_the_inputs(transposed):
    wiring = Wiring.butterfly(16, 16, transposed=transposed)
    weights = draw("fjlt", wiring, seed=0)
    np.testing.assert_allclose(np.abs(weights), 1 / np.sqrt(2), rtol=1e-12)
    flipped = weights * draw("hadamard", wiring) < 0
    first = wiring.stages[0].span
    assert flipped[first].any()
    assert not flipped[first.stop :].any()
    signs = (kernel("fjlt", wiring, seed=0) * np.sqrt(16)) @ (scipy.linalg.hadamard(16) / 16)
    np.testing.assert_allclose(signs, np.diag(np.sign(np.diag(signs))), atol=1e-12)


@pytest.mark.parametrize("order", [None, "increasing", "decreasing"])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(7, 3), (9, 5), (7, 6), (3, 3), (7, 7), (9, 9), (3, 7), (5, 9), (6, 7), (9, 13)]
)
def test_expected_squared_norm_of_fjlt_is_exact_with_a_random_subset(inputs, outputs, order, rng):
    """The mean of ||J x||^2 over all choices of the signs is ||x||^2 up to rounding."""
    x = rng.standard_normal(inputs)
    signs = np.array(list(product([-1.0, 1.0], repeat=inputs)))
    for seed in range(4):
        wiring = random(inputs, outputs, order=order, seed=seed)
        rows = kernel("hadamard", wiring)
        np.testing.assert_allclose(np.abs(rows), outputs**-0.5, rtol=1e-12)
        np.testing.assert_allclose(np.mean(np.sum(((signs * x) @ rows) ** 2, axis=1)), x @ x, rtol=1e-12)
        drawn = kernel("fjlt", wiring, seed=seed)
        sign = np.sign(drawn[:, :1] * rows[:, :1])
        np.testing.assert_allclose(drawn, sign * rows, rtol=1e-12)


def test_fjlt_signs_are_fair():
    wiring = WIRINGS["full"]
    signs = np.sign([np.diag(kernel("fjlt", wiring, seed=seed) @ scipy.linalg.hadamard(16)) for seed in range(200)])
    assert np.all(np.abs(signs.sum(axis=0)) < 5 * np.sqrt(200))


def test_hadamard_is_scipys():
    np.testing.assert_allclose(kernel("hadamard", WIRINGS["full"]), scipy.linalg.hadamard(16) / 4, atol=1e-12)


def test_truncated_hadamard_keeps_columns_and_scales():
    wiring = WIRINGS["truncated"]
    expected = np.sqrt(16 / 3) * scipy.linalg.hadamard(16)[:, wiring.outputs] / 4
    np.testing.assert_allclose(kernel("hadamard", wiring), expected, atol=1e-12)


def test_identity_copies_each_input_to_the_output_of_its_node(wiring):
    expected = np.equal.outer(wiring.inputs, wiring.outputs)
    np.testing.assert_array_equal(kernel("identity", wiring), expected)


@pytest.mark.parametrize("radix", [2, 4])
def test_orthogonal_draws_uniform_matrices_with_a_positive_diagonal(radix):
    wiring = Wiring.butterfly(1024, 1024, radix=radix)
    weights = draw("orthogonal", wiring, seed=0)
    shapes = [(-1, radix, radix, stage.stride) for stage in wiring.stages]
    stages = [weights[stage.span].reshape(shape) for stage, shape in zip(wiring.stages, shapes, strict=True)]
    gadgets = np.concatenate([stage.transpose(0, 3, 1, 2).reshape(-1, radix, radix) for stage in stages])
    identity = np.broadcast_to(np.eye(radix), gadgets.shape)
    np.testing.assert_allclose(gadgets @ gadgets.transpose(0, 2, 1), identity, atol=1e-12)
    assert np.all(np.diagonal(gadgets, axis1=1, axis2=2) > 0)
    # The squares do not depend on the signs. Under the Haar measure each has the mean 1 / r, and the other entries any sign.
    squares, others = gadgets**2, gadgets[~identity.astype(bool)]
    assert np.all(np.abs(squares.mean(0) - 1 / radix) < 5 * squares.std(0) / np.sqrt(len(gadgets)))
    assert abs(np.mean(others > 0) - 0.5) < 5 * 0.5 / np.sqrt(len(others) / radix)
    if radix == 2:  # rotations by angles that are uniform between a quarter turn back and forth
        angles = np.arctan2(gadgets[:, 0, 1], gadgets[:, 0, 0]) / np.pi + 0.5
        np.testing.assert_allclose(np.histogram(angles, 8, (0, 1))[0] / len(angles), 1 / 8, atol=0.025)


@pytest.mark.parametrize("name", RANDOM)
def test_seeded_draws_repeat(name):
    wiring = WIRINGS["truncated"]
    seeded = type(initializers.get(name))(seed=4)
    np.testing.assert_array_equal(seeded(wiring), seeded(wiring))
    np.testing.assert_array_equal(seeded(wiring), initializers.get(name)(wiring, seed=4))
    np.testing.assert_array_equal(seeded(wiring), seeded(wiring, seed=5))  # the seed of the initializer takes precedence
    assert not np.array_equal(draw(name, wiring, seed=4), draw(name, wiring, seed=5))


@pytest.mark.parametrize("name", RANDOM)
def test_unseeded_draws_differ_and_repeat_after_set_random_seed(name):
    wiring = WIRINGS["truncated"]
    keras.utils.set_random_seed(11)
    first, second = draw(name, wiring), draw(name, wiring)
    assert not np.array_equal(first, second)
    keras.utils.set_random_seed(11)
    np.testing.assert_array_equal(draw(name, wiring), first)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_equal_stacks_are_refused(name):
    message = r"gives every stack the same weights.*Expected stacks=1 or a random initializer.*Received: stacks=2"
    with pytest.raises(ValueError, match=message):
        initializers.get(name)(WIRINGS["full"], stacks=2)


@pytest.mark.parametrize("name", RANDOM + DETERMINISTIC)
def test_config_round_trip(name):
    original = type(initializers.get(name))(seed=3)
    config = keras.initializers.serialize(original)
    for restored in (initializers.get(config), keras.initializers.deserialize(config)):
        assert type(restored) is type(original)
        np.testing.assert_array_equal(restored(WIRINGS["truncated"]), original(WIRINGS["truncated"]))


def test_keras_initializers_and_their_configs_are_accepted():
    restored = initializers.get(keras.initializers.serialize(keras.initializers.RandomNormal(stddev=0.5, seed=1)))
    assert isinstance(restored, keras.initializers.RandomNormal)
    assert (restored.stddev, restored.seed) == (0.5, 1)
    assert isinstance(initializers.get("zeros"), keras.initializers.Zeros)
    assert isinstance(initializers.get("orthogonal"), initializers.RandomOrthogonal)  # not the one of Keras


def test_names_are_taken_in_any_case():
    assert isinstance(initializers.get("FJLT"), initializers.FJLT)


@pytest.mark.parametrize("identifier", ["fjtl", 3])
def test_unknown_initializer(identifier):
    message = rf"Expected one of \('glorot', 'fjlt', 'orthogonal', 'identity', 'hadamard'\).*Received: {identifier!r}"
    with pytest.raises(ValueError, match=message):
        initializers.get(identifier)
