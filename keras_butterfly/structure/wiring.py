"""The graph of a butterfly in plain NumPy: which node feeds which, and which edges have a weight.

A butterfly of N nodes is a product of stages. The stage of radix r and stride s mixes one digit of the nodes' numbers: it joins
each node to the r nodes whose numbers differ from its own in that digit alone, and therefore by multiples of s. Such a group of
r nodes with its r^2 edges is one *gadget*. The product of all radices is N. In the paper every radix is 2: the stage of stride
s = 2^t joins node i to the nodes i and i XOR s.

A `Wiring` is such a graph together with the nodes where the input vector enters and the nodes where the output vector is read.
An edge is *effective* if it lies on a path from an input to an output. Only effective edges have weights.

All weights of a butterfly form one flat vector. It holds the stages in the order of application, and the effective
edges of a stage in the order (h, i, o, l). Edge (h, i, o, l) goes from node (h, i, l) to node (h, o, l), where the node
(h, digit, l) has the number h * r s + digit * s + l:
    h  gadget block, N / (r s) of them        i, o  the digit that the stage mixes, at its source and at its target
    l  position within the block, s of them
"""

import numbers
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from operator import mul

import numpy as np

from ..utils.validation import check_nodes, positive_integer

Radix = int | str | Sequence[int]
# A butterfly has at most so many nodes for each value of its wider side.
MAX_NODES = 256


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage is one sparse factor of a butterfly, restricted to its effective nodes.

    With x the values of the stage's source nodes and w the flat weight vector, the stage computes
    `y[row] = sum_k w[weights[k, row]] x[sources[k, row]]` for each target node `nodes[row]`. Source k is the node whose digit
    is that of the target plus k, modulo the radix. So source 0 is the target's own node, and with radix 2 source 1 is
    `nodes[row] XOR stride`.

    If an edge is not effective, its source position is 0 and its weight position is one past the end of the weight
    vector. Code that gathers the weights appends a zero to the vector first.

    Attributes:
        radix: number of nodes of a gadget.
        stride: the distance between neighbouring nodes of a gadget.
        nodes: int32 (rows,), the effective target nodes.
        sources: int32 (radix, rows), positions in x.
        weights: int32 (radix, rows), positions in w.
        edges: int32 (effective edges,), the effective edges among the r N edges of the stage, in (h, i, o, l) order.
        offset: position of the stage's first weight in the flat vector.
    """

    radix: int
    stride: int
    nodes: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    edges: np.ndarray
    offset: int

    @property
    def span(self) -> slice:
        """Return the slice of the flat weight vector that holds the weights of this stage."""
        return slice(self.offset, self.offset + len(self.edges))


@dataclass(frozen=True)
class FoldStep:
    """A step of a fold walk multiplies the weights of one stage, of radix r, into the matrix, which gets r times the columns.

    Attributes:
        shape: shape of the stage's weights, (width, columns, r) if `append`, else (width, r, columns).
        append: whether the digit that the stage mixes becomes the lowest digit of a column's number. If not, it becomes the
            highest digit.
    """

    shape: tuple[int, int, int]
    append: bool


@dataclass(frozen=True, eq=False)
class FoldWalk:
    """A fold walk is the list of steps that multiply a butterfly out to a dense matrix.

    The walk starts with one row for each node of the narrower end and a single column. Each step multiplies the number of
    columns by a radix, so that after the last step there is one column for each of the N nodes at the other end.

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
        size: number of nodes N.
        strides: strides of the stages in the order of application. They either rise from 1, and each is the product of the
            radices before, or they fall to 1. With radix 2 they are 1, 2, ..., N/2, or N/2, ..., 2, 1.
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
        rising = (*sorted(self.strides), self.size)
        if self.size < 1 or (rising[0] != 1) or any(high % low or high == low for low, high in pairwise(rising)):
            raise ValueError(
                "`strides` must rise from 1 or fall to 1, each a proper divisor of the next, the largest one of `size`. "
                f"Received: strides={self.strides}, size={self.size}"
            )
        if list(self.strides) not in (sorted(self.strides), sorted(self.strides, reverse=True)):
            raise ValueError(f"`strides` must rise from 1 or fall to 1. Received: strides={self.strides}")
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
        radix: Radix = 2,
        seed: int = 0,
    ) -> "Wiring":
        """Return the wiring that maps `inputs` values to `outputs` values.

        N is the product of the radices, at least the larger count. The wider side uses the first nodes. The narrower side,
        `ell` wide, uses the nodes that `truncation` names. If both sides are equally wide, the outputs count as the narrower
        side, or the inputs if `transposed`.

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
            radix: the radices of the stages, see `radices_of`.
            seed: seed of the random subset. NumPy's legacy generator draws it, whose stream is frozen, so a seed gives the
                same subset in every version. The default 0 makes the subset a fixed function of the two sizes.

        Raises:
            ValueError: if a count is below 1, or `truncation` or `radix` does not fit the counts.
        """
        inputs, outputs = positive_integer(inputs, "inputs"), positive_integer(outputs, "outputs")
        widest = max(inputs, outputs)
        radices = radices_of(radix, widest)
        size = prod(radices)
        kept = _kept_nodes(size, widest, min(inputs, outputs), truncation, seed)
        wide = tuple(range(widest))
        spreads = transposed or padded_size(inputs) < size
        decreasing = order == "decreasing" if order else spreads
        # The transpose of a butterfly has its radices backwards. A tuple has the order of application in any case.
        if transposed and not isinstance(radix, list | tuple):
            radices = radices[::-1]
        truncate_inputs = inputs < outputs or (inputs == outputs and transposed)
        return cls(
            size=size,
            strides=_strides(radices[::-1])[::-1] if decreasing else _strides(radices),
            inputs=kept if truncate_inputs else wide,
            outputs=wide if truncate_inputs else kept,
        )

    @cached_property
    def radices(self) -> tuple[int, ...]:
        """Return the radices of the stages in the order of application."""
        rising = (*sorted(self.strides), self.size)
        radices = tuple(high // low for low, high in pairwise(rising))
        return radices if self.increasing else radices[::-1]

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
        stages = list(zip(self.radices, self.strides, strict=True))
        reached = [np.isin(np.arange(self.size), self.inputs)]
        for radix, stride in stages:
            reached.append(_spread(reached[-1], radix, stride))
        needed = [np.isin(np.arange(self.size), self.outputs)]
        for radix, stride in reversed(stages):
            needed.insert(0, _spread(needed[0], radix, stride))
        inner = [np.flatnonzero(r & n) for r, n in zip(reached[1:-1], needed[1:-1], strict=True)]
        if not self.strides:
            return (np.array(self.inputs),)
        return (np.array(self.inputs), *inner, np.array(self.outputs))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages in the order of application."""
        stages: list[Stage] = []
        offset = 0
        for t, (radix, stride) in enumerate(zip(self.radices, self.strides, strict=True)):
            stages.append(_stage(radix, stride, self.levels[t], self.levels[t + 1], self.size, offset))
            offset += len(stages[-1].edges)
        # Edges that are not effective point one past the end of the weight vector, whose length is known only now.
        for stage in stages:
            stage.weights[stage.weights < 0] = offset
        return tuple(stages)

    @property
    def effective_weights(self) -> int:
        """Return the exact number of weights, which is the number of effective edges of all stages."""
        return sum(len(stage.edges) for stage in self.stages)

    @property
    def weight_bound(self) -> int:
        """Return an upper bound on `effective_weights`.

        It is the number of edges, N times the sum of the radices. With radix 2 it is the paper's bound if that is smaller:
        min(2 N log2 ell + 6 N, 2 N log2 N), ell the smaller of the numbers of inputs and outputs.

        Reference: Ailon, Leibovich, Nair, UAI 2021, section 3.2.
        """
        narrow = min(len(self.inputs), len(self.outputs))
        untruncated = self.size * sum(self.radices)
        if set(self.radices) - {2}:
            return untruncated
        return min(untruncated, int(2 * self.size * np.log2(narrow) + 6 * self.size))

    @cached_property
    def edge_index(self) -> tuple[np.ndarray, ...]:
        """Return the position in the flat weight vector of each edge of the untruncated butterfly, int32 (r N,) for each stage.

        Each array is in (h, i, o, l) order. Edges that are not effective point one past the end of the vector.
        """
        index = [np.full(radix * self.size, self.effective_weights, np.int32) for radix in self.radices]
        for row, stage in zip(index, self.stages, strict=True):
            row[stage.edges] = stage.offset + np.arange(len(stage.edges))
        return tuple(index)

    @cached_property
    def fold_walk(self) -> FoldWalk:
        """Return the steps that multiply the butterfly out to a dense matrix, starting at the narrower end.

        The index has about 2 ell N entries, ell the width of the narrower end.
        """
        from_outputs = len(self.outputs) <= len(self.inputs)
        stages = list(zip(self.radices, self.strides, self.edge_index, strict=True))
        nodes = np.array(self.outputs if from_outputs else self.inputs)[:, None]
        # To keep the columns in the order of their nodes, a new digit becomes the lowest one if the walk's strides shrink.
        append = self.increasing == from_outputs
        steps, index = [], []
        for radix, stride, positions in reversed(stages) if from_outputs else stages:
            known = nodes[:, :, None] if append else nodes[:, None, :]
            digits = np.arange(radix)[None, :] if append else np.arange(radix)[:, None]
            reached = known + (digits - known // stride % radix) * stride
            source, target = (reached, known) if from_outputs else (known, reached)
            steps.append(FoldStep(reached.shape, append))
            index.append(positions[_edge(source, target, radix, stride)].ravel())
            nodes = reached.reshape(len(nodes), -1)
        splits = np.cumsum([len(part) for part in index])[:-1].tolist()
        return FoldWalk(from_outputs, len(nodes), tuple(steps), np.concatenate(index or [[]]).astype(np.int32), splits)


def radices_of(radix: Radix, widest: int) -> tuple[int, ...]:
    """Return the radices of the stages of a butterfly of at least `widest` nodes, in the order of application.

    Args:
        radix: a power of two: N is the next power of two of `widest`, every stage has this radix, and the last one has what is
            left (512 = 4 * 4 * 4 * 4 * 2). A sequence of integers from 2: one radix for each stage. "auto": see `auto_radices`.
        widest: the larger of the numbers of inputs and outputs.

    Raises:
        ValueError: if `radix` is anything else, or the product of the sequence is below `widest`, or so large that nearly all
            nodes would be of no use.
    """
    radix = check_radix(radix)
    if isinstance(radix, str):
        return auto_radices(widest)
    if isinstance(radix, int):
        whole, left = divmod(padded_size(widest).bit_length() - 1, radix.bit_length() - 1)
        return (radix,) * whole + ((1 << left,) if left else ())
    if prod(radix) > MAX_NODES * widest:
        raise ValueError(
            f"The product of `radix` must be at most {MAX_NODES} times {widest}, the larger of the numbers of inputs and "
            f"outputs. Received: radix={reprlib.repr(radix)}. Expected for example {auto_radices(widest)}."
        )
    if prod(radix) < widest:
        others = radix[:-1]
        nearest = [(*others, -(-widest // prod(others))), auto_radices(widest)]
        raise ValueError(
            f"The product of `radix` must be at least {widest}, the larger of the numbers of inputs and outputs. "
            f"Received: radix={radix}, of product {prod(radix)}. Expected for example {' or '.join(map(str, nearest))}."
        )
    return radix


def auto_radices(widest: int) -> tuple[int, ...]:
    """Return the radices that `radix="auto"` means: two stages of about equal radices that need the fewest nodes.

    The radices are multiples of four and differ by a factor of two at most: (28, 28) for 784, (20, 32) for 640, (32, 32) for
    1024. Blocks of this size are what an export runs fastest, and some delegates group channels by four only. Up to 16 nodes
    a single stage is enough.
    """
    if widest <= 16:
        return (widest,) if widest > 1 else ()
    sides = range(4, 2 * int(np.sqrt(widest)) + 8, 4)
    pairs = [(low, high) for low in sides for high in sides if low <= high <= 2 * low and low * high >= widest]
    return min(pairs, key=lambda pair: (prod(pair), sum(pair)))


def check_radix(radix: Radix) -> int | str | tuple[int, ...]:
    """Return `radix` as an integer, "auto" or a tuple. Raise ValueError unless `radices_of` takes it."""
    expected = '`radix` must be a power of two from 2, "auto" or a sequence of integers from 2'
    if radix == "auto":
        return "auto"
    if isinstance(radix, list | tuple) and len(radix):
        radices = tuple(positive_integer(each, "radix") for each in radix)
        if min(radices) > 1:
            return radices
    elif isinstance(radix, numbers.Integral) and not isinstance(radix, bool):
        number = int(radix)
        if number > 1 and number & (number - 1) == 0:
            return number
    raise ValueError(f"{expected}. Received: radix={radix!r}")


def _strides(radices: Sequence[int]) -> tuple[int, ...]:
    """Return the strides that rise from 1, each the product of the radices before."""
    return tuple(accumulate(radices[:-1], mul, initial=1)) if radices else ()


def _spread(nodes: np.ndarray, radix: int, stride: int) -> np.ndarray:
    """Return which nodes share a gadget with one of `nodes`, both as masks (N,)."""
    gadgets = nodes.reshape(-1, radix, stride)
    return np.broadcast_to(gadgets.any(1, keepdims=True), gadgets.shape).reshape(-1)


def _stage(radix: int, stride: int, sources: np.ndarray, targets: np.ndarray, size: int, offset: int) -> Stage:
    """Return the stage from the nodes `sources` to the nodes `targets`. Weights that do not exist have the position -1."""
    position = np.full(size, -1)  # of each node among the sources, -1 for the others
    position[sources] = np.arange(len(sources))
    digit = targets // stride % radix
    partners = targets + ((digit + np.arange(radix)[:, None]) % radix - digit) * stride  # (radix, rows)
    found, edge = position[partners], _edge(partners, targets, radix, stride)
    edges = np.sort(edge[found >= 0])
    return Stage(
        radix=radix,
        stride=stride,
        nodes=targets.astype(np.int32),
        sources=np.maximum(found, 0).astype(np.int32),
        weights=np.where(found >= 0, offset + np.searchsorted(edges, edge), -1).astype(np.int32),
        edges=edges.astype(np.int32),
        offset=offset,
    )


def _edge(sources: np.ndarray, targets: np.ndarray, radix: int, stride: int) -> np.ndarray:
    """Return the positions of the edges from `sources` to `targets` among the r N edges of a stage, in (h, i, o, l) order."""
    block, low = targets // (radix * stride), targets % stride
    i, o = sources // stride % radix, targets // stride % radix
    return ((block * radix + i) * radix + o) * stride + low


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
