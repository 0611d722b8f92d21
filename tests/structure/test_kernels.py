"""Tests of every way to compute a butterfly: values, gradients and shapes, compared with dense NumPy matrices."""

import math
import re
from functools import partial

import keras
import numpy as np
import oracles
import pytest
import scipy.linalg
from backend import ROUNDOFF, traced, value_and_gradients
from keras import ops

from keras_butterfly.layers import initializers
from keras_butterfly.structure import fusion, kernels
from keras_butterfly.structure.wiring import Wiring

random = partial(Wiring.butterfly, truncation="random")
WIRINGS = {
    "one node": Wiring.butterfly(1, 1),
    "two nodes": Wiring.butterfly(2, 2),
    "one of two": Wiring.butterfly(2, 1, truncation=[1]),
    "one to two": Wiring.butterfly(1, 2, truncation=[1]),
    "padded to four": Wiring.butterfly(3, 3),
    "padded to four, given nodes": Wiring.butterfly(3, 3, truncation=[0, 2, 3]),
    "full": Wiring.butterfly(16, 16),
    "full transposed": Wiring.butterfly(16, 16, transposed=True),
    "padded": random(13, 11, seed=2),
    "padded transposed": Wiring.butterfly(11, 11, transposed=True, truncation=[15, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14]),
    "tall": random(16, 5, seed=3),
    "tall transposed": random(13, 3, transposed=True, seed=3),
    "tall to one": random(17, 1, seed=3),
    "wide": random(5, 16, seed=4),
    "wide padded": random(3, 13, seed=4),
    "wide from one": random(1, 9, seed=4),
    "wide within a power of two": random(11, 16, seed=4),
    "wide, increasing strides": random(5, 16, order="increasing", seed=4),
    "first nodes": Wiring.butterfly(16, 3),
    "from the first nodes": Wiring.butterfly(3, 11),
    "unsorted outputs": Wiring.butterfly(16, 3, truncation=[9, 0, 14]),
    "unsorted inputs": Wiring.butterfly(3, 16, truncation=[9, 0, 14]),
    "radix 4": Wiring.butterfly(16, 16, radix=4),
    "radix 4 with a rest": random(30, 7, radix=4, seed=3),
    "radices 2, 3, 5, transposed": Wiring.butterfly(30, 11, radix=(2, 3, 5), transposed=True),
    "radices 4 and 6, wide": Wiring.butterfly(7, 24, radix=(4, 6)),
    "radices 5 and 4, random nodes": random(17, 19, radix=(5, 4), seed=3),
    "one stage": Wiring.butterfly(5, 6, radix=(7,)),
    "both ends chosen": Wiring(16, (1, 2, 4, 8), inputs=(7, 2, 12), outputs=(3, 15, 8, 1)),
}


def compositions(total):
    """Return all tuples of positive integers that add up to `total`."""
    if total == 0:
        return [()]
    return [(first, *rest) for first in range(1, total + 1) for rest in compositions(total - first)]


def executions(wiring, groupings=None):
    """Yield the name and the function (x, weights) -> y of every way to compute `wiring`, for arrays or tensors.

    Factors are made of stages in every grouping, or in the given ones.
    """
    for name, apply in _executions(wiring, compositions(len(wiring.strides)) if groupings is None else groupings):
        apply = traced(apply)
        yield name, lambda x, weights, apply=apply: apply(ops.convert_to_tensor(x), ops.convert_to_tensor(weights))


def _executions(wiring, groupings):
    yield "stages", lambda x, weights: kernels.apply_stages(x, wiring, weights)
    yield "folded", lambda x, weights: kernels.apply_folded(x, wiring, weights)
    for counts in groupings:
        factors = fusion.factors(wiring, counts)
        yield f"factors {counts}", lambda x, weights, factors=factors: kernels.apply_factors(x, wiring, weights, factors)


def draw(rng, wiring, leading=(6,)):
    """Return random weights and inputs, float64."""
    weights = rng.standard_normal(wiring.effective_weights)
    return weights, rng.standard_normal((*leading, len(wiring.inputs)))


@pytest.fixture(params=WIRINGS.values(), ids=WIRINGS.keys())
def wiring(request):
    return request.param


FEW = ["one node", "padded", "tall transposed", "wide padded", "radices 2, 3, 5, transposed"]
few = pytest.mark.parametrize("wiring", [WIRINGS[name] for name in FEW], ids=FEW)


def test_values_equal_the_dense_product(wiring, rng):
    weights, x = draw(rng, wiring)
    expected = x @ oracles.dense_matrix(wiring, weights)
    for name, apply in executions(wiring):
        np.testing.assert_allclose(apply(x, weights), expected, rtol=ROUNDOFF, atol=ROUNDOFF, err_msg=name)


def balanced(wiring):
    """Return groupings of the stages into 1, 2, ... factors of about equal size."""
    stages = len(wiring.strides)
    return [fusion.balanced_counts(stages, groups) for groups in range(1, stages + 1)]


