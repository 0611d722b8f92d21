"""Make narrower networks, whose hidden layers are dense or butterflies, and measure what each costs."""

from collections.abc import Callable, Collection, Iterator, Mapping

import keras

from keras_butterfly.compression.dense_map import MAX_WEIGHT_RATIO, DenseMap
from keras_butterfly.compression.narrowing import Arguments, narrow, narrowed_widths
from keras_butterfly.compression.width_multiplier import with_multiplier
from keras_butterfly.utils.model_walk import layer_at

from ..model import TFLiteModel
from .blueprint import Blueprint
from .costs import Cost, empty_model
from .narrowing import StrongestUnits, WidthMultiplier
from .structures import structures_of
from .task import Task

# How to make a narrower network, by the factor on its widths. None: the network would not be smaller.
ByFactor = Callable[[float], Blueprint | None]
# The factors on the widths of narrower dense networks whose costs are measured.
FACTORS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
# The factors on the widths of networks with butterflies, and what their hidden layers become.
BUTTERFLY_FACTORS = (0.75, 0.5, 0.25)
BUTTERFLIES = ("radix 4", "three stages", "two stages")
# The name under which their costs are kept.
NAME = "narrower butterflies"
# The parts of the time limit after which no more narrower networks are measured, dense ones and those with butterflies.
WIDTHS_PART, BUTTERFLIES_PART = 0.1, 0.15


def by_widths(widths: Mapping[str, int]) -> ByFactor:
    """Return a function that takes a factor and returns how to make the layers of `widths` narrower.

    The layers keep their strongest units.

    Args:
        widths: the widths of the layers that can become narrower alone, by their paths.
    """

    def blueprint(factor: float) -> Blueprint | None:
        new = narrowed_widths(widths, factor)
        smaller = new != dict(widths) and all(new[path] <= width for path, width in widths.items())
        return Blueprint(narrowing=StrongestUnits(tuple(new.items()))) if smaller else None

    return blueprint


def by_multiplier(widths: Arguments) -> ByFactor:
    """Return a function that takes a factor and returns how to make all layers narrower, with random weights.

    Args:
        widths: the widths of the layers, by their paths and arguments.
    """

    def blueprint(factor: float) -> Blueprint | None:
        new = with_multiplier(widths, factor)
        pairs = [(new[path][name], width) for path, of in widths.items() for name, width in of.items()]
        smaller = any(after < before for after, before in pairs) and all(after <= before for after, before in pairs)
        return Blueprint(narrowing=WidthMultiplier.of(factor, new)) if smaller else None

    return blueprint


def costs_by_factor(task: Task, blueprint_at: ByFactor, original: TFLiteModel, name: str) -> dict[float, Cost]:
    """Measure narrower networks, and return what each costs, by the factor on its widths. The original has the factor 1.

    A network that cannot be made or exported is left out. If the time limit leaves no time for more, there is one other factor.

    Args:
        task: the search.
        blueprint_at: how to make the network with a factor.
        original: the exported model.
        name: the name under which the costs are kept.
    """

    def is_over() -> bool:
        return task.is_over(WIDTHS_PART)

    def measured() -> dict[str, Cost]:
        exports, seen = {"1": original}, set()
        for factor in FACTORS:
            blueprint = blueprint_at(factor)
            if blueprint is None or blueprint in seen:
                continue
            seen.add(blueprint)
            try:
                new, _ = blueprint.build(task.model, task.lesson.x, {}, task.seed_of_trial)
                exports[str(factor)] = task.export_untrained(new, blueprint.name)
            except ValueError:  # a layer depends on the widths in a way that is not known, or the file would be off
                continue
            if is_over():
                break
        return task.exporter.measure(exports)

    found = task.memory.once(task.kind_of_costs, name, measured, is_finished=lambda: not is_over())
    return {float(factor): Cost(*cost) for factor, cost in found.items()}


def cost_of_nothing(task: Task) -> Cost:
    """Return what an empty file costs, which is a part of every measurement."""

    def measured() -> Cost:
        return task.exporter.measure({"empty": task.exporter.export_layer(empty_model(), None, 1)})["empty"]

    return Cost(*task.memory.once(task.kind_of_costs, "empty", measured))


def narrower_butterflies(
    task: Task, widths: Mapping[str, int], replaceable: Collection[str]
) -> tuple[dict[Blueprint, Cost], dict[Blueprint, int]]:
    """Export and measure narrower networks whose hidden layers become butterflies. Return their costs and numbers of weights.

    A butterfly starts from random weights, so it has no need of the original's width. On a motion sensor's signals one of half
    the width was as accurate. Networks that cannot be exported, or for which the time limit leaves no time, have no costs.

    Args:
        task: the search.
        widths: the widths of the layers that can be made narrower, by their paths.
        replaceable: the paths of the layers that a butterfly can take the place of.
    """
    is_known = task.memory.known(task.kind_of_costs, NAME)
    weights: dict[Blueprint, int] = {}
    exports: dict[str, TFLiteModel] = {}

    def is_over() -> bool:
        return task.is_over(BUTTERFLIES_PART, WIDTHS_PART)

    for blueprint, model in _untrained(task, widths, replaceable):
        weights[blueprint] = model.count_params()
        if not is_known and not is_over():
            try:
                exports[blueprint.name] = task.export_untrained(model, blueprint.name)
            except ValueError:  # with random weights the file is off
                continue

    def measured() -> dict[str, Cost]:
        return task.exporter.measure(exports) if exports else {}

    found = task.memory.once(task.kind_of_costs, NAME, measured, is_finished=lambda: not is_over())
    return {each: Cost(*found[each.name]) for each in weights if each.name in found}, weights


def _untrained(task: Task, widths: Mapping[str, int], replaceable: Collection[str]) -> Iterator[tuple[Blueprint, keras.Model]]:
    """Yield narrower networks with butterflies, each with the way it is made. One network is held at a time."""
    for factor in BUTTERFLY_FACTORS:
        new = narrowed_widths(widths, factor)
        try:
            dense = narrow(task.model, new)
        except ValueError:  # a layer depends on the widths in a way that is not known
            return
        for name in BUTTERFLIES:
            wanted = []
            for path in new:
                if path in replaceable:
                    named = {structure.name: structure for structure in structures_of(DenseMap.of(layer_at(dense, path)))}
                    wanted += [(path, named[name])] if name in named else []
            built = _with_butterflies(task, Blueprint(tuple(wanted), StrongestUnits(tuple(new.items()))))
            if built is not None:
                yield built


def _with_butterflies(task: Task, blueprint: Blueprint) -> tuple[Blueprint, keras.Model] | None:
    """Return a network and the way it is made: as `blueprint`, but with dense layers where a butterfly saves too little.

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
    return _with_butterflies(task, Blueprint(kept, blueprint.narrowing))
