"""Independent answers in plain NumPy, by loops over single nodes and edges: the slowest version, and so the likeliest right.

Of the package only the documented facts are used: a wiring's `size`, `radices`, `strides`, `inputs` and `outputs`, and the
order of its flat weight vector (stage by stage the effective edges in (h, i, o, l) order, see
`keras_butterfly.structure.wiring`).
"""

from functools import cache

import numpy as np


@cache
def effective_edges(wiring) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Per stage the (source, target) pairs that lie on a path from an input to an output, in the flat weights' order.

    Found by following all paths: boolean matrices say which node reaches which, before and after every stage.
    """
    size, mixing = wiring.size, list(zip(wiring.radices, wiring.strides, strict=True))
    joined = []
    for radix, stride in mixing:
        matrix = np.zeros((size, size), bool)
        for node in range(size):
            first = node - node // stride % radix * stride
            for digit in range(radix):
                matrix[node, first + digit * stride] = True
        joined.append(matrix)
    stages = []
    for t, (radix, stride) in enumerate(mixing):
        before = np.eye(size, dtype=bool)
        for matrix in joined[:t]:
            before = before @ matrix
        after = np.eye(size, dtype=bool)
        for matrix in joined[t + 1 :]:
            after = after @ matrix
        edges = []
        for h in range(size // (radix * stride)):
            for i in range(radix):
                for o in range(radix):
                    for low in range(stride):
                        source, target = (radix * h + i) * stride + low, (radix * h + o) * stride + low
                        reached = any(before[node, source] for node in wiring.inputs)
                        needed = any(after[target, node] for node in wiring.outputs)
                        if reached and needed:
                            edges.append((source, target))
        stages.append(tuple(edges))
    return tuple(stages)


def effective_count(wiring) -> int:
    """Number of effective edges."""
    return sum(len(edges) for edges in effective_edges(wiring))


def papers_count(size: int, kept) -> int:
    """The paper's exact count for a truncated butterfly: 2 |S| for each layer, walking back from the kept outputs S."""
    needed, count = set(kept), 0
    stride = size // 2
    while stride:
        count += 2 * len(needed)
        needed |= {node ^ stride for node in needed}
        stride //= 2
    return count


def stage_matrices(wiring, weights) -> list[np.ndarray]:
    """Per stage the dense (N, N) matrix M with `y = x @ M`, in which every edge is one entry."""
    weights = np.asarray(weights)
    matrices, position = [], 0
    for edges in effective_edges(wiring):
        matrix = np.zeros((wiring.size, wiring.size), weights.dtype)
        for source, target in edges:
            matrix[source, target] = weights[position]
            position += 1
        matrices.append(matrix)
    assert position == len(weights), f"expected {position} weights, received {len(weights)}"
    return matrices


def dense_matrix(wiring, weights) -> np.ndarray:
    """The (inputs, outputs) matrix K with `y = x @ K`: the explicit product of all stages, read at the wiring's nodes."""
    product = np.eye(wiring.size, dtype=np.asarray(weights).dtype)
    for matrix in stage_matrices(wiring, weights):
        product = product @ matrix
    return product[np.ix_(wiring.inputs, wiring.outputs)]


def gradients(wiring, weights, x, upstream) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(upstream * (x @ K)) in x and in the flat weights, by the chain rule on dense matrices."""
    x, upstream = np.asarray(x), np.asarray(upstream)
    rows = np.zeros((int(np.prod(x.shape[:-1])), wiring.size))
    rows[:, wiring.inputs] = x.reshape(-1, x.shape[-1])
    forward = [rows]
    matrices = stage_matrices(wiring, weights)
    for matrix in matrices:
        forward.append(forward[-1] @ matrix)
    backward = np.zeros_like(rows)
    backward[:, wiring.outputs] = upstream.reshape(-1, upstream.shape[-1])
    by_stage = []
    for matrix, value, edges in zip(matrices[::-1], forward[-2::-1], effective_edges(wiring)[::-1], strict=True):
        by_stage.insert(0, np.array([value[:, source] @ backward[:, target] for source, target in edges]))
        backward = backward @ matrix.T
    return backward[:, wiring.inputs].reshape(x.shape), np.concatenate([np.zeros(0), *by_stage])