@pytest.mark.parametrize("groupings", [balanced, pytest.param(lambda wiring: None, marks=pytest.mark.long)], ids=["few", "all"])
def test_gradients_equal_the_dense_chain_rule(wiring, groupings, rng):
    weights, x = draw(rng, wiring)
    upstream = rng.standard_normal((6, len(wiring.outputs)))
    expected_x, expected_weights = oracles.gradients(wiring, weights, x, upstream)
    for name, apply in executions(wiring, groupings(wiring)):
        _, (of_x, of_weights) = value_and_gradients(apply, [x, weights], upstream)
        np.testing.assert_allclose(of_x, expected_x, rtol=10 * ROUNDOFF, atol=10 * ROUNDOFF, err_msg=name)
        np.testing.assert_allclose(of_weights, expected_weights, rtol=10 * ROUNDOFF, atol=10 * ROUNDOFF, err_msg=name)


def random_wiring(rng):
    """Return a wiring whose sizes, radices, nodes and order `rng` draws."""
    inputs, outputs = (int(size) for size in rng.integers(2, 33, 2))
    radix = rng.integers(2, 8, rng.integers(1, 4)).tolist()
    missing = -(-max(inputs, outputs) // math.prod(radix))
    chosen = [2, 4, 8, "auto", radix if missing == 1 else [*radix, missing]][rng.integers(5)]
    nodes, transposed = ("first", "random")[rng.integers(2)], bool(rng.integers(2))
    return Wiring.butterfly(inputs, outputs, radix=chosen, truncation=nodes, transposed=transposed, seed=int(rng.integers(99)))


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[] if seed < 2 else pytest.mark.long) for seed in range(10)])
def test_values_and_gradients_equal_the_dense_product_at_random_sizes_and_radices(seed):
    rng = np.random.default_rng(seed)
    for wiring in (random_wiring(rng) for _ in range(10)):
        weights, x = draw(rng, wiring)
        upstream = rng.standard_normal((6, len(wiring.outputs)))
        expected = [x @ oracles.dense_matrix(wiring, weights), *oracles.gradients(wiring, weights, x, upstream)]
        factors = fusion.best_factors(wiring)
        for apply in (kernels.apply_stages, kernels.apply_folded, partial(kernels.apply_factors, factors=factors)):
            value, found = value_and_gradients(
                lambda x, weights, apply=apply, wiring=wiring: apply(
                    ops.convert_to_tensor(x), wiring=wiring, weights=ops.convert_to_tensor(weights)
                ),
                [x, weights],
                upstream,
            )
            for received, wanted in zip([value, *found], expected, strict=True):
                bound = 10 * ROUNDOFF * max(1.0, np.abs(wanted).max(initial=0))
                np.testing.assert_allclose(received, wanted, rtol=0, atol=bound, err_msg=f"{apply}, {wiring}")


def test_gradients_equal_finite_differences(rng):
    wiring, step = WIRINGS["unsorted outputs"], 1e-6
    weights, x = draw(rng, wiring)
    _, (gradient,) = value_and_gradients(
        lambda w: ops.sum(ops.sin(kernels.apply_stages(ops.convert_to_tensor(x), wiring, w))), [weights], np.ones(())
    )

    def loss_at(values):
        return np.sin(x @ oracles.dense_matrix(wiring, values)).sum()

    for k, shift in enumerate(step * np.eye(len(gradient))):
        numeric = (loss_at(weights + shift) - loss_at(weights - shift)) / (2 * step)
        np.testing.assert_allclose(gradient[k], numeric, rtol=1e-5, atol=1e-7)


@few
def test_every_weight_learns(wiring, rng):
    weights, x = draw(rng, wiring)
    _, (gradient,) = value_and_gradients(
        lambda w: ops.sum(kernels.apply_stages(ops.convert_to_tensor(x), wiring, w) ** 2), [weights], np.ones(())
    )
    assert np.all(np.abs(gradient) > 1e-9)


@pytest.mark.parametrize("leading", [(2, 3), (2, 1, 3)], ids=["rank 3", "rank 4"])
@pytest.mark.parametrize("name", ["full", "tall", "wide padded", "one node"])
def test_leading_axes_are_kept(name, leading, rng):
    wiring = WIRINGS[name]
    weights, x = draw(rng, wiring, leading)
    expected = x @ oracles.dense_matrix(wiring, weights)
    assert expected.shape == (*leading, len(wiring.outputs))
    for execution, apply in executions(wiring):
        np.testing.assert_allclose(apply(x, weights), expected, rtol=ROUNDOFF, atol=ROUNDOFF, err_msg=execution)


@few
def test_an_empty_batch_gives_an_empty_batch(wiring, rng):
    weights, x = draw(rng, wiring, leading=(0,))
    for name, apply in executions(wiring):
        assert apply(x, weights).shape == (0, len(wiring.outputs)), name


def planned_kernel(wiring, weights):
    """Return the dense matrix in the way that a layer chooses."""
    return kernels.plan_kernel(wiring)(weights)


