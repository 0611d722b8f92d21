"""Groupings of consecutive stages into block factors, and estimates of their cost. Plain arithmetic, no framework.

The product of consecutive stages is one block-diagonal factor: N / R blocks of R x R, R the product of their radices (a Monarch
factor). Axis letters: H blocks above the mixed digits, R the mixed digits, L positions below them; H * R * L = N.

If all inputs or all outputs are among the first of the N nodes, the nodes behind them are left out. The factor at the
largest strides, with blocks of nodes L apart, then maps I <= R inputs to O <= R outputs, and the other factors have fewer
blocks. So 784 inputs of N = 1024 in two factors of R = 32 need 25 blocks of 32 x 32 and 32 blocks of 25 x 32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from operator import mul

from .wiring import Wiring

# A factor also costs a transpose and an operator call. This is that cost in multiply-adds per node and example. With 32 the
# estimates prefer two factors up to N = 1024 and three from 2048, as was measured for forward and backward at batch 128.
FACTOR_OVERHEAD = 32
# Groupings of unequal radices are compared up to this many factors. More were never the cheapest up to N = 2^16.
MAX_GROUPS = 4


@dataclass(frozen=True)
class Factor:
    """A factor is the product of consecutive stages of a butterfly, as a block-diagonal matrix.

    Block (h, l) joins the nodes (h * R + i) * low + l, i < inputs, to the nodes (h * R + o) * low + l, o < outputs.

    Attributes:
        first, count: the stages are `first` .. `first + count - 1`, in the order of application.
        radix: R, the product of their radices.
        high, low: there are `high` times `low` blocks (h, l).
        inputs, outputs: every block is a matrix of `inputs` x `outputs`.
    """

    first: int
    count: int
    radix: int
    high: int
    low: int
    inputs: int
    outputs: int

    @property
    def blocks(self) -> int:
        """Return how many blocks the factor has."""
        return self.high * self.low

    @property
    def nodes_in(self) -> int:
        """Return how many values one example has before the factor."""
        return self.blocks * self.inputs

    @property
    def nodes_out(self) -> int:
        """Return how many values one example has after the factor."""
        return self.blocks * self.outputs

    @property
    def multiply_adds(self) -> int:
        """Return the multiply-adds per example, which is the number of entries of all blocks."""
        return self.blocks * self.inputs * self.outputs


def factors(wiring: Wiring, counts: tuple[int, ...]) -> tuple[Factor, ...]:
    """Group the stages of `wiring`, in the order of application, into factors of `counts` stages each.

    Nodes behind the last input or the last output are left out as far as whole blocks of the factor at the largest strides
    allow.

    Raises:
        ValueError: if the counts are not positive or do not add up to the number of stages.
    """
    if sum(counts) != len(wiring.strides) or any(count < 1 for count in counts):
        raise ValueError(f"`counts` must be positive and add up to the {len(wiring.strides)} stages. Received: counts={counts}")
    if not counts:
        return ()
    top = (len(counts) - 1) if wiring.increasing else 0  # the factor at the largest strides
    spans = [slice(sum(counts[:number]), sum(counts[: number + 1])) for number in range(len(counts))]
    radices = [prod(wiring.radices[span]) for span in spans]
    spacing = wiring.size // radices[top]
    before, after = (max(nodes) // spacing + 1 for nodes in (wiring.inputs, wiring.outputs))
    grouped = []
    for number, (span, radix) in enumerate(zip(spans, radices, strict=True)):
        low = min(wiring.strides[span])
        if number == top:
            grouped.append(Factor(span.start, counts[number], radix, 1, low, before, after))
        else:
            kept = before if number < top else after
            high = kept * spacing // (low * radix)
            grouped.append(Factor(span.start, counts[number], radix, high, low, radix, radix))
    return tuple(grouped)


def stage_counts(wiring: Wiring, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many stages of `wiring` make up each factor of blocks of these sizes.

    Raises:
        ValueError: if the sizes are not products of the radices of consecutive stages.
    """
    reached = list(accumulate(wiring.radices, mul, initial=1))
    ends = list(accumulate(blocks, mul, initial=1))
    if any(end not in reached for end in ends) or ends[-1] != wiring.size:
        raise ValueError(f"`blocks` must be products of consecutive radices of {wiring.radices}. Received: blocks={blocks}")
    places = [reached.index(end) for end in ends]
    return tuple(last - first for first, last in pairwise(places))


def best_counts(wiring: Wiring) -> tuple[int, ...]:
    """Return the counts of the grouping with the lowest `factors_cost`.

    If all radices are equal, only balanced groupings are looked at. They differ by at most one stage, the larger ones first.
    """
    stages = len(wiring.strides)
    if len(set(wiring.radices)) == 1:
        choices = [balanced_counts(stages, groups) for groups in range(1, stages + 1)]
    else:
        choices = list(_compositions(stages, MAX_GROUPS))
    return min(choices, key=lambda counts: factors_cost(wiring, counts)) if stages else ()


def balanced_counts(stages: int, groups: int) -> tuple[int, ...]:
    """Return `groups` counts that add up to `stages` and differ by at most one, the larger ones first."""
    small, larger = divmod(stages, groups)
    return (small + 1,) * larger + (small,) * (groups - larger)


def _compositions(stages: int, groups: int) -> Iterator[tuple[int, ...]]:
    """Return all ways to write `stages` as a sum of positive counts, at most `groups` of them, in every order."""
    if stages == 0:
        yield ()
    elif groups:
        for first in range(stages, 0, -1):
            yield from ((first, *rest) for rest in _compositions(stages - first, groups - 1))


def best_factors(wiring: Wiring) -> tuple[Factor, ...]:
    """Return the factors of the balanced grouping with the lowest `factors_cost`."""
    return factors(wiring, best_counts(wiring))


def factors_cost(wiring: Wiring, counts: tuple[int, ...]) -> int:
    """Estimate the cost per example of multiplying by the block factors of `counts` stages each, in multiply-adds."""
    return sum(
        factor.multiply_adds + FACTOR_OVERHEAD * max(factor.nodes_in, factor.nodes_out) for factor in factors(wiring, counts)
    )


def folded_cost(wiring: Wiring) -> int:
    """Estimate the cost per example of multiplying by the folded (inputs, outputs) matrix, in multiply-adds."""
    return len(wiring.inputs) * len(wiring.outputs) + FACTOR_OVERHEAD * max(len(wiring.inputs), len(wiring.outputs))


def folds(wiring: Wiring) -> bool:
    """Return whether the whole map, folded into one matrix, is estimated to cost no more than its best block factors."""
    return folded_cost(wiring) <= factors_cost(wiring, best_counts(wiring))
