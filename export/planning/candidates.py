"""Which lowerings of a layer are worth a look: all that are sensible, and the few that the estimate lets through to a
measurement."""

from collections.abc import Iterator
from dataclasses import replace

from keras_butterfly import ButterflyDense
from keras_butterfly.structure import fusion
from keras_butterfly.structure.wiring import Wiring

from ..lowering.lowering import Layer, Lowering
from .cost import LANES, estimate, estimated_bytes

# Stages in one factor: at radix 128 a factor costs as much as a dense kernel of 128 for every node.
MOST_STAGES = 7
# SUM keeps a product for every weight of a row; from radix 16 on it was slower than CONV_2D at every size measured.
MOST_SUMMED = 3
# More blocks than this are too many operators.
MOST_SPLIT = 16
# A candidate estimated to take this many times the best one's time is not measured: the estimate is of another machine.
PRUNE = 3.0
MOST_MEASURED = 12
# How many of the smallest are measured as well where size counts.
SMALLEST = 4
# How many of the best in float32 are measured in float32 inside a quantized model too, from weights in int8 and in float32.
MOST_IN_FLOAT32, MOST_WITH_FLOAT32_WEIGHTS = 6, 2


def lowerings(layer: Layer) -> list[Lowering]:
    """All sensible lowerings of `layer`: at least "dense", never "gather", which "slice" replaces."""
    if isinstance(layer, ButterflyDense):
        rank = min(layer.middle_kernel.shape)
        padded = [Lowering("folded", width=-(-rank // LANES) * LANES)] if rank % LANES else []
        return [Lowering("folded"), *padded, *_fused_sandwich(layer), Lowering("slice"), Lowering("dense")]
    return [*_fused(layer.wiring), Lowering("slice"), Lowering("dense")] if layer.wiring.strides else [Lowering("dense")]


def shortlist(layer: Layer, rows: int, precision: str | None, small: bool = False) -> list[Lowering]:
    """The lowerings to measure, the one with the lowest estimate first; with `small` also those with the fewest weights.

    In int8 and in "dynamic" the best of them come once more with their arithmetic in float32, in int8 also with their weights.
    """
    choices = lowerings(layer)
    estimates = {lowering: estimate(layer, lowering, rows, precision) for lowering in choices}
    ranked = sorted(choices, key=estimates.__getitem__)
    best = estimates[ranked[0]]
    kept = [lowering for lowering in ranked if estimates[lowering] <= PRUNE * best]
    firsts = {_family(lowering): lowering for lowering in reversed(kept)}.values()  # the best of each family, however estimated
    kept = kept[:MOST_MEASURED] + [lowering for lowering in kept[MOST_MEASURED:] if lowering in firsts]
    if precision in ("int8", "dynamic"):
        in_float = [lowering for lowering in shortlist(layer, rows, None) if lowering.kind in ("fused", "folded")]
        kept += [replace(lowering, keep_float32="arithmetic") for lowering in in_float[:MOST_IN_FLOAT32]]
        exact = in_float[:MOST_WITH_FLOAT32_WEIGHTS] if precision == "int8" else []
        kept += [replace(lowering, keep_float32="weights") for lowering in exact]
    if small:
        sizes = {lowering: estimated_bytes(layer, lowering, precision) for lowering in choices}
        smallest = sorted(choices, key=lambda lowering: (sizes[lowering], estimates[lowering]))[:SMALLEST]
        kept += [lowering for lowering in smallest if lowering not in kept]
    return kept


def _family(lowering: Lowering):
    """Lowerings that an estimate errs about alike: by kind and by the operators used. The dense kernel is one by itself."""
    return lowering.kind, frozenset(lowering.operators)


def _fused_sandwich(layer: ButterflyDense) -> Iterator[Lowering]:
    """Both halves with the same operators, paired by rank: the one that costs k-th least with that of the other half."""
    halves = [_fused_by_operators(wiring) for wiring in (layer.j1.wiring, layer.j2_t.wiring)]
    for operators in halves[0].keys() & halves[1].keys():
        for first, second in zip(halves[0][operators], halves[1][operators], strict=False):
            yield Lowering("fused", first.counts + second.counts, first.operators + second.operators)


def _fused_by_operators(wiring: Wiring) -> dict[tuple[str, ...], list[Lowering]]:
    """The fused lowerings by the set of operators that they use, by rising multiply-adds and a charge for each factor."""
    groups: dict[tuple[str, ...], list[Lowering]] = {}
    for lowering in sorted(_fused(wiring), key=lambda lowering: fusion.factors_cost(wiring, lowering.counts)):
        groups.setdefault(tuple(sorted(set(lowering.operators))), []).append(lowering)
    return groups


def _fused(wiring: Wiring) -> Iterator[Lowering]:
    """Every grouping into factors, the larger ones at the small strides, each with every sensible choice of operators.

    SUM works on values that are far apart, at large strides; the others on blocks of neighbours. Where nodes are left out, the
    blocks at the largest strides are smaller, so that a larger factor may be cheaper there.
    """
    partial = max(wiring.inputs) < wiring.size - 1 or max(wiring.outputs) < wiring.size - 1
    for counts in _partitions(len(wiring.strides), MOST_STAGES):
        if len(counts) < 2:  # one factor is the dense kernel
            continue
        for operators in _operators(counts, wiring):
            ordered = (counts, operators) if wiring.increasing else (counts[::-1], operators[::-1])
            yield Lowering("fused", *ordered)
            if partial and "sum" not in operators and counts != counts[::-1]:
                yield Lowering("fused", ordered[0][::-1], operators)


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
