"""The lowering of a butterfly to block factors: consecutive stages multiplied out, each factor one operator or a few."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.layers.butterfly import Butterfly
from keras_butterfly.structure import fusion, kernels
from keras_butterfly.structure.wiring import Wiring

from . import layout as layouts
from .factors import OPERATORS, factor_work, route
from .layout import BATCH, Layout
from .lowering import Affine, Lowering, Part, PartByPart, Work, has_stages, unflatten

# A larger factor costs more than a dense kernel of this width for every node.
MAX_BLOCK = 128
# SUM keeps a product for every weight of a row. From radix 16 on it was slower than CONV_2D at every size measured.
MAX_SUMMED_BLOCK = 8
# XNNPACK has kernels of 3, 4 and 9 taps, and concatenates up to 5 tensors.
MAX_DEPTHWISE_BLOCK = 4
# TRANSPOSE takes up to 6 axes.
MAX_AXES = 6
# Splitting into more blocks than this makes too many operators.
MAX_SPLIT_BLOCKS = 16


class Grouping(NamedTuple):
    """How one butterfly is cut into factors.

    Attributes:
        blocks: the size R of the blocks of each factor, in the order of application. Each is a product of radices of
            consecutive stages.
        operators: the key in `factors.OPERATORS` by which each factor is written.
    """

    blocks: tuple[int, ...]
    operators: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"{block} {operator}" for block, operator in zip(self.blocks, self.operators, strict=True))


@dataclass(frozen=True)
class Fused(PartByPart):
    """Block factors, each written by one of `factors.OPERATORS`.

    Attributes:
        groupings: one for each butterfly among the layer's parts, in their order. Empty: `fusion.best_factors` by "conv".
    """

    kind = "fused"
    worth_float32 = True

    groupings: tuple[Grouping, ...] = ()

    @classmethod
    def candidates(cls, parts: Sequence[Part]) -> Iterator[Lowering]:
        wirings = [part.wiring for part in parts if has_stages(part)]
        if len(wirings) == 1:
            yield from (cls((grouping,)) for grouping in groupings(wirings[0]))
        elif wirings:
            # Pairing all groupings of several butterflies would be too many: the k-th best of one goes with the k-th best of
            # the others, with the same operators.
            ranked = [_ranked_by_operators(wiring) for wiring in wirings]
            for operators in [key for key in ranked[0] if all(key in other for other in ranked)]:
                yield from (cls(chosen) for chosen in zip(*(each[operators] for each in ranked), strict=False))

    def stack(self, wiring: Wiring, weights: np.ndarray, number: int, bias: np.ndarray | None) -> Affine:
        operators, factors = self._factors(number, wiring)
        factor_blocks = kernels.block_factors(wiring, ops.convert_to_tensor(weights), factors)
        constants = [ops.convert_to_numpy(block) for block in factor_blocks]
        # The last factor adds the bias, before values move on to their own places: TFLite fuses it there.
        biases = [None] * (len(factors) - 1) + [_at_nodes(bias, wiring)]
        steps = list(zip(operators, route(operators, factors), factors, constants, biases, strict=True))

        def affine(x):
            shape, batch = x.shape, _row_count(x)
            x, layout = _enter(tf.reshape(x, (-1, len(wiring.inputs))), wiring, steps[0][1][0])
            for index, (operator, (taken, given), factor, block, added) in enumerate(steps):
                with tf.name_scope(f"factor_{index}"):
                    x = layouts.move(x, layout, taken, batch)
                    x, layout = OPERATORS[operator](x, taken, given, factor, block, batch, added), given
            return unflatten(_leave(x, layout, wiring, batch), shape)

        return affine

    def butterfly_work(self, butterfly: Butterfly, number: int, rows: int) -> Work:
        wiring = butterfly.wiring
        total: Work = Counter()
        for kept in (wiring.inputs, wiring.outputs):
            if kept != tuple(range(len(kept))):
                total += Counter({"gathers": 1, "gathered": rows * wiring.size})
        operators, factors = self._factors(number, wiring)
        layout = layouts.entry(factors)
        for operator, factor, (taken, given) in zip(operators, factors, route(operators, factors), strict=True):
            total += factor_work(operator, factor, rows)
            if layouts.differ(layout, taken, rows):
                total += Counter({"moves": 1, "moved": rows * factor.nodes_in})
            layout = given
        if layouts.differ(layout, layouts.natural(layout), rows):
            total += Counter({"moves": 1, "moved": rows * factors[-1].nodes_out})
        return total

    def grouped_channels(self, parts: Sequence[Part]) -> Iterator[int]:
        wirings = [part.wiring for part in parts if has_stages(part)]
        for number, wiring in enumerate(wirings):
            for operator, factor in zip(*self._factors(number, wiring), strict=True):
                if operator == "conv" and factor.blocks > 1:
                    yield from (factor.inputs, factor.outputs)

    @property
    def detail(self) -> str:
        return ", ".join(map(str, self.groupings))

    @property
    def family(self) -> tuple:
        return self.kind, frozenset(operator for grouping in self.groupings for operator in grouping.operators)

    def to_dict(self) -> dict:
        return {**super().to_dict(), "groupings": [grouping._asdict() for grouping in self.groupings]}

    @classmethod
    def from_dict(cls, saved: dict) -> Lowering:
        read = [Grouping(tuple(each["blocks"]), tuple(each["operators"])) for each in saved["groupings"]]
        for blocks, operators in read:
            whole = all(isinstance(block, int) and block > 1 for block in blocks)
            if not whole or len(blocks) != len(operators) or not set(operators) <= set(OPERATORS):
                raise ValueError(f"Expected groupings into factors. Received: {saved['groupings']}")
        return super().from_dict({**saved, "groupings": tuple(read)})

    def _factors(self, number: int, wiring: Wiring) -> tuple[tuple[str, ...], tuple[fusion.Factor, ...]]:
        """Return how butterfly `number` of a layer is written: the operators, and the block factors of `wiring`."""
        if self.groupings:
            blocks, operators = self.groupings[number]
            return operators, fusion.factors(wiring, fusion.stage_counts(wiring, blocks))
        factors = fusion.best_factors(wiring)
        return ("conv",) * len(factors), factors


def groupings(wiring: Wiring) -> Iterator[Grouping]:
    """Return every sensible grouping into factors, with every sensible choice of operators.

    If all radices are equal, the larger factors are those at the small strides. SUM and depthwise convolutions work on values
    that are far apart, at large strides; the other operators on blocks of neighbours. Where nodes are left out, the blocks at
    the largest strides are smaller, so that a larger factor may be cheaper there.
    """
    partial = max(wiring.inputs) < wiring.size - 1 or max(wiring.outputs) < wiring.size - 1
    rising = wiring.radices if wiring.increasing else wiring.radices[::-1]
    alike = len(set(rising)) == 1
    for blocks in _compositions(rising, MAX_BLOCK):
        falls = list(blocks) == sorted(blocks, reverse=True)
        if len(blocks) < 2 or (alike and not falls):  # one factor is the dense kernel
            continue
        for operators in _operators(blocks, wiring.size):
            yield Grouping(blocks, operators) if wiring.increasing else Grouping(blocks[::-1], operators[::-1])
            if alike and partial and operators[-1] not in ("sum", "depthwise") and blocks != blocks[::-1]:
                yield Grouping(blocks[::-1] if wiring.increasing else blocks, operators)


def _ranked_by_operators(wiring: Wiring) -> dict[tuple[str, ...], list[Grouping]]:
    """Return the groupings by the set of operators that they use, by rising multiply-adds and a charge for each factor."""

    def cost(grouping: Grouping) -> int:
        return fusion.factors_cost(wiring, fusion.stage_counts(wiring, grouping.blocks))

    ranked: dict[tuple[str, ...], list[Grouping]] = {}
    for grouping in sorted(groupings(wiring), key=cost):
        ranked.setdefault(tuple(sorted(set(grouping.operators))), []).append(grouping)
    return ranked


def _operators(blocks: tuple[int, ...], size: int) -> Iterator[tuple[str, ...]]:
    """Return the sensible operators of factors with blocks of these sizes, of which the first work on neighbours."""
    for blocked in range(len(blocks) + 1):
        small = blocks[blocked:]
        # One factor of radix 4 is never slower than two of radix 2.
        if small and (max(small) > MAX_SUMMED_BLOCK or small.count(2) > 1):
            continue
        few_blocks = blocked and size // min(blocks[:blocked]) <= MAX_SPLIT_BLOCKS
        for operator in ("conv", "matmul", "split") if few_blocks else ("conv", "matmul") if blocked else ("",):
            yield (operator,) * blocked + ("sum",) * len(small)
        if blocked and small and _fits_depthwise(blocks[:blocked], small):
            yield ("conv",) * blocked + ("depthwise",) * len(small)


def _fits_depthwise(blocked: tuple[int, ...], small: tuple[int, ...]) -> bool:
    """Return whether factors with blocks of the sizes `small` may be depthwise convolutions behind CONV_2Ds of `blocked`.

    A CONV_2D of blocks as small takes longer than depthwise convolutions. The TRANSPOSE before the first of these moves the
    batch, each small digit, and the other digits in up to two runs.
    """
    axes = 1 + len(small) + min(len(blocked), 2)
    return max(small) <= MAX_DEPTHWISE_BLOCK < min(blocked) and axes <= MAX_AXES


def _compositions(radices: tuple[int, ...], largest: int) -> Iterator[tuple[int, ...]]:
    """Return the sizes of the blocks for all ways to cut the stages into consecutive groups. Larger first groups come first.

    A group of several stages has blocks up to `largest`. A single stage may have larger ones.
    """
    if not radices:
        yield ()
    for count in range(len(radices), 0, -1):
        block = prod(radices[:count])
        if count == 1 or block <= largest:
            for rest in _compositions(radices[count:], largest):
                yield (block, *rest)


def _at_nodes(bias: np.ndarray | None, wiring: Wiring) -> np.ndarray | None:
    """Return the bias of each node's output, 0 where a node has none."""
    if bias is None:
        return None
    nodes = np.zeros(wiring.size, bias.dtype)
    nodes[list(wiring.outputs)] = bias
    return nodes


