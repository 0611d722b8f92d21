"""Groupings of consecutive stages into block factors, and estimates of their cost. Plain arithmetic, no framework.

The product of g consecutive stages is one block-diagonal factor: N / R blocks of R x R, R = 2^g (a Monarch factor).
Axis letters: H blocks above the mixed bits, R the mixed bits, L positions below them; H * R * L = N.

If all inputs or all outputs are among the first of the N nodes, the nodes behind them are left out. The factor at the
largest strides, with blocks of nodes L apart, then maps I <= R inputs to O <= R outputs, and the other factors have fewer
blocks. So 784 inputs of N = 1024 in two factors of R = 32 need 25 blocks of 32 x 32 and 32 blocks of 25 x 32.
"""

from dataclasses import dataclass

from .wiring import Wiring

# A factor also costs a transpose and an operator call. This is that cost in multiply-adds per node and example. With 32 the
# estimates prefer two factors up to N = 1024 and three from 2048, as was measured for forward and backward at batch 128.
FACTOR_OVERHEAD = 32


@dataclass(frozen=True)
class Factor:
    """A factor is the product of consecutive stages of a butterfly, as a block-diagonal matrix.

    Block (h, l) joins the nodes (h * 2^count + i) * low + l, i < inputs, to the nodes (h * 2^count + o) * low + l, o < outputs.

    Attributes:
        first, count: the stages are `first` .. `first + count - 1`, in the order of application.
        high, low: there are `high` times `low` blocks (h, l).
        inputs, outputs: every block is a matrix of `inputs` x `outputs`.
    """

    first: int
    count: int
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
    spacing = wiring.size >> counts[top]
    before, after = (max(nodes) // spacing + 1 for nodes in (wiring.inputs, wiring.outputs))
    grouped, first = [], 0
    for number, count in enumerate(counts):
        low = min(wiring.strides[first : first + count])
        if number == top:
            grouped.append(Factor(first, count, 1, low, before, after))
        else:
            kept = before if number < top else after
            grouped.append(Factor(first, count, kept * spacing // (low << count), low, 1 << count, 1 << count))
        first += count
    return tuple(grouped)


def balanced_counts(stages: int, groups: int) -> tuple[int, ...]:
    """Return `groups` counts that add up to `stages` and differ by at most one, the larger ones first."""
    small, larger = divmod(stages, groups)
    return (small + 1,) * larger + (small,) * (groups - larger)


def best_counts(wiring: Wiring) -> tuple[int, ...]:
    """Return the counts of the balanced grouping with the lowest `factors_cost`."""
    stages = len(wiring.strides)
    choices = [balanced_counts(stages, groups) for groups in range(1, stages + 1)]
    return min(choices, key=lambda counts: factors_cost(wiring, counts)) if choices else ()


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
