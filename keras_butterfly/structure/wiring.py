"""The graph of a butterfly in plain NumPy: which node feeds which, and which edges have a weight.

A butterfly of size N = 2^m joins, in the stage of stride s = 2^t, node i to the nodes i and i XOR s. The pair of nodes
{i, i XOR s} with its four edges is one *gadget*. A `Wiring` is such a graph together with the nodes where the
input vector enters and the nodes where the output vector is read. An edge is *effective* if it lies on a path from
an input to an output. Only effective edges have weights.

All weights of a butterfly form one flat vector. It holds the stages in the order of application, and the effective
edges of a stage in the order (h, i, o, l). Edge (h, i, o, l) goes from node (h, i, l) to node (h, o, l), where the node
(h, bit, l) has the number h * 2s + bit * s + l:
    h  gadget block, N / (2 s) of them        i, o  the bit that the stage mixes, at its source and at its target
    l  position within the block, s of them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..utils.validation import check_nodes, positive_integer


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage is one sparse factor of a butterfly, restricted to its effective nodes.

    With x the values of the stage's source nodes and w the flat weight vector, the stage computes
    `y[r] = w[straight_weight[r]] x[straight[r]] + w[cross_weight[r]] x[cross[r]]` for each target node `nodes[r]`.

    If an edge is not effective, its source position is 0 and its weight position is one past the end of the weight
    vector. Code that gathers the weights appends a zero to the vector first.

    Attributes:
        stride: 2^t, the distance between the two nodes of a gadget.
        nodes: int32 (rows,), the effective target nodes.
        straight, cross: int32 (rows,), the positions in x of the nodes `nodes[r]` and `nodes[r] XOR stride`.
        straight_weight, cross_weight: int32 (rows,), the positions in w of the edges from these two nodes.
        edges: int32 (effective edges,), the effective edges among the 2 N edges of the stage, in (h, i, o, l) order.
        offset: position of the stage's first weight in the flat vector.
    """

    stride: int
    nodes: np.ndarray
    straight: np.ndarray
    cross: np.ndarray
    straight_weight: np.ndarray
    cross_weight: np.ndarray
    edges: np.ndarray
    offset: int

    @property
    def weights(self) -> slice:
        """Return the slice of the flat weight vector that holds the weights of this stage."""
        return slice(self.offset, self.offset + len(self.edges))


@dataclass(frozen=True)
class FoldStep:
    """A step of a fold walk multiplies the weights of one stage into the matrix and doubles its columns.

    Attributes:
        shape: shape of the stage's weights, (width, columns, 2) if `append`, else (width, 2, columns).
        append: whether the bit that the stage mixes becomes the lowest bit of a column's number. If not, it becomes the
            highest bit.
    """

    shape: tuple[int, int, int]
    append: bool


@dataclass(frozen=True, eq=False)
class FoldWalk:
    """A fold walk is the list of steps that multiply a butterfly out to a dense matrix.

    The walk starts with one row for each node of the narrower end and a single column. Each step doubles the number of
    columns, so that after the last step there is one column for each of the N nodes at the other end.

    Attributes:
        from_outputs: True if the rows are the outputs and the stages are walked backwards. False if the rows are the
            inputs and the stages are walked forwards.
        width: number of rows.
        steps: one step for each stage, in the order of the walk.
        index: int32, the positions in the flat weight vector of the weights of all steps, one step after the other.
        splits: the positions in `index` at which the second and later steps begin.
    """

    from_outputs: bool
    width: int
    steps: tuple[FoldStep, ...]
    index: np.ndarray
    splits: list[int]


