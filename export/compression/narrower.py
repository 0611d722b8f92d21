"""Make narrower networks, whose hidden layers are dense or butterflies, and measure what each costs."""

from collections.abc import Collection, Iterator, Mapping

import keras

from keras_butterfly.compression.dense_map import MAX_WEIGHT_RATIO, DenseMap
from keras_butterfly.compression.narrowing import narrow, narrowed_widths

from ..model import TFLiteModel
from .blueprint import Blueprint
from .costs import Cost, empty_model
from .harm import layer_at
from .structures import structures_of
from .task import Task

# The factors on the widths of narrower dense networks whose costs are measured.
FACTORS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
# The factors on the widths of networks with butterflies, and what their hidden layers become.
BUTTERFLY_FACTORS = (0.75, 0.5, 0.25)
BUTTERFLIES = ("radix 4", "three stages", "two stages")
# The name under which their costs are kept.
NAME = "narrower butterflies"
# The part of the time limit after which no more narrower networks are measured.
WIDTHS_PART = 0.1


def costs_of_widths(task: Task, widths: Mapping[str, int], original: TFLiteModel) -> tuple[dict[float, Cost], Cost]:
    """Measure the model with all of its widths times some factors. Return the costs by factor, and what an empty file costs.

    The factor 1 is the first. If the time limit leaves no time for more, there is one other factor.

    Args:
        task: the search.
        widths: the widths of the layers that can be made narrower, by their paths.
        original: the exported model.
    """

    def is_over() -> bool:
        return task.is_over(WIDTHS_PART)

    def measured() -> dict[str, Cost]:
        exports = {"1": original, "empty": task.exporter.export_layer(empty_model(), None, 1)}
        try:
            for factor, new in narrowed(task.model, widths):
                exports[str(factor)] = task.export(new, f"widths times {factor:g}")
                if is_over():
                    break
        except ValueError:  # a layer depends on the widths in a way that is not known, or the file would be off
            exports = {name: exports[name] for name in ("1", "empty")}
        return task.exporter.measure(exports)

    found = dict(task.memory.once(task.costs, "widths", measured, is_finished=lambda: not is_over()))
    empty = Cost(*found.pop("empty"))
    return {float(factor): Cost(*cost) for factor, cost in found.items()}, empty


def narrowed(model: keras.Model, widths: Mapping[str, int]) -> Iterator[tuple[float, keras.Model]]:
    """Yield the model with its widths times some factors, each with the factor.

    Raises:
        ValueError: as `narrow`.
    """
    seen = [dict(widths)]
    for factor in FACTORS:
        new = narrowed_widths(widths, factor)
        if new not in seen and all(new[path] <= width for path, width in widths.items()):
            seen.append(new)
            yield factor, narrow(model, new)


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
    is_known = task.memory.known(task.costs, NAME)
    weights: dict[Blueprint, int] = {}
    exports: dict[str, TFLiteModel] = {}

    def is_over() -> bool:
        return task.is_over(WIDTHS_PART)

    for blueprint, model in _untrained(task, widths, replaceable):
        weights[blueprint] = model.count_params()
        if not is_known and not is_over():
            try:
                exports[blueprint.name] = task.export(model, blueprint.name)
            except ValueError:  # with random weights the file is off
                continue

    def measured() -> dict[str, Cost]:
        return task.exporter.measure(exports) if exports else {}

    found = task.memory.once(task.costs, NAME, measured, is_finished=lambda: not is_over())
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
            built = _with_butterflies(task, Blueprint(structures=tuple(wanted), widths=tuple(new.items())))
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
    return _with_butterflies(task, Blueprint(structures=kept, widths=blueprint.widths))