@pytest.mark.parametrize("materialise", [kernels.fold, planned_kernel])
def test_equivalent_matrix_is_the_dense_product(materialise, wiring, rng):
    weights, _ = draw(rng, wiring)
    expected = oracles.dense_matrix(wiring, weights)
    np.testing.assert_allclose(materialise(wiring, ops.convert_to_tensor(weights)), expected, rtol=ROUNDOFF, atol=ROUNDOFF)


def test_equivalent_matrix_is_the_same_by_folding_and_by_block_factors(rng):
    wiring = random(61, 59, seed=1)
    assert not fusion.folds(wiring)  # so `kernel` multiplies out block factors
    weights, _ = draw(rng, wiring)
    np.testing.assert_allclose(
        *(f(wiring, ops.convert_to_tensor(weights)) for f in (planned_kernel, kernels.fold)), rtol=ROUNDOFF, atol=ROUNDOFF
    )


def test_block_factors_are_the_products_of_their_stages(wiring, rng):
    weights, _ = draw(rng, wiring)
    stages = oracles.stage_matrices(wiring, weights)
    for counts in compositions(len(wiring.strides)):
        factors = fusion.factors(wiring, counts)
        for factor, blocks in zip(factors, kernels.block_factors(wiring, ops.convert_to_tensor(weights), factors), strict=True):
            expected = np.eye(wiring.size)
            for matrix in stages[factor.first : factor.first + factor.count]:
                expected = expected @ matrix
            blocks, found = ops.convert_to_numpy(blocks), np.zeros_like(expected)
            for high, low, i, o in np.ndindex(*blocks.shape):
                source, target = ((high * factor.radix + bits) * factor.low + low for bits in (i, o))
                found[source, target] = blocks[high, low, i, o]
            np.testing.assert_allclose(found, expected, rtol=ROUNDOFF, atol=ROUNDOFF, err_msg=f"{factor} of {counts}")


@few
def test_float32_stays_float32(wiring, rng):
    weights, x = (array.astype("float32") for array in draw(rng, wiring))
    for name, apply in executions(wiring):
        assert keras.backend.standardize_dtype(apply(x, weights).dtype) == "float32", name


@pytest.mark.parametrize("radix", [2, 4, 32, (8, 4)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_hadamard_weights_give_the_hadamard_matrix(transposed, radix):
    wiring = Wiring.butterfly(32, 32, radix=radix, transposed=transposed)
    weights = initializers.Hadamard()(wiring, dtype="float64")[0]
    expected = scipy.linalg.hadamard(32) / np.sqrt(32)
    for name, apply in executions(wiring):
        np.testing.assert_allclose(apply(np.eye(32), weights), expected, atol=ROUNDOFF, err_msg=name)


def test_twiddle_weights_give_the_fourier_transform(rng):
    """Use decimation in time: inputs in bit-reversed order and gadgets [[1, 1], [w, -w]], w = exp(-2 pi i l / 2s)."""
    size, bits = 16, 4
    reversed_bits = tuple(int(f"{k:0{bits}b}"[::-1], 2) for k in range(size))
    wiring = Wiring(size, tuple(1 << t for t in range(bits)), inputs=reversed_bits, outputs=tuple(range(size)))
    stages = []
    for stride in wiring.strides:
        twiddle = np.exp(-2j * np.pi * np.arange(stride) / (2 * stride))
        gadgets = np.ones((size // (2 * stride), 2, 2, stride), complex)
        gadgets[:, 1, 0], gadgets[:, 1, 1] = twiddle, -twiddle
        stages.append(gadgets.ravel())
    x = rng.standard_normal((3, size)) + 1j * rng.standard_normal((3, size))
    y = kernels.apply_stages(ops.convert_to_tensor(x), wiring, ops.convert_to_tensor(np.concatenate(stages)))
    np.testing.assert_allclose(y, np.fft.fft(x), atol=ROUNDOFF)


@pytest.mark.parametrize("counts", [(3,), (2, 3), (4, 0), (5, -1), ()])
def test_counts_must_be_positive_and_cover_all_stages(counts):
    message = f"`counts` must be positive and add up to the 4 stages. Received: counts={counts}"
    with pytest.raises(ValueError, match=re.escape(message)):
        fusion.factors(WIRINGS["full"], counts)


@few
def test_a_factors_cost_is_the_entries_of_its_blocks(wiring, rng):
    weights, _ = draw(rng, wiring)
    for counts in compositions(len(wiring.strides)):
        factors = fusion.factors(wiring, counts)
        blocks = kernels.block_factors(wiring, ops.convert_to_tensor(weights), factors)
        assert [factor.multiply_adds for factor in factors] == [int(np.prod(block.shape)) for block in blocks]


@pytest.mark.parametrize("n", [1, 2, 64, 1024, 4096, 65536])
def test_best_counts_are_the_cheapest_of_the_balanced(n):
    wiring = Wiring.butterfly(n, n)
    stages = len(wiring.strides)
    best = fusion.best_counts(wiring)
    assert sum(best) == stages
    for groups in range(1, stages + 1):
        counts = fusion.balanced_counts(stages, groups)
        assert sum(counts) == stages
        assert max(counts) - min(counts) <= 1
        assert fusion.factors_cost(wiring, best) <= fusion.factors_cost(wiring, counts)
