"""Which structure each layer gets: the allocations that no other beats in cost and harm.

The costs and the harm of a model are the sums over its layers. So the allocations of two groups of layers that no other beats
are among the sums of the best of each group, and groups can be merged one layer after the other. This is exact, unless so many
allocations are left that some of them are thinned out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# How many allocations are kept after each layer.
MOST = 400
# Allocations whose costs differ by less than this part count as equally expensive if there are more than MOST. The part grows
# until they are few enough.
FIRST_TOLERANCE, GROWTH = 0.002, 1.5


class Option(NamedTuple):
    """A structure for one layer, or structures for several.

    Attributes:
        costs: what it costs, one or several numbers.
        harm: how much it changes the model's outputs.
        picks: for each layer, the index of its structure.
    """

    costs: tuple[float, ...]
    harm: float
    picks: tuple[int, ...]


def allocations(layers: Sequence[Sequence[Option]], most: int = MOST) -> list[Option]:
    """Return the allocations that no other beats in every cost and in harm, by rising costs.

    Args:
        layers: the options of each layer. All have the same number of costs.
        most: the largest number of allocations to keep after each layer.
    """
    merged = [Option((0.0,) * len(layers[0][0].costs), 0.0, ())]
    for options in layers:
        sums = [_added(first, second) for first in merged for second in unbeaten(options)]
        merged = _thinned(unbeaten(sums), most)
    return merged


def unbeaten(options: Sequence[Option]) -> list[Option]:
    """Return the options that no other beats, by rising costs. Of equal ones the first is kept."""
    ordered = sorted(options, key=lambda option: (option.costs, option.harm))
    values = np.array([(*option.costs, option.harm) for option in ordered])
    kept: list[int] = []
    for index, value in enumerate(values):  # an option can only be beaten by one before it
        if not (values[kept] <= value).all(axis=1).any():
            kept.append(index)
    return [ordered[index] for index in kept]


def _added(first: Option, second: Option) -> Option:
    costs = tuple(a + b for a, b in zip(first.costs, second.costs, strict=True))
    return Option(costs, first.harm + second.harm, first.picks + second.picks)


def _thinned(options: list[Option], most: int) -> list[Option]:
    """Return at most `most` of the options: of those that cost about the same, the one that harms least."""
    tolerance = FIRST_TOLERANCE
    while len(options) > most:
        cells: dict[tuple, Option] = {}
        for option in options:
            cell = tuple(round(math.log(max(cost, 1e-12)) / math.log1p(tolerance)) for cost in option.costs)
            if cell not in cells or option.harm < cells[cell].harm:
                cells[cell] = option
        options, tolerance = list(cells.values()), tolerance * GROWTH
    return options
