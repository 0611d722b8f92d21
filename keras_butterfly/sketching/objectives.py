"""Loss functions for training a sketch: the error of the best approximation of rank k in the row space of B X.

Arguments of both functions, with any number of leading batch axes:
    sketched  B X, (..., ell, d)
    X         (..., n, d)
    k         rank, at most ell and d
Let Q be an orthonormal basis of the rows of B X. Then B_k(X) = [X Q]_k Q^T is the best approximation of X of rank k with rows
in their span, and ||X - B_k(X)||_F^2 = ||X||_F^2 - (sum of the k largest eigenvalues of Q^T X^T X Q).

Reference: Ailon, Leibovich, Nair, UAI 2021, section 6; Indyk, Vakilian, Yuan, NeurIPS 2019.
"""

import keras
import numpy as np
from keras import ops

# By the dtype in which B X was computed: singular values of B X below this part of the largest one are noise and count as zero.
_RANK_TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def rank_tolerance(*dtypes: str) -> float:
    """Return the part of the largest singular value below which a singular value counts as zero.

    If B X passed through several dtypes, the tolerance is that of the least precise one.
    """
    return max(_RANK_TOLERANCE.get(dtype, 0.0) for dtype in dtypes)


def eigenvalue_loss(sketched, X, k: int):
    """Return the loss ||X - B_k(X)||_F^2, (...), with a gradient in `sketched` that is always finite.

    No decomposition is differentiated. Let f be the sum of the k largest eigenvalues, V their eigenvectors, and A = B X. By the
    envelope theorem

        df/dA = 2 C ((I - Q Q^T) X^T X W)^T,    W = Q V = A^T C,

    where W is orthonormal and C = (A^T)^+ W. The formula divides by the nonzero singular values of A only, and by no difference
    of singular values. So it is finite also for matrices that are zero, rank-deficient, or have repeated singular values.

    If the k-th eigenvalue equals the next one, f has no gradient, and the result is one of its generalized gradients. If A has
    not full rank, f is not continuous, and the result is the gradient within the row space of A. X counts as a constant.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0]).astype("float32")
        >>> round(float(eigenvalue_loss(X[:2], X, 1)), 4)  # B holds the first two rows of the identity
        5.0
    """
    A, fixed = ops.stop_gradient(sketched), ops.stop_gradient(X)
    left, values, right = ops.svd(A, full_matrices=False)
    tolerance = rank_tolerance(keras.backend.standardize_dtype(A.dtype))
    present = values > ops.maximum(tolerance * values[..., :1], np.finfo("float32").tiny)
    inverse = ops.where(present, 1 / ops.where(present, values, ops.ones_like(values)), ops.zeros_like(values))
    basis = right * ops.cast(present, A.dtype)[..., :, None]  # (..., ell, d), zero rows beyond the rank of A
    projected = ops.matmul(fixed, _transposed(basis))  # X Q
    eigenvalues, vectors = ops.eigh(ops.matmul(_transposed(projected), projected))
    vectors = vectors[..., -k:]  # eigh sorts the eigenvalues in increasing order
    image = ops.matmul(_transposed(fixed), ops.matmul(projected, vectors))  # X^T X W
    outside = image - ops.matmul(_transposed(basis), ops.matmul(basis, image))
    coefficients = ops.matmul(left * inverse[..., None, :], vectors)  # C, (..., ell, k)
    gradient = -2 * ops.matmul(coefficients, _transposed(outside))
    loss = ops.sum(ops.square(fixed), axis=(-2, -1)) - ops.sum(eigenvalues[..., -k:], axis=-1)
    # The second term is zero, and its derivative in `sketched` is `gradient`.
    return loss + ops.sum(gradient * (sketched - A), axis=(-2, -1))


def singular_vector_loss(sketched, X, k: int):
    """Return the loss ||X - [X V]_k V^T||_F^2, (...), where U S V^T = svd(B X).

    This is the reference for `eigenvalue_loss`: it has the same value and gradient. But it is differentiated through both
    decompositions, so the gradient is not finite if singular values repeat or are zero.

    Example:
        >>> X = np.diag([3.0, 2.0, 1.0]).astype("float32")
        >>> round(float(singular_vector_loss(X[:2], X, 1)), 4)  # B holds the first two rows of the identity
        5.0
    """
    right = ops.svd(sketched, full_matrices=False)[2]
    inner, values, outer = ops.svd(ops.matmul(X, _transposed(right)), full_matrices=False)
    approximation = ops.matmul(inner[..., :k] * values[..., None, :k], ops.matmul(outer[..., :k, :], right))
    return ops.sum(ops.square(X - approximation), axis=(-2, -1))


def _transposed(matrix):
    """Swap the last two axes."""
    return ops.swapaxes(matrix, -1, -2)
