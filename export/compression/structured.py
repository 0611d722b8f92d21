"""Make narrower networks whose hidden layers become butterflies or low-rank layers, and measure what each costs."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import keras

from keras_butterfly.compression.dense_map import MAX_WEIGHT_RATIO, DenseMap
from keras_butterfly.compression.narrowing import narrow, narrowed_widths
from keras_butterfly.utils.model_walk import layer_at

from ..model import TFLiteModel
from .blueprint import Blueprint
from .costs import Cost
from .narrower import WIDTHS_PART
from .narrowing import StrongestUnits
from .structures import BUTTERFLY, LOW_RANK, Structure, low_rank, named_structure
from .task import Task

# The part of the time limit after which no more of these networks are measured. Each kind has half of the time for them.
STRUCTURED_PART = 0.15
_HALF = (WIDTHS_PART + STRUCTURED_PART) / 2


class Kind(NamedTuple):
    """A kind of narrower networks.

    Attributes:
        name: the name under which their costs are kept.
        factors: the factors on the widths of their hidden layers.
        choices: what the hidden layers become. Each takes a dense layer and returns its structure, or None if it has none.
        stage: the parts of the time limit between which they are measured.
    """

    name: str
    factors: tuple[float, ...]
    choices: tuple[Callable[[DenseMap], Structure | None], ...]
    stage: tuple[float, float]


BUTTERFLIES = Kind(
    "narrower butterflies",
    (0.75, 0.5, 0.25),
    tuple(partial(named_structure, name=name) for name in ("radix 4", "three stages", "two stages")),
    (WIDTHS_PART, _HALF),
)
LOW_RANKS = Kind(
    "narrower low-rank layers",
    (0.5, 0.25, 0.125),
    tuple(partial(low_rank, part=part) for part in (1 / 16, 1 / 8, 1 / 4)),
    (_HALF, STRUCTURED_PART),
)
KINDS = {BUTTERFLY: BUTTERFLIES, LOW_RANK: LOW_RANKS}


class Networks(NamedTuple):
    """Networks of one kind.

    Attributes:
        costs: what each costs. Networks that cannot be exported have no costs.
        weights: the number of weights of each.
    """

    costs: Mapping[Blueprint, Cost]
    weights: Mapping[Blueprint, int]


def structured_networks(task: Task, kind: Kind, widths: Mapping[str, int], replaceable: Collection[str]) -> Networks:
    """Export and measure the narrower networks of one kind. Those for which the time limit leaves no time are left out.

    Args:
        task: the search.
        kind: the kind.
        widths: the widths of the layers that can be made narrower, by their paths.
        replaceable: the paths of the layers that can have a structure.
    """
    is_known = task.memory.known(task.kind_of_costs, kind.name)
    weights: dict[Blueprint, int] = {}
    exports: dict[str, TFLiteModel] = {}

    def is_over() -> bool:
        begin, end = kind.stage
        return task.is_over(end, begin)

    for blueprint, model in _untrained(task, kind, widths, replaceable):
        if not is_known and is_over():
            break
        weights[blueprint] = model.count_params()
        if not is_known:
            try:
                exports[blueprint.name] = task.export_untrained(model, blueprint.name)
            except ValueError:  # with random weights the file is off
                continue

    def measured() -> dict[str, Cost]:
        return task.exporter.measure(exports) if exports else {}

    found = task.memory.once(task.kind_of_costs, kind.name, measured, is_finished=lambda: not is_over())
    return Networks({each: Cost(*found[each.name]) for each in weights if each.name in found}, weights)


def _untrained(
    task: Task, kind: Kind, widths: Mapping[str, int], replaceable: Collection[str]
) -> Iterator[tuple[Blueprint, keras.Model]]:
    """Yield the networks, each with the way it is made. One network is held at a time."""
    if widths.keys().isdisjoint(replaceable):
        return
    for factor in kind.factors:
        new = narrowed_widths(widths, factor)
        try:
            dense = narrow(task.model, new)
        except ValueError:  # a layer depends on the widths in a way that is not known
            return
        maps = {path: DenseMap.of(layer_at(dense, path)) for path in new if path in replaceable}
        for structure_of in kind.choices:
            wanted = tuple((path, structure) for path, each in maps.items() if (structure := structure_of(each)) is not None)
            built = _without_poor(task, Blueprint(wanted, StrongestUnits(tuple(new.items()))))
            if built is not None:
                yield built


def _without_poor(task: Task, blueprint: Blueprint) -> tuple[Blueprint, keras.Model] | None:
    """Return a network and the way it is made: as `blueprint`, but with dense layers where a structure saves too little.

    The result is None if all layers are dense, or if a layer cannot have its structure.
    """
    try:
        model, report = blueprint.build(task.model, task.lesson.x, {}, task.seed_of_trial)
    except ValueError:
        return None
    if report is None:
        return None
    poor = {each.layer for each in report.replacements if each.weights_after > MAX_WEIGHT_RATIO * each.weights_before}
    if not poor:
        return blueprint, model
    kept = tuple((path, structure) for path, structure in blueprint.structures if path not in poor)
    return _without_poor(task, Blueprint(kept, blueprint.narrowing))
