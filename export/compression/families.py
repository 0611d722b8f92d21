"""The models that the search may train, in families: each from the cheapest to the one that is predicted to be the best."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .allocation import Option, allocations
from .blueprint import Blueprint
from .costs import Cost
from .structures import DENSE, Structure
from .targets import Targets

# The widths of narrower networks are 2^(-1/8), 2^(-2/8), ... of the original's.
STEPS_OF_HALF = 8
# Two models of a family differ by at least this part in what they cost. Closer ones are hard to tell apart.
MIN_STEP = 0.04


class Entry(NamedTuple):
    """A model that may be trained.

    Attributes:
        blueprint: how it is made.
        cost: what it is predicted to cost.
        load: how much of the targets it uses, see `Targets.load`.
        harm: the predicted change of the outputs. Only models of one family can be compared by it.
        precision: the name of the precision in which the model has this cost.
    """

    blueprint: Blueprint
    cost: Cost
    load: float
    harm: float
    precision: str = "float32"


class Tried(NamedTuple):
    """A structure of a layer, what it costs in this layer, all calls taken together, and its harm."""

    structure: Structure
    cost: Cost
    harm: float


def of_structures(
    layers: Mapping[str, Sequence[Tried]], rest: Cost, targets: Targets, families: Collection[str]
) -> list[Entry]:
    """Return the best models that replace layers, the cheapest first.

    Args:
        layers: for the path of each layer what was tried, with "dense", which keeps it, among them.
        rest: the cost of all the model but these layers.
        targets: say which costs count.
        families: the families of structures that may be used, beside "dense".
    """
    allowed = {DENSE.family, *families}
    usable = {path: [each for each in tried if each.structure.family in allowed] for path, tried in layers.items()}
    if not usable:
        return []
    options = [
        [Option(targets.costs(*each.cost), each.harm, (index,)) for index, each in enumerate(tried)]
        for tried in usable.values()
    ]
    entries = []
    for allocation in allocations(options):
        picked = {path: usable[path][index] for path, index in zip(usable, allocation.picks, strict=True)}
        cost = rest
        for each in picked.values():
            cost = cost.plus(each.cost)
        replaced = tuple((path, each.structure) for path, each in picked.items() if each.structure != DENSE)
        if replaced:
            entries.append(Entry(Blueprint(structures=replaced), cost, targets.load(*cost), allocation.harm))
    return improving(entries)


def of_widths(
    blueprint_at: Callable[[float], Blueprint | None], anchors: Mapping[float, Cost], targets: Targets
) -> list[Entry]:
    """Return the narrower networks, the cheapest first.

    Args:
        blueprint_at: how to make the network with its widths times a factor, or None if it would not be smaller.
        anchors: what the network costs with its widths times some factors. 1 is among them.
        targets: say which costs count.
    """
    entries, smallest = [], min(anchors)
    for step in range(1, round(-STEPS_OF_HALF * math.log2(smallest)) + 1):
        factor = 2 ** (-step / STEPS_OF_HALF)
        blueprint, cost = blueprint_at(factor), _interpolated(anchors, factor)
        if blueprint is not None:
            entries.append(Entry(blueprint, cost, targets.load(*cost), 1 / factor))
    return improving(entries)


def of_blueprints(costs: Mapping[Blueprint, Cost], weights: Mapping[Blueprint, int], targets: Targets) -> list[Entry]:
    """Return networks, the cheapest first. Of two, the one with more weights is taken to be the better one.

    Args:
        costs: what each network costs.
        weights: the number of weights of each.
        targets: say which costs count.
    """
    return improving([Entry(each, cost, targets.load(*cost), 1 / weights[each]) for each, cost in costs.items()])


def improving(entries: Iterable[Entry]) -> list[Entry]:
    """Return those entries that no cheaper one beats in harm, the cheapest first."""
    kept: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.load, entry.harm)):
        if not kept or entry.harm < kept[-1].harm:
            if len(kept) > 1 and entry.load < (1 + MIN_STEP) * kept[-2].load:
                kept.pop()
            kept.append(entry)
    return kept


def _interpolated(anchors: Mapping[float, Cost], factor: float) -> Cost:
    """Return the cost at a factor, by a straight line between the logarithms of the nearest anchors."""
    below, above = max(each for each in anchors if each <= factor), min(each for each in anchors if each >= factor)
    part = 0.0 if below == above else math.log(factor / below) / math.log(above / below)
    seconds, size = (
        math.exp((1 - part) * math.log(low) + part * math.log(high))
        for low, high in zip(anchors[below], anchors[above], strict=True)
    )
    return Cost(seconds, size)
