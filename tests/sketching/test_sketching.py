"""Tests of sketches, objectives and low-rank approximations, compared with plain NumPy, SciPy and scikit-learn."""

import keras
import numpy as np
import pytest
from backend import EXAMPLES, NAME, value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_butterfly.layers.initializers import FJLT
from keras_butterfly.sketching import (
    ButterflySketch,
    DenseSketch,
    GaussianSketch,
    SparseSketch,
    eigenvalue_loss,
    low_rank_approximation,
    singular_vector_loss,
)

scipy_sparse = pytest.importorskip("scipy.sparse")

KINDS = {
    "butterfly": lambda ell, **settings: ButterflySketch(ell, seed=0, **settings),
    "butterfly by stages": lambda ell, **settings: ButterflySketch(ell, seed=0, implementation="gather", **settings),
    "butterflies": lambda ell, **settings: ButterflySketch(ell, seed=0, stacks=2, **settings),
    "sparse": lambda ell, **settings: SparseSketch(ell, seed=0, **settings),
    "sparse, 3": lambda ell, **settings: SparseSketch(ell, 3, seed=0, **settings),
    "dense": lambda ell, **settings: DenseSketch(ell, seed=0, **settings),
    "Gaussian": lambda ell, **settings: GaussianSketch(ell, seed=0, **settings),
}
# The rows of the nonzeros of each column, for seed 5.
NONZERO_ROWS = [[2, 0], [3, 6], [1, 3], [4, 5], [6, 2], [1, 5], [2, 5], [3, 4]]
kinds = pytest.mark.parametrize("kind", KINDS)


def matrix(sketch):
    return ops.convert_to_numpy(sketch.matrix).astype(float)


def best(B, X, k, sketched=None):
    """Return [X V]_k V^T in plain NumPy, where U S V^T is the SVD of `sketched`."""
    values, rows = np.linalg.svd(B @ X if sketched is None else sketched, full_matrices=False)[1:]
    rows = rows[values > 1e-10 * max(values[0], 1e-300)]
    left, inner, outer = np.linalg.svd(X @ rows.T, full_matrices=False)
    return (left[:, :k] * inner[:k]) @ outer[:k] @ rows


@kinds
def test_a_sketch_is_its_matrix(kind, rng):
    sketch = KINDS[kind](6)
    X = rng.standard_normal((2, 3, 20, 9)).astype("float32")
    found = ops.convert_to_numpy(sketch(X))
    assert found.shape == (2, 3, 6, 9) == sketch.compute_output_shape(X.shape)
    np.testing.assert_allclose(found, matrix(sketch) @ X, rtol=1e-4, atol=1e-5)
    assert matrix(sketch).shape == (6, 20)


@kinds
def test_parameters(kind):
    sketch = KINDS[kind](6)
    sketch.build((20, 9))
    weights = sum(int(np.prod(weight.shape)) for weight in sketch.weights)
    assert sketch.effective_parameters == weights
    assert bool(sketch.trainable_weights) == (kind != "Gaussian")
    if kind.startswith("sparse"):
        assert (np.count_nonzero(matrix(sketch), axis=0) == {"sparse": 1, "sparse, 3": 3}[kind]).all()


def test_the_places_of_a_sparse_sketch_are_those_of_its_seed_for_ever():
    sketch = SparseSketch(7, 2, seed=5)
    sketch.build((8, 3))
    assert sketch.nonzero_rows.tolist() == NONZERO_ROWS
    assert (np.sort(np.abs(ops.convert_to_numpy(sketch.values)), axis=None) == np.float32(2**-0.5)).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("dense", "Gaussian")])
def test_without_a_seed_places_are_the_same_at_every_build_and_values_are_drawn_anew(kind):
    def positions(sketch):
        return sketch.nonzero_rows.tolist() if kind.startswith("sparse") else sketch.butterfly.wiring

    def unseeded():
        config = {**KINDS[kind](6).get_config(), "seed": None}
        sketch = type(KINDS[kind](6)).from_config(config)
        sketch.build((20, 9))
        assert sketch.get_config()["seed"] is None
        return sketch

    first, second = unseeded(), unseeded()
    assert positions(first) == positions(second)
    assert np.abs(matrix(first) - matrix(second)).max() > 0.1
    keras.utils.set_random_seed(5)
    third = unseeded()
    keras.utils.set_random_seed(5)
    fourth = unseeded()
    assert positions(third) == positions(first)
    np.testing.assert_array_equal(matrix(third), matrix(fourth))
    other = type(third).from_config({**third.get_config(), "seed": 1})
    other.build((20, 9))
    assert positions(other) != positions(first)


