"""How to group consecutive stages into block factors, and what each execution costs. Plain arithmetic.

g consecutive stages multiply out to one block-diagonal factor: N / R blocks of R x R, R = 2^g (a Monarch factor).
Axis letters: H blocks above the mixed bits, R the mixed bits, L positions below them; H * R * L = N.
"""

from dataclasses import dataclass

from .wiring import Wiring

# A fused factor also costs a transpose and an operator call. Expressed in multiply-adds per node and example:
# with it two factors win up to N = 1024 and three from 2048, as measured for forward and backward at batch 128.
FACTOR_OVERHEAD = 32


@dataclass(frozen=True)
class Factor:
    """Stages `first` .. `first + count - 1` of a wiring as one factor of N / R blocks of R x R, R = 2^count."""

    first: int
    count: int
    high: int
    low: int

    @property
    def radix(self) -> int:
        return 1 << self.count

    @property
    def multiply_adds(self) -> int:
        """Per example: N R."""
        return self.high * self.radix * self.radix * self.low


def factors(wiring: Wiring, counts: tuple[int, ...]) -> tuple[Factor, ...]:
    """Groups the stages of `wiring`, in the order of application, into factors of `counts` stages each.

    Raises:
        ValueError: if the counts are not positive or do not add up to the number of stages.
    """
    if sum(counts) != len(wiring.strides) or any(count < 1 for count in counts):
        raise ValueError(f"`counts` must be positive and add up to the {len(wiring.strides)} stages. Received: counts={counts}")
    grouped, first = [], 0
    for count in counts:
        low = min(wiring.strides[first : first + count])
        grouped.append(Factor(first, count, high=wiring.size // (low << count), low=low))
        first += count
    return tuple(grouped)


def balanced_counts(stages: int, groups: int) -> tuple[int, ...]:
    """`stages` split into `groups` counts that differ by at most one, the larger ones first."""
    small, larger = divmod(stages, groups)
    return (small + 1,) * larger + (small,) * (groups - larger)


def best_counts(wiring: Wiring) -> tuple[int, ...]:
    """The balanced grouping with the lowest `factors_cost`."""
    stages = len(wiring.strides)
    choices = [balanced_counts(stages, groups) for groups in range(1, stages + 1)]
    return min(choices, key=lambda counts: factors_cost(wiring, counts)) if choices else ()


def factors_cost(wiring: Wiring, counts: tuple[int, ...]) -> int:
    """Estimated cost per example of applying block factors, in multiply-adds."""
    return sum(factor.multiply_adds + FACTOR_OVERHEAD * wiring.size for factor in factors(wiring, counts))


def folded_cost(wiring: Wiring) -> int:
    """Multiply-adds per example of the folded matrix: inputs x outputs, and one operator's overhead."""
    return len(wiring.inputs) * len(wiring.outputs) + FACTOR_OVERHEAD * max(len(wiring.inputs), len(wiring.outputs))


def folds(wiring: Wiring) -> bool:
    """Whether multiplying the whole map out to one matrix is estimated to be cheaper than block factors."""
    return folded_cost(wiring) <= factors_cost(wiring, best_counts(wiring))
