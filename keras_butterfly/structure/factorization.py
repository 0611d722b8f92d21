"""Carrying a trained dense kernel over to butterfly weights."""

import numpy as np

from .wiring import Wiring

# Directions that J1 or J2 shrink below this part of the others are given up: what makes up for them would be huge, and lost to
# round-off in float32.
SMALLEST = 1e-4


def factorize(kernel: np.ndarray, wiring: Wiring) -> np.ndarray:
    """Weights of a butterfly near `kernel`, by hierarchical factorisation; exact where the kernel is a butterfly's.

    Cut the stages in two: the path from input j to output i crosses the cut at one node, and the paths that share a node
    form a block of the matrix of rank one. So each of the N blocks is replaced by its leading singular vectors, which hold
    what lies before and after the cut, and both halves are cut again. A cut in the middle takes about N^2.5 operations.

    Args:
        kernel: (inputs, outputs), real or complex, y = x @ kernel.
        wiring: of the butterfly, truncated or not, in either order.

    Returns:
        (effective weights,) float64, or complex128 for a complex kernel.

    Raises:
        ValueError: if the kernel's shape is not the wiring's, or not all its entries are finite.

    Reference: Le, Zheng, Riccietti, Gribonval, *Fast learning of fast transforms, with guarantees*, ICASSP 2022.
    """
    kernel = _checked(kernel, (len(wiring.inputs), len(wiring.outputs)))
    if not wiring.strides:
        return np.zeros(0, kernel.dtype)
    if wiring.increasing:
        gadgets = _first_cut(kernel, wiring)
    else:  # the transpose is increasing, with sources and targets of its gadgets exchanged
        gadgets = [gadget.swapaxes(1, 2) for gadget in reversed(_first_cut(kernel.T, wiring.transpose()))]
    return np.concatenate([gadget.reshape(-1)[stage.edges] for gadget, stage in zip(gadgets, wiring.stages, strict=True)])


def monarch(kernel: np.ndarray, blocks: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two block-diagonal factors whose product is nearest to `kernel` in Frobenius norm: one cut of `factorize`.

    With inputs numbered (j, l) and outputs (o, p) the product is `first[j, l, p] * second[p, j, o]`, rank one for each (j, p).
    Weights: inputs * P + outputs * J.

    Args:
        kernel: (inputs, outputs).
        blocks: (J, P), the number of blocks of the first and of the second factor, divisors of inputs and outputs.

    Returns:
        (J, inputs / J, P) and (P, J, outputs / P).

    Raises:
        ValueError: if a number of blocks is no divisor.

    Reference: Dao et al., *Monarch: Expressive Structured Matrices for Efficient and Accurate Training*, ICML 2022,
        section 3.3.
    """
    (inputs, outputs), (first, second) = np.shape(kernel), blocks
    if inputs % first or outputs % second:
        raise ValueError(f"Expected numbers of blocks that divide the sides {inputs} and {outputs}. Received: {blocks}")
    kernel = _checked(kernel, (inputs, outputs))
    tiles = kernel.reshape(first, inputs // first, outputs // second, second).transpose(0, 3, 1, 2)  # (j, p, l, o)
    left, right = _rank_one(tiles)
    return left.transpose(0, 2, 1), right.transpose(1, 0, 2)


def low_rank(kernel: np.ndarray, rank: int) -> np.ndarray:
    """The matrix of rank `rank` nearest to `kernel`, by truncated SVD. Weights: rank * (inputs + outputs)."""
    u, s, vt = np.linalg.svd(np.asarray(kernel, np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def _checked(kernel, shape: tuple[int, int]) -> np.ndarray:
    kernel = np.asarray(kernel)
    if kernel.shape != shape or not np.all(np.isfinite(kernel)):
        raise ValueError(f"Expected a kernel of shape {shape} with finite entries. Received: shape {kernel.shape}")
    return kernel.astype(np.complex128 if np.iscomplexobj(kernel) else np.float64)


def _first_cut(kernel: np.ndarray, wiring: Wiring) -> list[np.ndarray]:
    """The gadgets of an increasing butterfly, stage by stage, each (h, i, o, l).

    Only rows of nodes that are outputs are looked at, some at a time: a wide truncated butterfly never becomes N x N.
    """
    stages = len(wiring.strides)
    if stages == 1:
        matrix = np.zeros((1, 2, 2), kernel.dtype)
        matrix[0][np.ix_(wiring.outputs, wiring.inputs)] = kernel.T
        return [gadget[0] for gadget in _cut(matrix)]
    low, high = 1 << stages // 2, wiring.size >> stages // 2
    outputs = np.array(wiring.outputs)
    before = np.zeros((high, low, low), kernel.dtype)  # (j high, i low, j low)
    after = np.zeros((low, high, high), kernel.dtype)  # (i low, i high, j high)
    for i_low in range(low):
        kept = np.flatnonzero(outputs % low == i_low)
        if not len(kept):
            continue
        rows = np.zeros((len(kept), wiring.size), kernel.dtype)
        rows[:, list(wiring.inputs)] = kernel[:, kept].T
        left, right = _rank_one(rows.reshape(len(kept), high, low).transpose(1, 0, 2))
        before[:, i_low], after[i_low, outputs[kept] // low] = right, left.T
    return [gadget[0] for gadget in _joined([gadget[None] for gadget in _cut(before)], [g[None] for g in _cut(after)])]


def _cut(matrices: np.ndarray) -> list[np.ndarray]:
    """The gadgets of a batch of full increasing butterflies (batch, outputs, inputs): per stage (batch, h, i, o, l)."""
    batch, size, _ = matrices.shape
    if size == 2:
        return [matrices.swapaxes(1, 2)[:, None, :, :, None]]
    stages = size.bit_length() - 1
    low, high = 1 << stages // 2, size >> stages // 2
    tiles = matrices.reshape(batch, high, low, high, low).transpose(0, 2, 3, 1, 4)  # (batch, i low, j high, i high, j low)
    left, right = _rank_one(tiles)
    before = _cut(right.swapaxes(1, 2).reshape(batch * high, low, low))
    after = _cut(left.swapaxes(2, 3).reshape(batch * low, high, high))
    return _joined(
        [gadget.reshape(batch, high, *gadget.shape[1:]) for gadget in before],
        [gadget.reshape(batch, low, *gadget.shape[1:]) for gadget in after],
    )


def _joined(before: list[np.ndarray], after: list[np.ndarray]) -> list[np.ndarray]:
    """The gadgets of the halves, (batch, j high, h, i, o, l) and (batch, i low, h, i, o, l), as those of the whole."""
    batch = len(before[0])
    first = [gadget.reshape(batch, -1, *gadget.shape[3:]) for gadget in before]
    last = [np.moveaxis(gadget, 1, -1) for gadget in after]  # the low bits lie below the position within the block
    return first + [gadget.reshape(*gadget.shape[:4], -1) for gadget in last]


def _rank_one(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`left[..., :, None] * right[..., None, :]` nearest to `tiles`, each with half of the scale."""
    u, s, vt = np.linalg.svd(tiles, full_matrices=False)
    scale = np.sqrt(s[..., :1])
    return u[..., :, 0] * scale, vt[..., 0, :] * scale


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
    return np.linalg.pinv(j1, rcond=SMALLEST) @ kernel @ np.linalg.pinv(j2_t, rcond=SMALLEST)