def _enter(x, wiring: Wiring, wanted: Layout) -> tuple[Any, Layout]:
    """Place the inputs (B, n) at the nodes of `wanted`, in that layout if a GATHER is needed anyway, else in natural order.

    The batch comes first in either.
    """
    count, size = len(wiring.inputs), layouts.extent(wanted, 1)
    if wiring.inputs == tuple(range(count)):
        return kernels.place_inputs(x, wiring, size), layouts.natural(wanted)
    wanted = (BATCH, *(axis for axis in wanted if axis != BATCH))
    position = np.full(size, count, np.int32)
    position[list(wiring.inputs)] = np.arange(count)
    return tf.gather(tf.pad(x, ((0, 0), (0, 1))), position[layouts.nodes(wanted)], axis=-1), wanted


def _leave(x, layout: Layout, wiring: Wiring, batch: int | None):
    """Read the outputs (B, units) from nodes in `layout`. A GATHER needed anyway reads from where they lie."""
    count, size = len(wiring.outputs), layouts.extent(layout, 1)
    if wiring.outputs == tuple(range(count)):
        x = layouts.move(x, layout, layouts.natural(layout), batch)
        return kernels.read_outputs(tf.reshape(x, (-1, size)), wiring, size)
    if layout[0] != BATCH and batch != 1:
        x, layout = layouts.move(x, layout, layouts.natural(layout), batch), layouts.natural(layout)
    place = np.argsort(layouts.nodes(layout)).astype(np.int32)
    return tf.gather(tf.reshape(x, (-1, size)), place[list(wiring.outputs)], axis=-1)


def _row_count(x) -> int | None:
    """Return the number of rows of the last axis, or None where it is unknown."""
    return None if None in x.shape[:-1] else int(np.prod(x.shape[:-1]))