@pytest.mark.parametrize("cls", [DenseSketch, GaussianSketch])
def test_without_a_seed_entries_are_drawn_anew_unless_keras_seed_fixes_them(cls):
    drawn = []
    for seed in (0, None, 0):
        if seed is not None:
            keras.utils.set_random_seed(seed)
        sketch = cls(6)
        sketch.build((20, 9))
        assert sketch.get_config()["seed"] is None
        drawn.append(matrix(sketch))
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1


def test_a_butterfly_sketch_is_the_papers():
    """Look at the defaults: a random subset, no bias, the FJLT, and increasing strides."""
    sketch = ButterflySketch(6)
    sketch.build((50, 3))
    wiring = sketch.butterfly.wiring
    assert wiring.outputs != tuple(range(6))
    assert max(wiring.outputs) < 50
    assert wiring.increasing
    assert sketch.butterfly.bias is None
    assert isinstance(sketch.butterfly.kernel_initializer, FJLT)


@pytest.mark.parametrize("draws", [20, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("seeded", [True, False])
@kinds
def test_expected_norms_are_kept(kind, seeded, draws):
    """The mean of ||B x||^2 over the draws is ||x||^2, with a seed of the sketch and without one."""
    x, norms, config = np.linspace(1, 2, 16)[:, None], [], KINDS[kind](4).get_config()
    for seed in range(draws):
        sketch = type(KINDS[kind](4)).from_config({**config, "seed": seed if seeded else None})
        sketch.build((16, 1))
        norms.append(np.sum((matrix(sketch) @ x) ** 2))
    assert np.mean(norms) == pytest.approx(np.sum(x**2), rel=2.2 / np.sqrt(draws))


@kinds
def test_saved_and_loaded(kind, rng, tmp_path):
    sketch = KINDS[kind](6)
    inputs = keras.Input((20, 9))
    model = keras.Model(inputs, sketch(inputs))
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    model.save(tmp_path / "sketch.keras")
    loaded = keras.models.load_model(tmp_path / "sketch.keras")
    X = rng.standard_normal((2, 20, 9)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(X)), ops.convert_to_numpy(model(X)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_value_of_the_objective_is_the_error_of_the_best_approximation(ell, n, d, data):
    """Compare for all sizes and ranks, rank 0 too."""
    k, rank = data.draw(st.integers(1, min(ell, d))), data.draw(st.integers(0, min(n, d)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
    B = rng.standard_normal((ell, n))
    expected = np.sum((X - best(B, X, k)) ** 2)
    found = ops.convert_to_numpy(eigenvalue_loss(ops.convert_to_tensor(B @ X), ops.convert_to_tensor(X), k))
    tolerance = 1e-5 if NAME == "torch" else 1e-7
    assert found == pytest.approx(expected, abs=tolerance * max(np.sum(X**2), 1e-300), rel=tolerance)


def gradient(objective, A, X, k):
    value, (found,) = value_and_gradients(
        lambda sketched: objective(sketched, ops.convert_to_tensor(X), k), [A], np.ones(A.shape[:-2], A.dtype)
    )
    return value, found


@pytest.mark.parametrize(("n", "d", "ell", "k"), [(9, 8, 4, 2), (9, 8, 4, 4), (12, 5, 5, 3), (6, 7, 3, 1), (10, 4, 6, 2)])
def test_values_and_gradients_are_those_of_the_differentiable_decompositions(rng, n, d, ell, k):
    X, B = rng.standard_normal((3, n, d)), rng.standard_normal((ell, n))
    A = B @ X
    value, found = gradient(eigenvalue_loss, A, X, k)
    differences, step = np.zeros_like(A), 1e-6
    for index in np.ndindex(A.shape):
        errors = []
        for sign in (1, -1):
            other = A.copy()
            other[index] += sign * step
            errors.append(np.sum((X[index[0]] - best(B, X[index[0]], k, other[index[0]])) ** 2))
        differences[index] = (errors[0] - errors[1]) / (2 * step)
    tolerance = 1e-3 if NAME == "torch" else 1e-6
    np.testing.assert_allclose(found, differences, atol=max(tolerance, 1e-5) * max(np.abs(differences).max(), 1))
    if ell <= d:  # with more rows than columns the gradient of the reference divides by zero
        reference, expected = gradient(singular_vector_loss, A, X, k)
        np.testing.assert_allclose(value, reference, rtol=1e-5)
        np.testing.assert_allclose(found, expected, atol=max(tolerance, 1e-6) * max(np.abs(expected).max(), 1))


def awkward():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((16, 2)) @ rng.standard_normal((2, 12))
    orthogonal = np.linalg.qr(rng.standard_normal((16, 12)))[0]
    zero_columns = np.concatenate([rng.standard_normal((16, 3)), np.zeros((16, 9))], axis=1)
    return {
        "zero": np.zeros((16, 12)),
        "rank 2": low,
        "equal singular values": orthogonal,
        "identity": np.eye(16, 12),
        "one entry": np.eye(16, 12) * (np.arange(16) == 3)[:, None],
        "ones": np.ones((16, 12)),
        "zero columns": zero_columns,
        "tiny": 1e-25 * low,
        "huge": 1e15 * orthogonal,
    }


@kinds
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.long)])
@pytest.mark.usefixtures("eager")
def test_the_objective_and_its_gradient_are_finite(kind, dtype):
    if kind == "Gaussian":
        pytest.skip("nothing to learn")
    X = np.stack(list(awkward().values())).astype(dtype)
    for k in (1, 6):
        sketch = KINDS[kind](6, dtype=dtype)
        sketch.build(X.shape)
        B = matrix(sketch).astype(dtype)
        value, found = gradient(eigenvalue_loss, B @ X, X, k)
        assert np.isfinite(value).all()
        assert np.isfinite(found).all()
    sketch.fit(X[:5], 3, steps=3)
    assert np.isfinite(matrix(sketch)).all()


@pytest.mark.parametrize(
    "kind",
    [
        "butterfly",
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in ("sparse", "dense", "butterfly by stages", "butterflies", "sparse, 3")
        ),
    ],
)
def test_training_lowers_the_error(kind, rng):
    common = rng.standard_normal((4, 12))  # the rows of all matrices are near one space of dimension 4
    mixing = rng.standard_normal((32, 4))
    matrices = np.stack([mixing @ (common + 0.3 * rng.standard_normal((4, 12))) for _ in range(8)])
    matrices = (matrices + 0.1 * rng.standard_normal(matrices.shape)).astype("float32")
    sketch = KINDS[kind](4)
    sketch.build(matrices.shape)
    errors = [low_rank_approximation(sketch, matrices, 3).squared_error.mean()]
    history = sketch.fit(matrices, 3, steps=100, batch_size=4, learning_rate=3e-2)
    errors.append(low_rank_approximation(sketch, matrices, 3).squared_error.mean())
    floor = np.mean(np.sum(np.linalg.svd(matrices.astype(float), compute_uv=False)[:, 3:] ** 2, axis=-1))
    assert floor < errors[1] < floor + 0.7 * (errors[0] - floor)
    assert history.history["loss"][0] > history.history["loss"][-1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_approximation_is_the_best_in_the_row_space(rng, dtype):
    X = rng.standard_normal((3, 24, 15)).astype(dtype)
    sketch = ButterflySketch(6, seed=0, dtype="float64")
    for k in (1, 4, 6):
        found = low_rank_approximation(sketch, X, k)
        B, tolerance = matrix(sketch), {"float32": 1e-4, "float64": 1e-9}[dtype] if NAME != "torch" else 1e-4
        expected = np.stack([best(B, each.astype(float), k) for each in X])
        assert found.left.shape == (3, 24, k)
        assert found.right.shape == (3, k, 15)
        np.testing.assert_allclose(found.singular_values, np.linalg.svd(expected)[1][:, :k], rtol=10 * tolerance)
        assert found.left.dtype == dtype
        np.testing.assert_allclose(found.dense(), expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(found.squared_error, np.sum((X - expected) ** 2, axis=(1, 2)), rtol=tolerance)
        np.testing.assert_allclose(found.right @ np.swapaxes(found.right, 1, 2), np.stack([np.eye(k)] * 3), atol=1e-5)


def test_it_is_as_good_as_randomized_svd_at_equal_width(rng):
    """Without power iterations, randomized_svd of the transpose uses one Gaussian sketch of the rows."""
    extmath = pytest.importorskip("sklearn.utils.extmath")
    X = (np.linalg.qr(rng.standard_normal((80, 50)))[0] * 0.8 ** np.arange(50)) @ np.linalg.qr(rng.standard_normal((50, 50)))[0]
    ours, theirs = [], []
    for seed in range(20):
        ours.append(low_rank_approximation(GaussianSketch(15, seed=seed), X, 10).squared_error)
        u, s, v = extmath.randomized_svd(X.T, 10, n_oversamples=5, n_iter=0, random_state=seed)
        theirs.append(np.sum((X.T - (u * s) @ v) ** 2))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.2)
    assert min(ours) >= np.sum(np.linalg.svd(X, compute_uv=False)[10:] ** 2) * (1 - 1e-9)


@kinds
def test_sparse_matrices(kind, rng):
    dense = rng.standard_normal((30, 12)) * (rng.random((30, 12)) < 0.2)
    sketch = KINDS[kind](5)
    expected = low_rank_approximation(sketch, dense, 3)
    for form in ("csr_array", "csc_matrix", "coo_array"):
        found = low_rank_approximation(sketch, getattr(scipy_sparse, form)(dense), 3)
        np.testing.assert_allclose(found.dense(), expected.dense(), atol=1e-4)
        assert found.squared_error == pytest.approx(expected.squared_error, rel=1e-4)


def test_fewer_directions_than_k(rng):
    X = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 9))
    found = low_rank_approximation(GaussianSketch(5, seed=0), X, 4)
    np.testing.assert_allclose(found.dense(), X, atol=1e-4)
    assert low_rank_approximation(GaussianSketch(5, seed=0), np.zeros((20, 9)), 4).squared_error == 0


