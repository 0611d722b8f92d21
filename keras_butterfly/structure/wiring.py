"""The butterfly graph, free of any framework: which node feeds which, and which weights count.

A butterfly of size N = 2^m joins, in the stage of stride s = 2^t, node i to the nodes i and i XOR s. The pair of nodes
{i, i XOR s} with its four edges is one *gadget*. A `Wiring` is such a graph together with the nodes where the
input vector enters and the nodes where the output vector is read; an edge is *effective* if it lies on a path from
an input to an output, and only effective edges carry weights.

Weights are one flat vector. Stage by stage, and inside a stage in the order (h, i, o, l), it holds the
effective edges from source node (h, i, l) to target node (h, o, l), where a node is h * 2s + (0 or 1) * s + l:
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
    """One stage on its effective nodes: `y[r] = w[straight_weight[r]] x[straight[r]] + w[cross_weight[r]] x[cross[r]]`.

    Attributes:
        stride: 2^t, the distance between the two nodes of a gadget.
        nodes: int32 (rows,), the effective target nodes.
        straight, cross: int32 (rows,), positions in the stage's input of the nodes i and i XOR stride.
        straight_weight, cross_weight: int32 (rows,), positions in the flat weight vector; an edge that is not
            effective points one past the vector's end, where a reader puts a zero (and to input position 0).
        edges: int32 (effective edges,), the effective edges of this stage in (h, i, o, l) order, out of 2 N.
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
        """Where this stage's weights lie in the flat vector."""
        return slice(self.offset, self.offset + len(self.edges))


@dataclass(frozen=True)
class FoldStep:
    """One stage of a fold: the weights that extend each row's reach, of `shape` (width, reach, 2) or (width, 2, reach).

    With `append` the new bit is below the bits reached so far, otherwise above.
    """

    shape: tuple[int, int, int]
    append: bool


@dataclass(frozen=True, eq=False)
class FoldWalk:
    """How to multiply a butterfly out to a matrix, one row for each node of its narrower end.

    Attributes:
        from_outputs: whether the rows are the outputs, reached backwards; else the inputs, reached forwards.
        width: number of rows.
        steps: the stages in the order of the walk.
        index: int32, for all steps in turn the positions of the weights in the flat vector.
        splits: where in `index` the second and later steps begin.
    """

    from_outputs: bool
    width: int
    steps: tuple[FoldStep, ...]
    index: np.ndarray
    splits: list[int]


@dataclass(frozen=True)
class Wiring:
    """A butterfly of `size` = 2^m nodes between `inputs` and `outputs`, with its stages in the order of `strides`.

    Attributes:
        size: number of nodes N, a power of two.
        strides: the strides in the order of application: 1, 2, ..., N/2, or the reverse for a transpose.
        inputs, outputs: the node each entry of the input and output vector belongs to. Distinct; any order.

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

        N is the next power of two of the larger count. The wider side uses the first nodes (so inputs are zero-padded,
        or the first outputs kept). The narrower side, `ell` wide, uses the nodes that `truncation` names. With as many
        inputs as outputs, the outputs are the truncated side, or the inputs if `transposed`.

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
            seed: of the random subset. The draw uses NumPy's frozen legacy stream, so it never changes. The default 0 makes
                the subset a fixed function of the two sizes.

        Raises:
            ValueError: for a count below 1 or a bad `truncation`.
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
        """Whether the smallest stride comes first, as in the paper."""
        return self.strides == tuple(sorted(self.strides))

    @property
    def full(self) -> bool:
        """Whether every node is an input and an output, in order, so that every weight is effective."""
        everything = tuple(range(self.size))
        return self.inputs == everything == self.outputs

    def transpose(self) -> "Wiring":
        """The same graph run backwards. Its gadgets are the transposes: weights swap `i` with `o`."""
        return Wiring(self.size, self.strides[::-1], self.outputs, self.inputs)

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...]:
        """The effective nodes before, between and after the stages: m + 1 arrays, sorted but for the first and last."""
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
        """The stages on effective nodes, in the order of application."""
        stages: list[Stage] = []
        offset = 0
        for t, stride in enumerate(self.strides):
            stages.append(self._stage(stride, self.levels[t], self.levels[t + 1], offset))
            offset += len(stages[-1].edges)
        # A missing edge's weight index is known only once the length of the whole vector is.
        for stage in stages:
            for index in (stage.straight_weight, stage.cross_weight):
                index[index < 0] = offset
        return tuple(stages)

    @property
    def effective_weights(self) -> int:
        """Exact number of weights on a path from an input to an output."""
        return sum(len(stage.edges) for stage in self.stages)

    @property
    def weight_bound(self) -> int:
        """The paper's bound on `effective_weights`: min(2 N log2 ell + 6 N, 2 N log2 N), ell the narrower side's width.

        Reference: section 3.2; the first term exceeds the untruncated count once ell > N / 8.
        """
        narrow = min(len(self.inputs), len(self.outputs))
        untruncated = 2 * self.size * len(self.strides)
        return min(untruncated, int(2 * self.size * np.log2(narrow) + 6 * self.size))

    @cached_property
    def edge_index(self) -> np.ndarray:
        """int32 (m, 2 N): for every edge of the untruncated butterfly its position in the flat weight vector.

        Each row is in (h, i, o, l) order; edges that are not effective point one past the vector's end.
        """
        index = np.full((len(self.strides), 2 * self.size), self.effective_weights, np.int32)
        for row, stage in zip(index, self.stages, strict=True):
            row[stage.edges] = stage.offset + np.arange(len(stage.edges))
        return index

    @cached_property
    def fold_walk(self) -> FoldWalk:
        """The walk from the narrower end; its index has about 2 ell N entries, ell the width of that end."""
        from_outputs = len(self.outputs) <= len(self.inputs)
        stages = list(enumerate(self.strides))
        nodes = np.array(self.outputs if from_outputs else self.inputs)[:, None]
        # The nodes reached stay in natural order: each new bit goes below the others if the walk's strides shrink.
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
        return np.arange(self.size) ^ stride

    def _stage(self, stride: int, sources: np.ndarray, targets: np.ndarray, offset: int) -> Stage:
        position = np.full(self.size, -1)
        position[sources] = np.arange(len(sources))
        present = {}
        for kind, nodes in (("straight", targets), ("cross", targets ^ stride)):
            present[kind] = (position[nodes], _edge(nodes, targets, stride))
        edges = np.sort(np.concatenate([edge[source >= 0] for source, edge in present.values()]))
        fields = {}
        for kind, (source, edge) in present.items():
            weight = np.where(source >= 0, offset + np.searchsorted(edges, edge), -1)
            fields[kind] = np.maximum(source, 0).astype(np.int32)
            fields[f"{kind}_weight"] = weight.astype(np.int32)
        return Stage(stride, targets.astype(np.int32), edges=edges.astype(np.int32), offset=offset, **fields)


def _edge(sources: np.ndarray, targets: np.ndarray, stride: int) -> np.ndarray:
    """Position among a stage's 2 N edges, in (h, i, o, l) order."""
    block, low = targets // (2 * stride), targets % stride
    i, o = sources // stride % 2, targets // stride % 2
    return ((block * 2 + i) * 2 + o) * stride + low


def padded_size(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def _kept_nodes(size: int, widest: int, count: int, truncation, seed: int) -> tuple[int, ...]:
    """Return the `count` nodes that `truncation` names, among the first `widest` of `size` nodes unless it lists them."""
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
