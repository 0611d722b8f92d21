"""What a sketch is trained to make small: the error of the best approximation of rank k in the row space of B X.

Arguments of both, batched over any leading axes:
    sketched  B X, (..., ell, d)
    X         (..., n, d)
    k         rank, at most ell and d
With Q an orthonormal basis of the rows of B X, B_k(X) = [X Q]_k Q^T is the best approximation of X of rank k with
rows in their span, and ||X - B_k(X)||_F^2 = ||X||_F^2 - (the k largest eigenvalues of Q^T X^T X Q).

Reference: Ailon, Leibovich, Nair, UAI 2021, section 6; Indyk, Vakilian, Yuan, NeurIPS 2019.
"""

import keras
import numpy as np
from keras import ops

# Of the largest singular value of B X, by the precision it was computed in: below it a direction is noise and counts as absent.
_RANK_TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


def rank_tolerance(*dtypes: str) -> float:
    """That of the coarsest of `dtypes`."""
    return max(_RANK_TOLERANCE.get(dtype, 0.0) for dtype in dtypes)


def eigenvalue_loss(sketched, X, k: int):
    """||X - B_k(X)||_F^2, (...), with a gradient through eigenvalues alone.

    No decomposition is differentiated. By the envelope theorem the gradient in A = B X of the sum f of the k largest is

        df/dA = 2 C ((I - Q Q^T) X^T X W)^T,    W = Q V = A^T C,

    V the eigenvectors of those k, so W is orthonormal and C = (A^T)^+ W. It divides by no difference of singular values, and by
    none below the rank of A: it is finite for repeated, deficient and zero matrices. Where the k-th and the next eigenvalue are
    equal f has no gradient, and this is one of its generalised gradients; where A is short of rank f jumps, and this is the
    gradient within the directions that A has. X is taken as a constant.
    """
    A, fixed = ops.stop_gradient(sketched), ops.stop_gradient(X)
    left, values, right = ops.svd(A, full_matrices=False)
    tolerance = rank_tolerance(keras.backend.standardize_dtype(A.dtype))
    present = values > ops.maximum(tolerance * values[..., :1], np.finfo("float32").tiny)
    inverse = ops.where(present, 1 / ops.where(present, values, ops.ones_like(values)), ops.zeros_like(values))
    basis = right * ops.cast(present, A.dtype)[..., :, None]  # (..., ell, d), zero rows where A has no direction
    seen = ops.matmul(fixed, _transposed(basis))  # X Q
    eigenvalues, vectors = ops.eigh(ops.matmul(_transposed(seen), seen))
    vectors = vectors[..., -k:]  # increasing
    image = ops.matmul(_transposed(fixed), ops.matmul(seen, vectors))  # X^T X W
    outside = image - ops.matmul(_transposed(basis), ops.matmul(basis, image))
    coefficients = ops.matmul(left * inverse[..., None, :], vectors)  # C, (..., ell, k)
    gradient = -2 * ops.matmul(coefficients, _transposed(outside))
    loss = ops.sum(ops.square(fixed), axis=(-2, -1)) - ops.sum(eigenvalues[..., -k:], axis=-1)
    # Its value is the loss, its derivative in `sketched` is `gradient`.
    return loss + ops.sum(gradient * (sketched - A), axis=(-2, -1))


def singular_vector_loss(sketched, X, k: int):
    """||X - [X V]_k V^T||_F^2, (...), U S V^T = svd(B X), differentiated through both decompositions.

    The reference: the same value and gradient, but not finite where singular values repeat or vanish.
    """
    right = ops.svd(sketched, full_matrices=False)[2]
    inner, values, outer = ops.svd(ops.matmul(X, _transposed(right)), full_matrices=False)
    approximation = ops.matmul(inner[..., :k] * values[..., None, :k], ops.matmul(outer[..., :k, :], right))
    return ops.sum(ops.square(X - approximation), axis=(-2, -1))


def _transposed(matrix):
    return ops.swapaxes(matrix, -1, -2)
