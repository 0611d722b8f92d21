"""Carrying a trained dense kernel over to butterfly weights."""

import numpy as np


def middle_kernel(kernel: np.ndarray, j1: np.ndarray, j2_t: np.ndarray) -> np.ndarray:
    """The W' for which `j1 @ W' @ j2_t` is nearest to `kernel` in Frobenius norm: `pinv(j1) @ kernel @ pinv(j2_t)`.

    With random J1 and J2 the result is the kernel seen through random subspaces: its error is that of a random rank
    min(k1, k2) approximation, far above that of the truncated SVD. Use it as a start for training, not as a replacement.

    Args:
        kernel: (n1, n2) the trained kernel.
        j1: (n1, k1) kernel of the first butterfly.
        j2_t: (k2, n2) kernel of the second, transposed butterfly.

    Returns:
        (k1, k2) float64.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2, where W' = J2 W J1^T.
    """
    kernel, j1, j2_t = (np.asarray(matrix, np.float64) for matrix in (kernel, j1, j2_t))
    return np.linalg.pinv(j1) @ kernel @ np.linalg.pinv(j2_t)