@dataclass(frozen=True)
class Wiring:
    """A wiring is the graph of one butterfly: its nodes, the order of its stages, its input nodes and output nodes.

    Attributes:
        size: number of nodes N, a power of two.
        strides: strides of the stages in the order of application: 1, 2, ..., N/2, or N/2, ..., 2, 1.
        inputs, outputs: for each entry of the input vector and of the output vector the number of its node. The numbers
            are distinct and may have any order.

    Example:
        >>> wiring = Wiring.butterfly(1024, 10, truncation="random", seed=0)
        >>> wiring.effective_weights <= wiring.weight_bound
        True

    Reference: Ailon, Leibovich, Nair, UAI 2021, sections 3.1 and 3.2 (butterfly network, truncation).
    """

    size: int
    strides: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self):
        full = tuple(1 << t for t in range(self.size.bit_length() - 1))
        if self.size < 1 or self.size & (self.size - 1):
            raise ValueError(f"`size` must be a power of two. Received: size={self.size}")
        if self.strides not in (full, full[::-1]):
            raise ValueError(f"`strides` must be {full} or its reverse. Received: strides={self.strides}")
        for name in ("inputs", "outputs"):
            check_nodes(getattr(self, name), self.size, name)

    @classmethod
    def butterfly(
        cls,
        inputs: int,
        outputs: int,
        *,
        truncation: "str | Sequence[int]" = "first",
        transposed: bool = False,
        order: str | None = None,
        seed: int = 0,
    ) -> "Wiring":
        """Return the wiring that maps `inputs` values to `outputs` values.

        N is the next power of two of the larger count. The wider side uses the first nodes. The narrower side, `ell` wide,
        uses the nodes that `truncation` names. If both sides are equally wide, the outputs count as the narrower side, or
        the inputs if `transposed`.

        With "first" and with "random" the generic rank is min(inputs, outputs): all nodes used are among the first
        max(inputs, outputs), so the map that copies each input node to the output of the same node has that rank.

        Args:
            inputs, outputs: positive integers n and ell of any size.
            truncation: "first" (nodes 0 .. ell - 1), "random" (a uniform random subset of the nodes
                0 .. max(inputs, outputs) - 1, drawn from `seed`), or a sequence of `ell` distinct nodes in 0 .. N - 1.
            transposed: run the stages backwards, from the largest stride down.
            order: "increasing" or "decreasing", the order of the strides. None means decreasing if `transposed`, or if the
                outputs need more nodes than the next power of two of `inputs`: there the first stages spread the inputs
                over all nodes. In every other case None means increasing, so that neighbours mix first.
            seed: seed of the random subset. NumPy's legacy generator draws it, whose stream is frozen, so a seed gives the
                same subset in every version. The default 0 makes the subset a fixed function of the two sizes.

        Raises:
            ValueError: if a count is below 1 or `truncation` does not fit the counts.
        """
        inputs, outputs = positive_integer(inputs, "inputs"), positive_integer(outputs, "outputs")
        widest = max(inputs, outputs)
        size = padded_size(widest)
        kept = _kept_nodes(size, widest, min(inputs, outputs), truncation, seed)
        wide = tuple(range(widest))
        strides = tuple(1 << t for t in range(size.bit_length() - 1))
        spreads = transposed or padded_size(inputs) < size
        truncate_inputs = inputs < outputs or (inputs == outputs and transposed)
        return cls(
            size=size,
            strides=strides[::-1] if (order == "decreasing" if order else spreads) else strides,
            inputs=kept if truncate_inputs else wide,
            outputs=wide if truncate_inputs else kept,
        )

    @property
    def increasing(self) -> bool:
        """Return whether the smallest stride comes first, as in the paper."""
        return self.strides == tuple(sorted(self.strides))

    @property
    def full(self) -> bool:
        """Return whether every node is an input and an output, in order. Then every edge is effective."""
        everything = tuple(range(self.size))
        return self.inputs == everything == self.outputs

    def transpose(self) -> "Wiring":
        """Return the wiring of the transposed map: the same graph run backwards.

        The gadgets are transposed too, so in the order (h, i, o, l) the weights swap `i` with `o`.
        """
        return Wiring(self.size, self.strides[::-1], self.outputs, self.inputs)

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...]:
        """Return the effective nodes before each of the m stages and after the last one, as m + 1 arrays.

        The first and the last array have the order of `inputs` and `outputs`. The others are sorted.
        """
        reached = [np.isin(np.arange(self.size), self.inputs)]
        for stride in self.strides:
            reached.append(reached[-1] | reached[-1][self._partner(stride)])
        needed = [np.isin(np.arange(self.size), self.outputs)]
        for stride in reversed(self.strides):
            needed.insert(0, needed[0] | needed[0][self._partner(stride)])
        inner = [np.flatnonzero(r & n) for r, n in zip(reached[1:-1], needed[1:-1], strict=True)]
        if not self.strides:
            return (np.array(self.inputs),)
        return (np.array(self.inputs), *inner, np.array(self.outputs))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages in the order of application."""
        stages: list[Stage] = []
        offset = 0
        for t, stride in enumerate(self.strides):
            stages.append(self._stage(stride, self.levels[t], self.levels[t + 1], offset))
            offset += len(stages[-1].edges)
        # Edges that are not effective point one past the end of the weight vector, whose length is known only now.
        for stage in stages:
            for index in (stage.straight_weight, stage.cross_weight):
                index[index < 0] = offset
        return tuple(stages)

    @property
    def effective_weights(self) -> int:
        """Return the exact number of weights, which is the number of effective edges of all stages."""
        return sum(len(stage.edges) for stage in self.stages)

    @property
    def weight_bound(self) -> int:
        """Return the paper's upper bound on `effective_weights`: min(2 N log2 ell + 6 N, 2 N log2 N).

        ell is the smaller of the numbers of inputs and outputs. If ell > N / 8, the untruncated count 2 N log2 N is smaller.

        Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.
        """
        narrow = min(len(self.inputs), len(self.outputs))
        untruncated = 2 * self.size * len(self.strides)
        return min(untruncated, int(2 * self.size * np.log2(narrow) + 6 * self.size))

    @cached_property
    def edge_index(self) -> np.ndarray:
        """Return the position in the flat weight vector of each edge of the untruncated butterfly, int32 (m, 2 N).

        Each row is in (h, i, o, l) order. Edges that are not effective point one past the end of the vector.
        """
        index = np.full((len(self.strides), 2 * self.size), self.effective_weights, np.int32)
        for row, stage in zip(index, self.stages, strict=True):
            row[stage.edges] = stage.offset + np.arange(len(stage.edges))
        return index

    @cached_property
    def fold_walk(self) -> FoldWalk:
        """Return the steps that multiply the butterfly out to a dense matrix, starting at the narrower end.

        The index has about 2 ell N entries, ell the width of the narrower end.
        """
        from_outputs = len(self.outputs) <= len(self.inputs)
        stages = list(enumerate(self.strides))
        nodes = np.array(self.outputs if from_outputs else self.inputs)[:, None]
        # To keep the columns in the order of their nodes, a new bit becomes the lowest one if the walk's strides shrink.
        append = self.increasing == from_outputs
        steps, index = [], []
        for t, stride in reversed(stages) if from_outputs else stages:
            known = nodes[:, :, None] if append else nodes[:, None, :]
            bits = np.array([0, stride])[None, :] if append else np.array([0, stride])[:, None]
            reached = (known & ~stride) | bits
            source, target = (reached, known) if from_outputs else (known, reached)
            steps.append(FoldStep(reached.shape, append))
            index.append(self.edge_index[t][_edge(source, target, stride)].ravel())
            nodes = reached.reshape(len(nodes), -1)
        splits = np.cumsum([len(part) for part in index])[:-1].tolist()
        return FoldWalk(from_outputs, len(nodes), tuple(steps), np.concatenate(index or [[]]).astype(np.int32), splits)

    def _partner(self, stride: int) -> np.ndarray:
        """Return for each node the other node of its gadget in the stage of `stride`."""
        return np.arange(self.size) ^ stride

    def _stage(self, stride: int, sources: np.ndarray, targets: np.ndarray, offset: int) -> Stage:
        """Return the stage from the nodes `sources` to the nodes `targets`. Weights that do not exist have the position -1."""
        position = np.full(self.size, -1)  # of each node among the sources, -1 for the others
        position[sources] = np.arange(len(sources))
        straight, cross = position[targets], position[targets ^ stride]
        straight_edge, cross_edge = _edge(targets, targets, stride), _edge(targets ^ stride, targets, stride)
        edges = np.sort(np.concatenate([straight_edge[straight >= 0], cross_edge[cross >= 0]]))
        straight_weight = np.where(straight >= 0, offset + np.searchsorted(edges, straight_edge), -1)
        cross_weight = np.where(cross >= 0, offset + np.searchsorted(edges, cross_edge), -1)
        return Stage(
            stride=stride,
            nodes=targets.astype(np.int32),
            straight=np.maximum(straight, 0).astype(np.int32),
            cross=np.maximum(cross, 0).astype(np.int32),
            straight_weight=straight_weight.astype(np.int32),
            cross_weight=cross_weight.astype(np.int32),
            edges=edges.astype(np.int32),
            offset=offset,
        )


def _edge(sources: np.ndarray, targets: np.ndarray, stride: int) -> np.ndarray:
    """Return the positions of the edges from `sources` to `targets` among the 2 N edges of a stage, in (h, i, o, l) order."""
    block, low = targets // (2 * stride), targets % stride
    i, o = sources // stride % 2, targets // stride % 2
    return ((block * 2 + i) * 2 + o) * stride + low


def padded_size(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


def _kept_nodes(size: int, widest: int, count: int, truncation, seed: int) -> tuple[int, ...]:
    """Return the `count` nodes of the narrower side. "first" and "random" choose among the first `widest` of `size` nodes."""
    if isinstance(truncation, str):
        if truncation == "first" or (truncation == "random" and count == widest):
            return tuple(range(count))
        if truncation == "random":
            drawn = np.random.RandomState(seed).permutation(widest)[:count]
            return tuple(int(node) for node in np.sort(drawn))
        raise ValueError(
            f'`truncation` must be "first", "random" or a sequence of node indices. Received: truncation={truncation!r}'
        )
    nodes = check_nodes(truncation, size, "truncation")
    if len(nodes) != count:
        raise ValueError(
            f"`truncation` must name as many nodes as the narrower side has values, {count}. Received: {len(nodes)} indices"
        )
    return nodes
