"""Which lowerings of a layer are worth a look: all that are sensible, and the few that the estimate lets through to a
measurement."""

from collections.abc import Iterator
from dataclasses import replace

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.wiring import Wiring

from .cost import LANES, estimate, weights_bytes
from .lowering import Layer, Lowering

# Stages in one factor: at radix 128 a factor costs as much as a dense kernel of 128 for every node.
MOST_STAGES = 7
# SUM keeps a product for every weight of a row; from radix 16 on it was slower than CONV_2D at every size measured.
MOST_SUMMED = 3
# More blocks than this are too many operators.
MOST_SPLIT = 16
# A candidate estimated to take this many times the best one's time is not measured: the estimate is of another machine.
PRUNE = 3.0
MOST_MEASURED = 16
# How many of the smallest are measured as well where size counts.
SMALLEST = 4
# How many of the best in float32 are measured as islands of an int8 model.
ISLANDS = 3


def lowerings(layer: Layer) -> list[Lowering]:
    """All sensible lowerings of `layer`: at least "dense", never "gather", which "slice" replaces."""
    if isinstance(layer, ButterflyDense):
        rank = min(layer.middle_kernel.shape)
        padded = [Lowering("folded", width=-(-rank // LANES) * LANES)] if rank % LANES else []
        return [Lowering("folded"), *padded, Lowering("fused"), Lowering("dense")]
    return [*_fused(layer), Lowering("slice"), Lowering("dense")]


def shortlist(layer: Layer, rows: int, precision: str | None, small: bool = False) -> list[Lowering]:
    """The lowerings to measure, the one with the lowest estimate first; with `small` also those with the fewest weights.

    In int8 the best of them come once more as islands of float.
    """
    choices = lowerings(layer)
    estimates = {lowering: estimate(layer, lowering, rows, precision) for lowering in choices}
    ranked = sorted(choices, key=estimates.__getitem__)
    best = estimates[ranked[0]]
    kept = [lowering for lowering in ranked if estimates[lowering] <= PRUNE * best]
    kept = _with_dense(kept, kept[:MOST_MEASURED])
    if precision == "int8":
        in_float = [lowering for lowering in shortlist(layer, rows, None) if lowering.kind != "dense"]
        kept += [replace(lowering, island=True) for lowering in in_float[:ISLANDS]]
    if small:
        sizes = {lowering: weights_bytes(layer, lowering) for lowering in choices}
        smallest = sorted(choices, key=lambda lowering: (sizes[lowering], estimates[lowering]))[:SMALLEST]
        kept += [lowering for lowering in smallest if lowering not in kept]
    return kept


def _with_dense(among: list[Lowering], kept: list[Lowering]) -> list[Lowering]:
    """`kept`, with the dense kernel where it is `among` those within reach: nothing may be slower than Dense."""
    return kept + [lowering for lowering in among if lowering.kind == "dense" and lowering not in kept]


def _fused(layer: Butterfly) -> Iterator[Lowering]:
    """Every grouping into factors, the larger ones at the small strides, each with every sensible choice of operators.

    SUM works on values that are far apart, at large strides; the others on blocks of neighbours.
    """
    wiring = layer.wiring
    for counts in _partitions(len(wiring.strides), MOST_STAGES):
        if len(counts) < 2:  # one factor is the dense kernel
            continue
        for operators in _operators(counts, wiring):
            ordered = (counts, operators) if wiring.increasing else (counts[::-1], operators[::-1])
            yield Lowering("fused", *ordered)


def _operators(counts: tuple[int, ...], wiring: Wiring) -> Iterator[tuple[str, ...]]:
    for blocked in range(len(counts) + 1):
        summed = counts[blocked:]
        if summed and (max(summed) > MOST_SUMMED or summed.count(1) > 1):  # one sum of radix 4 is never slower than two of 2
            continue
        few_blocks = blocked and wiring.size >> min(counts[:blocked]) <= MOST_SPLIT
        for operator in ("conv", "matmul", "split") if few_blocks else ("conv", "matmul") if blocked else ("",):
            yield (operator,) * blocked + ("sum",) * len(summed)


def _partitions(total: int, most: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of integers up to `most`, the larger first."""
    if total == 0:
        yield ()
    for first in range(min(total, most), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)
