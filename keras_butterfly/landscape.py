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

from .butterfly import Butterfly
from .wiring import positive_integer

# Relative to the largest singular value of B X: below it a direction counts as absent.
RANK_TOLERANCE = 1e-10
# Relative to the largest eigenvalue of Sigma(B): eigenvalues nearer to each other, or to zero, count as equal.
GAP_TOLERANCE = 1e-12


def sigma(B, X, Y) -> np.ndarray:
    """Sigma(B) = Y X^T B^T (B X X^T B^T)^-1 B X Y^T, (m, m).

    Raises:
        ValueError: for matrices that do not fit together or hold NaN or infinities, or if B X X^T B^T is not invertible.
    """
    B, X, Y = _checked(B, X, Y)
    projected = Y @ _invertible(B, X)[1].T
    return projected @ projected.T


def eigenvalues(B, X, Y) -> np.ndarray:
    """The ell largest eigenvalues of Sigma(B), decreasing, (ell,); the other m - ell are zero.

    Raises:
        ValueError: as `sigma`, and if they are not distinct and positive, which Theorem 1 assumes.
    """
    return _decomposed(*_checked(B, X, Y))[0]


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
    B, X, Y = _checked(B, X, Y)
    values = _decomposed(B, X, Y)[0]
    return float(np.sum(Y**2) - values[_chosen(k, chosen, len(values))].sum())


def critical_point(B, X, Y, k: int, chosen: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """D (m, k) and E (k, ell) whose gradients vanish at the loss `critical_loss(B, X, Y, k, chosen)`.

    D holds the eigenvectors of Sigma(B) of the chosen indices, and zero columns where fewer than k are chosen; E is the
    least squares solution for it, D^T Y X^T B^T (B X X^T B^T)^-1. All others are D C, C^-1 E with an invertible C, where k
    are chosen.

    Raises:
        ValueError: as `critical_loss`.
    """
    B, X, Y = _checked(B, X, Y)
    values, vectors, encode = _decomposed(B, X, Y)
    indices = _chosen(k, chosen, len(values))
    D, E = np.zeros((len(Y), k)), np.zeros((k, len(B)))
    D[:, : len(indices)] = vectors[:, indices]
    E[: len(indices)] = vectors[:, indices].T @ encode
    return D, E


def optimal_loss(B, X, Y, k: int) -> float:
    """The least ||Y - D E B X||_F^2 over D and E, whatever the ranks: tr(Y Y^T) - sum of the k largest lambda_i.

    The optimum of Theorem 1 without its assumptions; with X = Y it is also the error of the best approximation of X of rank k
    in the row space of B X, "FJLT + PCA" if B is a drawn FJLT.

    Raises:
        ValueError: for matrices that do not fit together or hold NaN or infinities, or for k above ell.
    """
    B, X, Y = _checked(B, X, Y)
    values = np.linalg.svd(Y @ _row_space(B, X)[1].T, compute_uv=False) ** 2
    return float(np.sum(Y**2) - values[_chosen(k, None, len(B))[: len(values)]].sum())


def optimum(B, X, Y, k: int) -> tuple[np.ndarray, np.ndarray]:
    """D (m, k) and E (k, ell) of `optimal_loss`, whatever the ranks; of minimal norm where they are not unique.

    Raises:
        ValueError: as `optimal_loss`.
    """
    B, X, Y = _checked(B, X, Y)
    indices = _chosen(k, None, len(B))
    code, basis = _row_space(B, X)
    D, E = np.zeros((len(Y), k)), np.zeros((k, len(B)))
    vectors = np.linalg.svd(Y @ basis.T, full_matrices=False)[0][:, indices[: min(len(basis), len(Y))]]
    D[:, : vectors.shape[1]] = vectors
    E[: vectors.shape[1]] = vectors.T @ Y @ basis.T @ code
    return D, E


def _row_space(B, X) -> tuple[np.ndarray, np.ndarray]:
    """(rank, ell) and an orthonormal basis (rank, d) of the rows of B X: the first takes B X to the basis."""
    left, values, right = np.linalg.svd(B @ X, full_matrices=False)
    rank = int(np.sum(values > RANK_TOLERANCE * max(values[0], np.finfo(float).tiny)))
    return (left[:, :rank] / values[:rank]).T, right[:rank]


def _invertible(B, X) -> tuple[np.ndarray, np.ndarray]:
    code, basis = _row_space(B, X)
    if len(basis) < len(B):
        rank = np.linalg.matrix_rank(X)
        why = f"X has rank {rank}" if rank < len(B) else f"B X has rank {len(basis)}, though X has rank {rank}"
        raise ValueError(
            f"Theorem 1 assumes that B X X^T B^T is invertible, which needs a rank of ell = {len(B)}. Received: {why}. "
            "Take a smaller ell or more examples; `optimal_loss` holds for any rank."
        )
    return code, basis


def _decomposed(B, X, Y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sigma(B)'s ell leading eigenvalues, their vectors (m, ell), and Y X^T B^T (B X X^T B^T)^-1, (m, ell)."""
    if len(B) > len(Y):
        raise ValueError(f"Theorem 1 assumes ell <= m. Received: ell={len(B)}, m={len(Y)}")
    code, basis = _invertible(B, X)
    projected = Y @ basis.T
    vectors, singular, _ = np.linalg.svd(projected, full_matrices=False)
    values = singular**2
    gaps = values - np.append(values[1:], 0)
    if not values[0] or gaps.min() <= GAP_TOLERANCE * values[0]:
        at = int(np.argmin(gaps))
        following = f"and {values[at + 1]:.6g}" if at + 1 < len(values) else "is zero"
        raise ValueError(
            f"Theorem 1 assumes {len(values)} distinct positive eigenvalues of Sigma(B). Received: number {at}, "
            f"{values[at]:.6g}, {following}. `optimal_loss` needs no such assumption."
        )
    return values, vectors, projected @ code


def _chosen(k: int, chosen: Sequence[int] | None, ell: int) -> list[int]:
    if positive_integer(k, "k") > ell:
        raise ValueError(f"`k` must be at most ell, {ell}. Received: k={k}")
    indices = list(range(k)) if chosen is None else [int(index) for index in chosen]
    if len(set(indices)) < len(indices) or len(indices) > k or not all(0 <= index < ell for index in indices):
        raise ValueError(f"`chosen` must be at most k={k} distinct indices from 0 to {ell - 1}. Received: chosen={chosen!r}")
    return indices


def _checked(B, X, Y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(B, Butterfly):
        B = _array(B.kernel).T
    B, X, Y = (_matrix(name, value) for name, value in (("B", B), ("X", X), ("Y", Y)))
    if B.shape[1] != X.shape[0] or X.shape[1] != Y.shape[1]:
        raise ValueError(f"Expected B (ell, n), X (n, d), Y (m, d). Received: {B.shape}, {X.shape}, {Y.shape}")
    if B.shape[0] > B.shape[1]:
        raise ValueError(f"Expected a truncated butterfly, ell <= n. Received: B of shape {B.shape}")
    return B, X, Y


def _matrix(name: str, value) -> np.ndarray:
    array = _array(value)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"Expected {name} as a matrix that is not empty. Received: shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers in {name}. Received: {np.sum(~np.isfinite(array))} that are NaN or infinite")
    return array


def _array(value) -> np.ndarray:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(value) if hasattr(value, "dtype") else value, dtype=float)
