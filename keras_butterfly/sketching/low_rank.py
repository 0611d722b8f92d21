"""Low-rank approximations of matrices, computed from their sketches and kept in factored form."""

from dataclasses import dataclass

import numpy as np
from keras import ops

from ..utils.validation import check_finite
from .objectives import rank_tolerance
from .sketches import Sketch, check_rank


@dataclass(frozen=True, eq=False)
class LowRankApproximation:
    """An approximation of rank k of a matrix X, or of many matrices, as the product `left @ right`.

    Attributes:
        left: (..., n, k), orthogonal columns whose norms are the singular values, largest first.
        right: (..., k, d), orthonormal rows. If the rank of the sketch is below k, the last rows are zero.
        squared_norm: ||X||_F^2, (...).

    Example:
        >>> approximation = low_rank_approximation(GaussianSketch(3, seed=0), np.diag([3.0, 2.0, 1.0]), 2)
        >>> approximation.singular_values.round(5).tolist(), round(float(approximation.squared_error), 5)
        ([3.0, 2.0], 1.0)
    """

    left: np.ndarray
    right: np.ndarray
    squared_norm: np.ndarray

    @property
    def singular_values(self) -> np.ndarray:
        """Return the singular values of the approximation, (..., k), largest first."""
        return np.linalg.norm(self.left, axis=-2)

    @property
    def squared_error(self) -> np.ndarray:
        """Return ||X - left @ right||_F^2, (...).

        The approximation is a projection of X, so this is ||X||_F^2 minus its own squared norm. Because of the subtraction,
        errors below about 1e-14 of ||X||_F^2 are lost (1e-6 if X is in float32).
        """
        return np.maximum(self.squared_norm - np.sum(np.square(self.left, dtype=float), axis=(-2, -1)), 0)

    def dense(self) -> np.ndarray:
        """Return the approximation as a dense array, (..., n, d). No other function forms that array."""
        return self.left @ self.right


def low_rank_approximation(sketch: Sketch, X, k: int) -> LowRankApproximation:
    """Return the best approximation of X of rank k in the row space of B X, where B is the matrix of `sketch`.

    The approximation is B_k(X) = [X V]_k V^T with U S V^T = svd(B X). It takes the products B X and X V and the decompositions
    of an (ell, d) and an (n, ell) matrix. X V takes ell multiply-adds for every entry of X, or for every nonzero of a sparse X.
    The (n, d) matrix of the approximation is not formed.

    Args:
        sketch: a sketch that is built for n rows, or not built yet.
        X: an array or tensor (..., n, d), or a SciPy sparse matrix or array (n, d).
        k: rank, at most ell and d.

    Returns:
        The approximation, in float32 if the dtype of X is float32 or a shorter float, else in float64.

    Raises:
        ValueError: if X has another number of rows, complex numbers or an entry that is not finite, or k is out of range.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 6; Sarlos, FOCS 2006; Clarkson, Woodruff, STOC 2013.

    Example:
        >>> X = np.outer(np.arange(8.0), np.ones(5))
        >>> approximation = low_rank_approximation(GaussianSketch(2, seed=0), X, 1)
        >>> approximation.left.shape, approximation.right.shape, bool(np.allclose(approximation.dense(), X))
        ((8, 1), (1, 5), True)
    """
    sparse = hasattr(X, "tocsr")
    X = _floating(X.tocsr() if sparse else ops.convert_to_numpy(X))
    if len(X.shape) < 2:
        raise ValueError(f"Expected X as a matrix or matrices, (..., n, d). Received: shape {tuple(X.shape)}")
    if not sketch.built:
        sketch.build(X.shape)
    check_rank(k, sketch.ell, X)
    sketch.check_rows(X)
    if sparse:
        sketched = (X.T @ ops.convert_to_numpy(sketch.matrix).T.astype(X.dtype)).T
        norm = np.sum(np.square(X.data, dtype=float))
    else:
        sketched = ops.convert_to_numpy(ops.cast(sketch(X), str(X.dtype)))
        norm = np.einsum("...ij,...ij->...", X, X, dtype=float)
    _, values, rows = np.linalg.svd(sketched, full_matrices=False)
    tolerance = rank_tolerance(str(X.dtype), sketch.compute_dtype)
    present = values > np.maximum(tolerance * values[..., :1], np.finfo("float32").tiny)
    rows = rows * present[..., None]
    left, inner, outer = np.linalg.svd(X @ np.swapaxes(rows, -1, -2), full_matrices=False)
    right = outer[..., :k, :] @ rows
    return LowRankApproximation(left[..., :k] * inner[..., None, :k], right, norm)


def _floating(X):
    """Return the array or sparse matrix `X` in float32 or float64. It is copied only if it has another dtype."""
    check_finite(X.data if hasattr(X, "tocsr") else X, "X")
    wide = X.dtype.kind != "f" or X.dtype.itemsize >= 8
    return X.astype("float64" if wide else "float32", copy=False)
