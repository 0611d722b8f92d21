"""The loss landscape of the encoder-decoder butterfly network with its butterfly fixed, after Theorem 1 of the paper.

The network is Y_hat = D E B X, its loss ||Y - D E B X||_F^2. Columns are examples, as in the paper:
    X  (n, d) inputs         B  (ell, n) the truncated butterfly: a matrix, or a built `Butterfly` of n inputs and ell units
    Y  (m, d) targets        E  (k, ell), D  (m, k) dense matrices, k <= ell <= m

With Sigma(B) = Y X^T B^T (B X X^T B^T)^-1 B X Y^T, of eigenvalues lambda_0 > ... > lambda_(ell-1) > 0, the loss where the
gradients in D and E vanish is tr(Y Y^T) - sum of lambda_i over some set I of at most k indices. A local minimum has the k
largest, so every local minimum is global; any other set is a saddle. X = Y and B = I is principal component analysis,
without subtracting means.

All is computed in float64 NumPy through the singular values of Y Q, Q an orthonormal basis of the rows of B X, because
Sigma(B) = Y Q (Y Q)^T; nothing is inverted.

Reference: Ailon, Leibovich, Nair, UAI 2021, section 4; for B = I Baldi, Hornik, Neural Networks 1989.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..utils.validation import check_finite, positive_integer

# Relative to the largest singular value of B X: below it a direction counts as absent. Ten times the unit roundoff of B's and
# X's own numbers where that is more: rounding to float32 makes a matrix of rank 3 one of full rank.
RANK_TOLERANCE = 1e-10
# Relative to the largest singular value of Y Q: those nearer to each other, or to zero, count as equal.
GAP_TOLERANCE = 1e-12


def sigma(B, X, Y) -> np.ndarray:
    """Sigma(B) = Y X^T B^T (B X X^T B^T)^-1 B X Y^T, (m, m).

    Raises:
        ValueError: for matrices that do not fit together or hold NaN or infinities, or if B X X^T B^T is not invertible.
    """
    problem = Problem(B, X, Y)
    problem.check_invertible()
    return problem.projected @ problem.projected.T


def eigenvalues(B, X, Y) -> np.ndarray:
    """The ell largest eigenvalues of Sigma(B), decreasing, (ell,); the other m - ell are zero.

    Raises:
        ValueError: as `sigma`, and if they are not distinct and positive, which Theorem 1 assumes.
    """
    problem = Problem(B, X, Y)
    problem.check_assumptions()
    return problem.values


def critical_loss(B, X, Y, k: int, chosen: Sequence[int] | None = None) -> float:
    """The loss at a critical point in D and E: tr(Y Y^T) - sum of lambda_i over i in `chosen`.

    Args:
        B, X, Y: see the module.
        k: width of the code, at most ell.
        chosen: at most k indices into the decreasing eigenvalues of Sigma(B), from 0. Default: the k largest, which is the
            optimum and the only local minimum. Any other set is the level of a saddle.

    Raises:
        ValueError: as `eigenvalues`, for k above ell, and for indices that are repeated, too many or out of range.
    """
    problem = Problem(B, X, Y)
    indices = problem.chosen(k, chosen)
    problem.check_assumptions()
    return problem.loss(indices)


def critical_point(B, X, Y, k: int, chosen: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """D (m, k) and E (k, ell) whose gradients vanish at the loss `critical_loss(B, X, Y, k, chosen)`.

    D holds the eigenvectors of Sigma(B) of the chosen indices, and zero columns where fewer than k are chosen; E is the
    least squares solution for it, D^T Y X^T B^T (B X X^T B^T)^-1. All others are D C, C^-1 E with an invertible C, where k
    are chosen.

    Raises:
        ValueError: as `critical_loss`.
    """
    problem = Problem(B, X, Y)
    indices = problem.chosen(k, chosen)
    problem.check_assumptions()
    return problem.point(k, indices)


def optimal_loss(B, X, Y, k: int) -> float:
    """The least ||Y - D E B X||_F^2 over D and E, whatever the ranks: tr(Y Y^T) - sum of the k largest lambda_i.

    The optimum of Theorem 1 without its assumptions; with X = Y it is also the error of the best approximation of X of rank k
    in the row space of B X, "FJLT + PCA" if B is a drawn FJLT.

    Raises:
        ValueError: for matrices that do not fit together or hold NaN or infinities, or for k above ell.
    """
    problem = Problem(B, X, Y)
    return problem.loss(problem.largest(k))


def optimum(B, X, Y, k: int) -> tuple[np.ndarray, np.ndarray]:
    """D (m, k) and E (k, ell) of `optimal_loss`, whatever the ranks; of minimal norm where they are not unique.

    Raises:
        ValueError: as `optimal_loss`.
    """
    problem = Problem(B, X, Y)
    return problem.point(k, problem.largest(k))


class Problem:
    """B, X and Y in float64, and the decompositions that all of the above is made of.

    Attributes:
        code, basis: (rank, ell) and an orthonormal basis (rank, d) of the rows of B X, to which the first takes B X.
        projected: Y Q, (m, rank).
        values, vectors: the eigenvalues of Sigma(B), decreasing, and their vectors, (m, min(m, rank)).
    """

    def __init__(self, B, X, Y):
        if isinstance(B, Butterfly):
            B = ops.transpose(B.kernel)
        (self.B, fine), (self.X, finer), (self.Y, _) = (_matrix(name, value) for name, value in (("B", B), ("X", X), ("Y", Y)))
        B, X, Y = self.B, self.X, self.Y
        if B.shape[1] != X.shape[0] or X.shape[1] != Y.shape[1]:
            raise ValueError(f"Expected B (ell, n), X (n, d), Y (m, d). Received: {B.shape}, {X.shape}, {Y.shape}")
        if B.shape[0] > B.shape[1]:
            raise ValueError(f"Expected a truncated butterfly, ell <= n. Received: B of shape {B.shape}")
        self.tolerance = max(RANK_TOLERANCE, 10 * max(fine, finer))
        left, values, right = np.linalg.svd(B @ X, full_matrices=False)
        rank = int(np.sum(values > self.tolerance * max(values[0], np.finfo(float).tiny)))
        self.code, self.basis = (left[:, :rank] / values[:rank]).T, right[:rank]
        self.projected = Y @ self.basis.T
        self.vectors, singular, _ = np.linalg.svd(self.projected, full_matrices=False)
        self.values = singular**2

    def chosen(self, k: int, chosen: Sequence[int] | None = None) -> list[int]:
        ell = len(self.B)
        if positive_integer(k, "k") > ell:
            raise ValueError(f"`k` must be at most ell, {ell}. Received: k={k}")
        indices = list(range(k)) if chosen is None else [int(index) for index in chosen]
        if len(set(indices)) < len(indices) or len(indices) > k or not all(0 <= index < ell for index in indices):
            raise ValueError(
                f"`chosen` must be at most k={k} distinct indices from 0 to {ell - 1}. Received: chosen={chosen!r}"
            )
        return indices

    def largest(self, k: int) -> list[int]:
        """Indices of the k largest eigenvalues, or of as many as there are."""
        return self.chosen(k)[: len(self.values)]

    def loss(self, indices: list[int]) -> float:
        return float(np.sum(self.Y**2) - self.values[indices].sum())

    def point(self, k: int, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        D, E = np.zeros((len(self.Y), k)), np.zeros((k, len(self.B)))
        D[:, : len(indices)] = self.vectors[:, indices]
        E[: len(indices)] = self.vectors[:, indices].T @ self.projected @ self.code
        return D, E

    def check_invertible(self) -> None:
        ell, rank = len(self.B), len(self.basis)
        if rank < ell:
            own = int(np.linalg.matrix_rank(self.X, rtol=self.tolerance))
            why = f"X has rank {own}" if own < ell else f"B X has rank {rank}, though X has rank {own}"
            raise ValueError(
                f"Theorem 1 assumes that B X X^T B^T is invertible, which needs a rank of ell = {ell}. Received: {why}. "
                "Take a smaller ell or more examples; `optimal_loss` holds for any rank."
            )

    def check_assumptions(self) -> None:
        if len(self.B) > len(self.Y):
            raise ValueError(f"Theorem 1 assumes ell <= m. Received: ell={len(self.B)}, m={len(self.Y)}")
        self.check_invertible()
        singular = np.sqrt(self.values)
        gaps = singular - np.append(singular[1:], 0)
        at = int(np.argmin(gaps))
        if gaps[at] <= GAP_TOLERANCE * singular[0]:
            last = at + 1 == len(singular)
            problem = "zero, to round-off" if last else f"{self.values[at]:.6g}, as number {at + 1} to round-off"
            raise ValueError(
                f"Theorem 1 assumes {len(singular)} distinct positive eigenvalues of Sigma(B). Received: number {at} is "
                f"{problem}. `optimal_loss` needs no such assumption."
            )


def _matrix(name: str, value) -> tuple[np.ndarray, float]:
    """The matrix in float64, and the unit roundoff of the numbers that it was given in."""
    if hasattr(value, "toarray"):  # scipy's sparse matrices
        value = value.toarray()
    given = np.asarray(ops.convert_to_numpy(value) if hasattr(value, "dtype") else value)
    if given.ndim != 2 or not given.size:
        raise ValueError(f"Expected {name} as a matrix that is not empty. Received: shape {given.shape}")
    check_finite(given, name)
    return given.astype(float), float(np.finfo(given.dtype).eps) if np.issubdtype(given.dtype, np.floating) else 0.0
