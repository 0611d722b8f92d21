"""Factorizations of a dense kernel: into a butterfly, into a Monarch matrix, to low rank, and to W' of J2^T W' J1."""

from math import prod

import numpy as np

from .wiring import Wiring

# Singular values of J1 and J2 below this part of the largest one count as zero. Their inverses would make W' huge, and float32
# would lose the rest of it to round-off.
PSEUDO_INVERSE_TOLERANCE = 1e-4


def factorize(kernel: np.ndarray, wiring: Wiring) -> np.ndarray:
    """Return the weights of a butterfly near `kernel`, by hierarchical factorization.

    If the kernel is the matrix of such a butterfly, the result is exact.

    The stages are cut into two halves. The path from input j to output i crosses the cut at one node, and the paths through one
    node form a block of the matrix of rank one. So each of the N blocks is replaced by its leading singular vectors. The left
    vectors, times their singular values, form the matrices of the second half. These are cut again, which changes them if the
    kernel is not the matrix of a butterfly. Therefore the right vectors are then fitted to the kernel once more, by least
    squares, and form the matrices of the first half. A cut in the middle takes about N^2.5 operations.

    All stages of the result have the same norm.

    Args:
        kernel: (inputs, outputs), real or complex, y = x @ kernel.
        wiring: structure of the butterfly, truncated or not, its strides in either order.

    Returns:
        (effective weights,) float64, or complex128 for a complex kernel.

    Raises:
        ValueError: if the shape of the kernel does not fit the wiring, or an entry is not finite.

    Reference: Le, Zheng, Riccietti, Gribonval, *Fast learning of fast transforms, with guarantees*, ICASSP 2022. The
        least-squares step has the place of the orthonormalization in Zheng et al., *Butterfly Factorization with Error
        Guarantees*, 2024.
    """
    kernel = _finite_kernel(kernel, (len(wiring.inputs), len(wiring.outputs)))
    largest = np.max(np.abs(kernel))
    if not wiring.strides or not largest:
        return np.zeros(wiring.effective_weights, kernel.dtype)
    kernel = kernel / largest  # so that squares neither overflow nor vanish
    if wiring.increasing:
        gadgets = _first_cut(kernel, wiring)
    else:  # the transpose has increasing strides, and gadgets with sources and targets swapped
        gadgets = [gadget.swapaxes(1, 2) for gadget in reversed(_first_cut(kernel.T, wiring.transpose()))]
    weights = [gadget.reshape(-1)[stage.edges] for gadget, stage in zip(gadgets, wiring.stages, strict=True)]
    norms = np.array([np.linalg.norm(part) for part in weights])
    common = np.exp(np.mean(np.log(norms))) * largest ** (1 / len(norms))
    return np.concatenate([part * (common / norm) for part, norm in zip(weights, norms, strict=True)])


