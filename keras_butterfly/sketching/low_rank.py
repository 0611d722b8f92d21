"""Approximations of low rank, in factored form."""

from dataclasses import dataclass

import numpy as np
from keras import ops

from ..utils.validation import check_finite
from .objectives import rank_tolerance
from .sketches import Sketch, check_rank


@dataclass(frozen=True, eq=False)
class LowRank:
    """An approximation of rank k, `left @ right`.

    Attributes:
        left: (..., n, k), orthogonal columns times the singular values, largest first.
        right: (..., k, d), orthonormal rows; zero rows where the sketch had fewer directions than k.
        squared_norm: ||X||_F^2 of what is approximated, (...).
    """

    left: np.ndarray
    right: np.ndarray
    squared_norm: np.ndarray

    @property
    def singular_values(self) -> np.ndarray:
        """(..., k), largest first."""
        return np.linalg.norm(self.left, axis=-2)

    @property
    def squared_error(self) -> np.ndarray:
        """||X - left right||_F^2, (...): the rest of the norm, because the approximation is a projection of X.

        By subtraction: errors below some 1e-14 of ||X||_F^2, where X is in float32 1e-6, are not seen.
        """
        return np.maximum(self.squared_norm - np.sum(np.square(self.left, dtype=float), axis=(-2, -1)), 0)

    def dense(self) -> np.ndarray:
        """(..., n, d), formed only here."""
        return self.left @ self.right


def low_rank_approximation(sketch: Sketch, X, k: int) -> LowRank:
    """B_k(X) = [X V]_k V^T, U S V^T = svd(B X): the best approximation of X of rank k in the row space of B X.

    The cost is that of B X, of X V (ell multiply-adds for every entry of X, of a sparse X for every non-zero) and of the
    decompositions of (ell, d) and (n, ell) matrices; the approximation, (n, d), is not formed.

    Args:
        sketch: built for n rows, or not built yet.
        X: (..., n, d), an array or tensor; or a scipy sparse matrix or array (n, d).
        k: rank, at most ell and d.

    Returns:
        A `LowRank` in float32 where X is of float32 or less, else in float64.

    Raises:
        ValueError: for X of another number of rows, of complex numbers, with NaN or infinities, or k out of range.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 6; Sarlos, FOCS 2006; Clarkson, Woodruff, STOC 2013.
    """
    sparse = hasattr(X, "tocsr")
    X = _floating(X.tocsr() if sparse else ops.convert_to_numpy(X))
    if len(X.shape) < 2:
        raise ValueError(f"Expected X as (..., n, d). Received: shape {tuple(X.shape)}")
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
    return LowRank(left[..., :k] * inner[..., None, :k], right, norm)


def _floating(X):
    """X, an array or sparse matrix, in float32 or float64; copied only where it is in neither."""
    check_finite(X.data if hasattr(X, "tocsr") else X, "X")
    wide = X.dtype.kind != "f" or X.dtype.itemsize >= 8
    return X.astype("float64" if wide else "float32", copy=False)