GOOD = np.ones((3, 10, 6)) * np.arange(1, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ButterflySketch(0), "`ell` must be a positive integer"),
        (lambda: SparseSketch(4, 5), "`nonzeros` must be at most ell, 4. Received: nonzeros=5"),
        (lambda: GaussianSketch(11)(GOOD), "expects matrices of at least ell=11 rows. Received: 10 rows"),
        (lambda: GaussianSketch(4)(np.ones(3)), "expects matrices"),
        (lambda: GaussianSketch(4).matrix, "is not built"),
        (lambda: ButterflySketch(4).effective_parameters, "is not built"),
        (lambda: GaussianSketch(4).fit(GOOD, 2), "Expected a sketch with weights to train"),
        (lambda: SparseSketch(4).fit(GOOD, 5), "`k` must be at most ell=4 and d=6. Received: k=5"),
        (lambda: SparseSketch(8).fit(GOOD, 7), "`k` must be at most ell=8 and d=6. Received: k=7"),
        (lambda: SparseSketch(4).fit(GOOD[0], 2), r"Expected an array \(matrices, n, d\) of numbers"),
        (lambda: SparseSketch(4).fit(GOOD * np.nan, 2), "Expected finite numbers in the matrices"),
        (lambda: SparseSketch(4).fit(0 * GOOD, 2), "Received: only zeros"),
        (lambda: SparseSketch(4).fit(GOOD, 2, steps=0), "`steps` must be a positive integer"),
        (lambda: low_rank_approximation(GaussianSketch(4), GOOD, 5), "`k` must be at most ell=4"),
        (lambda: low_rank_approximation(GaussianSketch(4), GOOD * np.inf, 2), "Expected finite numbers in X"),
        (
            lambda: low_rank_approximation(GaussianSketch(4), np.ones(3), 1),
            r"Expected X as a matrix or matrices, \(..., n, d\)",
        ),
        (lambda: low_rank_approximation(built(), np.ones((9, 6)), 1), r"expects matrices of 10 rows. Received: shape \(9, 6\)"),
        (lambda: built()(np.ones((9, 6))), r"expects matrices of 10 rows"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def built():
    sketch = GaussianSketch(4)
    sketch.build((10, 6))
    return sketch


@pytest.mark.parametrize("dtype", ["int64", "bool", "float16"])
def test_other_numbers(dtype, rng):
    """Sparse matrices of text hold counts, for example."""
    dense = (rng.random((30, 12)) < 0.3).astype(dtype)
    sketch = GaussianSketch(5, seed=0)
    expected = low_rank_approximation(sketch, dense.astype("float64"), 3)
    for X in (dense, scipy_sparse.csr_array(dense) if dtype != "float16" else dense):
        np.testing.assert_allclose(low_rank_approximation(sketch, X, 3).dense(), expected.dense(), atol=1e-3)
    with pytest.raises(ValueError, match="Expected real numbers"):
        low_rank_approximation(sketch, dense.astype("complex64"), 3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.usefixtures("eager")
def test_mixed_precision(policy, rng):
    sketch = ButterflySketch(4, seed=0, dtype=policy)
    loss = sketch.fit(rng.standard_normal((4, 16, 9)), 2, steps=5).history["loss"]
    assert np.isfinite(loss).all()


def test_values_of_nonzeros_in_other_rows_are_refused(tmp_path):
    models = []
    for seed in (0, 1):
        inputs = keras.Input((20, 9))
        models.append(keras.Model(inputs, SparseSketch(4, seed=seed, name="sketch")(inputs)))
    models[0].save_weights(tmp_path / "sketch.weights.h5")
    models[0].load_weights(tmp_path / "sketch.weights.h5")
    with pytest.raises(ValueError, match="belong to nonzeros in other rows"):
        models[1].load_weights(tmp_path / "sketch.weights.h5")


def test_values_that_are_kept_as_drawn_are_not_trained():
    with pytest.raises(ValueError, match="Expected a sketch with weights to train"):
        SparseSketch(4, trainable=False).fit(GOOD, 2)