def monarch(kernel: np.ndarray, blocks: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two block-diagonal factors whose product is nearest to `kernel` in the Frobenius norm.

    This is a single cut of `factorize`. With inputs numbered (j, l) and outputs numbered (o, p), the product is
    `first[j, l, p] * second[p, j, o]`, of rank one for each (j, p). Weights: inputs * P + outputs * J.

    Args:
        kernel: (inputs, outputs).
        blocks: (J, P), the number of blocks of the first and of the second factor, divisors of inputs and outputs.

    Returns:
        (J, inputs / J, P) and (P, J, outputs / P).

    Raises:
        ValueError: if a number of blocks is not a divisor, or an entry of the kernel is not finite.

    Reference: Dao et al., *Monarch: Expressive Structured Matrices for Efficient and Accurate Training*, ICML 2022,
        section 3.3.
    """
    (inputs, outputs), (first, second) = np.shape(kernel), blocks
    if inputs % first or outputs % second:
        raise ValueError(
            f"`blocks` must be divisors of the kernel's {inputs} inputs and {outputs} outputs. Received: blocks={blocks}"
        )
    kernel = _finite_kernel(kernel, (inputs, outputs))
    tiles = kernel.reshape(first, inputs // first, outputs // second, second).transpose(0, 3, 1, 2)  # (j, p, l, o)
    left, right = _rank_one(tiles)
    return left.transpose(0, 2, 1), right.transpose(1, 0, 2)


def low_rank(kernel: np.ndarray, rank: int) -> np.ndarray:
    """Return the matrix of rank `rank` that is nearest to `kernel`, by truncated SVD. Weights: rank * (inputs + outputs)."""
    u, s, vt = np.linalg.svd(np.asarray(kernel, np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def leading_directions(outputs: np.ndarray, rank: int) -> np.ndarray:
    """Return the leading right singular vectors of `outputs` (rows, units), as rows (rank, units), the first one first."""
    return np.linalg.eigh(outputs.T @ outputs)[1].T[: -rank - 1 : -1]


def replace_zeros(weights: np.ndarray) -> np.ndarray:
    """Return `weights` with small random values in place of zeros. Two zeros on one path would both have zero gradient."""
    scale = 1e-3 * (np.sqrt(np.mean(np.square(weights))) if len(weights) else 0.0)
    return np.where(weights == 0, scale * np.random.default_rng(0).standard_normal(len(weights)), weights)


def _finite_kernel(kernel, shape: tuple[int, int]) -> np.ndarray:
    """Return `kernel` in double precision. Raise ValueError unless it has the shape `shape` and finite entries."""
    kernel = np.asarray(kernel)
    if kernel.shape != shape or not np.all(np.isfinite(kernel)):
        raise ValueError(f"Expected a kernel of shape {shape} with finite entries. Received: shape {kernel.shape}")
    return kernel.astype(np.complex128 if np.iscomplexobj(kernel) else np.float64)


def _first_cut(kernel: np.ndarray, wiring: Wiring) -> list[np.ndarray]:
    """Return the gadgets of a butterfly of increasing strides, of each stage an array (h, i, o, l).

    Only the rows of output nodes are filled, a group at a time. So the N x N matrix of a wide truncated butterfly is never
    formed.
    """
    first, last = _halves(wiring.radices)
    if not first:
        matrix = np.zeros((1, wiring.size, wiring.size), kernel.dtype)
        matrix[0][np.ix_(wiring.outputs, wiring.inputs)] = kernel.T
        return [gadget[0] for gadget in _cut(matrix, last)[0]]
    low, high = prod(first), prod(last)
    outputs = np.array(wiring.outputs)
    groups = {i_low: group for i_low in range(low) if len(group := np.flatnonzero(outputs % low == i_low))}

    def tiles(group):
        rows = np.zeros((len(group), wiring.size), kernel.dtype)
        rows[:, list(wiring.inputs)] = kernel[:, group].T
        return rows.reshape(len(group), high, low).swapaxes(0, 1)  # (j high, i high, j low)

    left = np.zeros((low, high, high), kernel.dtype)  # (i low, i high, j high)
    for i_low, group in groups.items():
        left[i_low, outputs[group] // low] = _leading_left(tiles(group)).T
    after, left = _cut(left, last)
    right = np.zeros((high, low, low), kernel.dtype)  # (j high, i low, j low)
    norms = np.zeros((1, low, high))
    for i_low, group in groups.items():
        _, norms[0, i_low], right[:, i_low] = _fit_right(left[i_low, outputs[group] // low].T, tiles(group))
    before, right = _cut(right, first)
    return [gadget[0] for gadget in _join_halves(before, after, norms, right[None])]


def _halves(radices: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the radices of both halves of the stages. The first half is empty if there is one stage."""
    return radices[: len(radices) // 2], radices[len(radices) // 2 :]


def _cut(matrices: np.ndarray, radices: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the gadgets of a batch of full butterflies of increasing strides near `matrices`, and the products of the gadgets.

    Args:
        matrices: (batch, outputs, inputs).
        radices: of the stages.

    Returns:
        Of each stage an array (batch, h, i, o, l), and an array of the shape of `matrices`.
    """
    first, last = _halves(radices)
    if not first:
        return [matrices.swapaxes(1, 2)[:, None, :, :, None]], matrices
    batch, low, high = len(matrices), prod(first), prod(last)
    tiles = matrices.reshape(batch, high, low, high, low).transpose(0, 2, 3, 1, 4)  # (batch, i low, j high, i high, j low)
    left = _leading_left(tiles)
    after, left = _cut(left.swapaxes(2, 3).reshape(batch * low, high, high), last)
    left, norms, right = _fit_right(left.reshape(batch, low, high, high).swapaxes(2, 3), tiles)
    before, right = _cut(right.swapaxes(1, 2).reshape(batch * high, low, low), first)
    right = right.reshape(batch, high, low, low)
    products = left[..., :, None] * right.swapaxes(1, 2)[..., None, :]
    return _join_halves(before, after, norms, right), products.transpose(0, 3, 1, 2, 4).reshape(matrices.shape)


def _join_halves(before: list[np.ndarray], after: list[np.ndarray], norms: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
    """Return the gadgets of the whole butterflies, of each stage an array (batch, h, i, o, l).

    At each node of the cut the columns of the second half are divided by `norms`. Then both halves are scaled to equal norms.

    Args:
        before: gadgets of the stages before the cut, of each stage an array (batch * j high, h, i, o, l).
        after: gadgets of the stages after the cut, of each stage an array (batch * i low, h, i, o, l).
        norms: norms of the columns of the second half, (batch, i low, j high).
        right: products of `before`, (batch, j high, i low, j low).
    """
    (batch, low, high), strength = norms.shape, np.sqrt(np.linalg.norm(right, axis=-1))
    _, _, _, radix, stride = before[-1].shape
    scaled = before[-1] * _inverse(strength).reshape(batch * high, 1, 1, radix, stride)
    first = [gadget.reshape(batch, -1, *gadget.shape[2:]) for gadget in (*before[:-1], scaled)]
    _, blocks, radix, _, _ = after[0].shape
    scaled = after[0] * (_inverse(norms) * strength.swapaxes(1, 2)).reshape(batch * low, blocks, radix, 1, 1)
    # i low gives the lowest digits of the position within a block.
    last = [np.moveaxis(gadget.reshape(batch, low, *gadget.shape[1:]), 1, -1) for gadget in (scaled, *after[1:])]
    return first + [gadget.reshape(*gadget.shape[:4], -1) for gadget in last]


def _leading_left(tiles: np.ndarray) -> np.ndarray:
    """Return the leading left singular vectors of `tiles` times their singular values, (..., rows).

    They come from the eigenvectors of the smaller Gram matrix. That takes half the time of `svd`, and the leading vectors,
    unlike the others, lose no precision by it.
    """
    adjoint = tiles.conj().swapaxes(-1, -2)
    if tiles.shape[-2] > tiles.shape[-1]:
        return (tiles @ np.linalg.eigh(adjoint @ tiles)[1][..., -1:])[..., 0]
    values, vectors = np.linalg.eigh(tiles @ adjoint)
    return vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0))


def _fit_right(left: np.ndarray, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `left` scaled to norm one, the norms before, and the least-squares solution `right`.

    With these, `left[..., :, None] * right[..., None, :]` is nearest to `tiles`. As `left` has norm one, a later change of
    `right` adds an error of the same norm.
    """
    norms = np.linalg.norm(left, axis=-1)
    left = left * _inverse(norms)[..., None]
    return left, norms, (left.conj()[..., None, :] @ tiles)[..., 0, :]


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return the inverse of each of `values`, and 0 where a value is 0."""
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)


def _rank_one(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `left` and `right`, of equal norm, such that `left[..., :, None] * right[..., None, :]` is nearest to `tiles`."""
    u, s, vt = np.linalg.svd(tiles, full_matrices=False)
    scale = np.sqrt(s[..., :1])
    return u[..., :, 0] * scale, vt[..., 0, :] * scale


def middle_kernel(kernel: np.ndarray, j1: np.ndarray, j2_t: np.ndarray) -> np.ndarray:
    """Return the W' for which `j1 @ W' @ j2_t` is nearest to `kernel` in the Frobenius norm.

    W' is `pinv(j1) @ kernel @ pinv(j2_t)`. If J1 and J2 are random, the error is that of a random approximation of rank
    min(k1, k2), far above that of the truncated SVD. Use W' as a start for training, not as a replacement.

    Args:
        kernel: (n1, n2), the trained kernel.
        j1: (n1, k1), the kernel of the first butterfly.
        j2_t: (k2, n2), the kernel of the second, transposed butterfly.

    Returns:
        W', (k1, k2), float64.

    Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2, where W' = J2 W J1^T.
    """
    kernel, j1, j2_t = (np.asarray(matrix, np.float64) for matrix in (kernel, j1, j2_t))
    return np.linalg.pinv(j1, rcond=PSEUDO_INVERSE_TOLERANCE) @ kernel @ np.linalg.pinv(j2_t, rcond=PSEUDO_INVERSE_TOLERANCE)
