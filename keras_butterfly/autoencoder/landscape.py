"""Critical points and losses of the encoder-decoder butterfly network with a fixed butterfly, after Theorem 1 of the paper.

The network is Y_hat = D E B X, and its loss is ||Y - D E B X||_F^2. Columns are examples, as in the paper:
    X  (n, d) inputs         B  (ell, n) the truncated butterfly: a matrix, or a built `Butterfly` of n inputs and ell units
    Y  (m, d) targets        E  (k, ell), D  (m, k) dense matrices, k <= ell <= m

Let Sigma(B) = Y X^T B^T (B X X^T B^T)^-1 B X Y^T have the eigenvalues lambda_0 > ... > lambda_(ell-1) > 0. At every critical
point, where the gradients in D and E vanish, the loss is tr(Y Y^T) - sum of lambda_i over a set of at most k indices. If the
set holds the k largest eigenvalues, the point is a global minimum. For any other set it is a saddle. So every local minimum is
global. X = Y and B = I is principal component analysis without subtracting means.

Everything is computed in float64 NumPy. Let Q be an orthonormal basis of the rows of B X. Then Sigma(B) = Y Q (Y Q)^T, so the
eigenvalues are the squared singular values of Y Q, and no matrix is inverted.

Reference: Ailon, Leibovich, Nair, UAI 2021, section 4; for B = I Baldi, Hornik, Neural Networks 1989.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..utils.validation import check_finite, positive_integer

__all__ = ["critical_loss", "critical_point", "eigenvalues", "optimal_loss", "optimum", "sigma"]

# Singular values of B X below this part of the largest one count as zero. If B or X has a shorter dtype, such as float32, the
# tolerance is ten times the unit roundoff of that dtype, because rounding gives a matrix of rank 3 full rank.
RANK_TOLERANCE = 1e-10
# Singular values of Y Q that differ by less than this part of the largest one count as equal, and those below it as zero.
GAP_TOLERANCE = 1e-12


def sigma(B, X, Y) -> np.ndarray:
    """Return Sigma(B) = Y X^T B^T (B X X^T B^T)^-1 B X Y^T, (m, m).

    Raises:
        ValueError: if the shapes do not fit together, an entry is not finite, or B X X^T B^T is not invertible.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(4, 20))
        >>> bool(np.allclose(landscape.sigma(np.eye(4), X, X), X @ X.T))  # B = I is principal component analysis
        True
    """
    data = LandscapeData(B, X, Y)
    data.check_invertible()
    return data.projected @ data.projected.T


def eigenvalues(B, X, Y) -> np.ndarray:
    """Return the ell largest eigenvalues of Sigma(B), decreasing, (ell,). The other m - ell are zero.

    Raises:
        ValueError: as for `sigma`, and if the ell eigenvalues are not distinct and positive, which Theorem 1 assumes.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0])
        >>> landscape.eigenvalues(np.eye(3), X, X).round(6).tolist()
        [9.0, 4.0, 1.0]
    """
    data = LandscapeData(B, X, Y)
    data.check_assumptions()
    return data.values


def critical_loss(B, X, Y, k: int, chosen: Sequence[int] | None = None) -> float:
    """Return the loss at a critical point in D and E: tr(Y Y^T) - sum of lambda_i over i in `chosen`.

    Args:
        B, X, Y: the matrices that the docstring of the module defines.
        k: width of the code, at most ell.
        chosen: at most k indices, from 0, into the decreasing eigenvalues of Sigma(B). Default: the k largest, which give the
            global minimum. Any other set gives the loss at a saddle.

    Raises:
        ValueError: as for `eigenvalues`, and if k is above ell, or an index is repeated or out of range, or there are more
            than k.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0])
        >>> [round(landscape.critical_loss(np.eye(3), X, X, 1, chosen), 6) for chosen in ([0], [1], [])]
        [5.0, 10.0, 14.0]
    """
    data = LandscapeData(B, X, Y)
    indices = data.check_indices(k, chosen)
    data.check_assumptions()
    return data.loss(indices)


def critical_point(B, X, Y, k: int, chosen: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the D (m, k) and E (k, ell) of a critical point, whose loss is `critical_loss(B, X, Y, k, chosen)`.

    The columns of D are the eigenvectors of Sigma(B) at the indices `chosen`. If there are fewer than k indices, the other
    columns are zero. E is the least squares solution for this D: D^T Y X^T B^T (B X X^T B^T)^-1. If there are k indices, all
    critical points of this loss are D C, C^-1 E with an invertible C.

    Raises:
        ValueError: as for `critical_loss`.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0])
        >>> D, E = landscape.critical_point(np.eye(3), X, X, 1, [1])  # a saddle
        >>> round(float(np.sum((X - D @ E @ X) ** 2)), 6)
        10.0
    """
    data = LandscapeData(B, X, Y)
    indices = data.check_indices(k, chosen)
    data.check_assumptions()
    return data.point(k, indices)


def optimal_loss(B, X, Y, k: int) -> float:
    """Return the minimum of ||Y - D E B X||_F^2 over D and E: tr(Y Y^T) - sum of the k largest lambda_i.

    This is the minimum in Theorem 1, but holds without the theorem's assumptions. If X = Y, it is also the squared error of the
    best approximation of X of rank k in the row space of B X ("FJLT + PCA" in the paper if B is a random FJLT).

    Raises:
        ValueError: if the shapes do not fit together, an entry is not finite, or k is above ell.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0])
        >>> round(landscape.optimal_loss(np.eye(3), X, X, 1), 6)
        5.0
    """
    data = LandscapeData(B, X, Y)
    return data.loss(data.largest_indices(k))


def optimum(B, X, Y, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the D (m, k) and E (k, ell) at which the loss is `optimal_loss(B, X, Y, k)`, for matrices of any rank.

    If D and E are not unique, those of minimal norm are returned.

    Raises:
        ValueError: as for `optimal_loss`.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0])
        >>> D, E = landscape.optimum(np.eye(3), X, X, 1)
        >>> round(float(np.sum((X - D @ E @ X) ** 2)), 6)
        5.0
    """
    data = LandscapeData(B, X, Y)
    return data.point(k, data.largest_indices(k))


class LandscapeData:
    """Landscape data are the matrices B, X and Y in float64, with the decompositions that give the critical points.

    Attributes:
        B, X, Y: the matrices that the docstring of the module defines.
        tolerance: singular values of B X below this part of the largest one count as zero.
        basis: Q^T, an orthonormal basis of the rows of B X, (rank, d).
        code: the matrix with `code @ B @ X == basis`, (rank, ell).
        projected: Y Q, (m, rank).
        values, vectors: the eigenvalues of Sigma(B), decreasing, and the eigenvectors, (m, min(m, rank)).
    """

    def __init__(self, B, X, Y):
        if isinstance(B, Butterfly):
            B = ops.transpose(B.kernel)
        self.B, roundoff_of_B = _matrix("B", B)
        self.X, roundoff_of_X = _matrix("X", X)
        self.Y, _ = _matrix("Y", Y)
        B, X, Y = self.B, self.X, self.Y
        if B.shape[1] != X.shape[0] or X.shape[1] != Y.shape[1]:
            raise ValueError(f"Expected B (ell, n), X (n, d), Y (m, d). Received: {B.shape}, {X.shape}, {Y.shape}")
        if B.shape[0] > B.shape[1]:
            raise ValueError(f"Expected B with at most as many rows as columns, ell <= n. Received: B of shape {B.shape}")
        self.tolerance = max(RANK_TOLERANCE, 10 * roundoff_of_B, 10 * roundoff_of_X)
        left, values, right = np.linalg.svd(B @ X, full_matrices=False)
        rank = int(np.sum(values > self.tolerance * max(values[0], np.finfo(float).tiny)))
        self.code, self.basis = (left[:, :rank] / values[:rank]).T, right[:rank]
        self.projected = Y @ self.basis.T
        self.vectors, singular, _ = np.linalg.svd(self.projected, full_matrices=False)
        self.values = singular**2

    def check_indices(self, k: int, chosen: Sequence[int] | None = None) -> list[int]:
        """Return `chosen` as a list, 0 .. k - 1 by default. Raise ValueError unless it is at most `k` distinct indices."""
        ell = len(self.B)
        if positive_integer(k, "k") > ell:
            raise ValueError(f"`k` must be at most ell, {ell}. Received: k={k}")
        indices = list(range(k)) if chosen is None else [int(index) for index in chosen]
        if len(set(indices)) < len(indices) or len(indices) > k or not all(0 <= index < ell for index in indices):
            raise ValueError(
                f"`chosen` must be at most k={k} distinct indices from 0 to {ell - 1}. Received: chosen={chosen!r}"
            )
        return indices

    def largest_indices(self, k: int) -> list[int]:
        """Return the indices of the k largest eigenvalues. If there are fewer than k, return the indices of all."""
        return self.check_indices(k)[: len(self.values)]

    def loss(self, indices: list[int]) -> float:
        """Return the loss at the critical point of the eigenvalues at `indices`."""
        return float(np.sum(self.Y**2) - self.values[indices].sum())

    def point(self, k: int, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return D (m, k) and E (k, ell) of the critical point of the eigenvalues at `indices`."""
        D, E = np.zeros((len(self.Y), k)), np.zeros((k, len(self.B)))
        D[:, : len(indices)] = self.vectors[:, indices]
        E[: len(indices)] = self.vectors[:, indices].T @ self.projected @ self.code
        return D, E

    def check_invertible(self) -> None:
        """Raise ValueError unless B X X^T B^T is invertible."""
        ell, rank = len(self.B), len(self.basis)
        if rank < ell:
            rank_of_X = int(np.linalg.matrix_rank(self.X, rtol=self.tolerance))
            ranks = f"X of rank {rank_of_X}" if rank_of_X < ell else f"B X of rank {rank}, though X has rank {rank_of_X}"
            raise ValueError(
                f"Theorem 1 assumes that B X X^T B^T is invertible. Expected B X of rank ell = {ell}. Received: {ranks}. "
                "Take a smaller ell or more examples, or use `optimal_loss`, which holds for any rank."
            )

    def check_assumptions(self) -> None:
        """Raise ValueError unless the assumptions of Theorem 1 hold."""
        if len(self.B) > len(self.Y):
            raise ValueError(
                f"Theorem 1 assumes ell <= m. Received: ell={len(self.B)}, m={len(self.Y)}. Take a smaller ell, or use "
                "`optimal_loss`, which holds for any ell."
            )
        self.check_invertible()
        singular = np.sqrt(self.values)
        gaps = singular - np.append(singular[1:], 0)
        at = int(np.argmin(gaps))
        if gaps[at] <= GAP_TOLERANCE * singular[0]:
            last = at + 1 == len(singular)
            violation = "zero" if last else f"{self.values[at]:.6g}, which number {at + 1} equals"
            raise ValueError(
                f"Theorem 1 assumes {len(singular)} distinct positive eigenvalues of Sigma(B). Received: number {at} is "
                f"{violation} up to round-off. Use `optimal_loss`, which needs no such assumption."
            )


def _matrix(name: str, value) -> tuple[np.ndarray, float]:
    """Return the matrix `value` in float64, and the unit roundoff of its dtype (0 for integers).

    Raises:
        ValueError: if `value` is not a matrix, is empty, or has an entry that is not finite.
    """
    if hasattr(value, "toarray"):  # scipy's sparse matrices
        value = value.toarray()
    array = np.asarray(ops.convert_to_numpy(value) if hasattr(value, "dtype") else value)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"Expected {name} as a matrix that is not empty. Received: shape {array.shape}")
    check_finite(array, name)
    return array.astype(float), float(np.finfo(array.dtype).eps) if np.issubdtype(array.dtype, np.floating) else 0.0
