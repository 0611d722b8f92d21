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
        return task.clock.is_over(WIDTHS_PART)

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


def narrower_butterflies(task: Task, widths: Mapping[str, int], replaceable: Collection[str]) -> dict[Blueprint, int]:
    """Return narrower networks whose hidden layers become butterflies, with their numbers of weights.

    A butterfly starts from random weights, so it has no need of the original's width. On a motion sensor's signals one of half
    the width was as accurate.

    Args:
        task: the search.
        widths: the widths of the layers that can be made narrower, by their paths.
        replaceable: the paths of the layers that a butterfly can take the place of.
    """
    found: dict[Blueprint, int] = {}
    for factor in BUTTERFLY_FACTORS:
        new = narrowed_widths(widths, factor)
        try:
            dense = narrow(task.model, new)
        except ValueError:  # a layer depends on the widths in a way that is not known
            return {}
        for name in BUTTERFLIES:
            found |= _with_butterflies(task, dense, new, replaceable, name)
    return found


def _with_butterflies(
    task: Task, dense: keras.Model, widths: Mapping[str, int], replaceable: Collection[str], name: str
) -> dict[Blueprint, int]:
    """Return the network whose hidden layers become the structure `name`, with its number of weights.

    A layer stays dense where the structure saves too little. The result is empty if all layers do.
    """
    wanted = []
    for path in widths:
        if path in replaceable:
            named = {structure.name: structure for structure in structures_of(DenseMap.of(layer_at(dense, path)))}
            wanted += [(path, named[name])] if name in named else []
    made = Blueprint(structures=tuple(wanted), widths=tuple(widths.items()))
    try:
        _, report = made.build(task.model, task.lesson.x, {}, task.seed_of_trial)
    except ValueError:  # a layer cannot have this structure
        return {}
    if report is None:
        return {}
    poor = [each for each in report.replacements if each.weights_after > MAX_WEIGHT_RATIO * each.weights_before]
    left_out = {each.layer for each in poor}
    kept = tuple((path, structure) for path, structure in wanted if path not in left_out)
    weights = report.weights_after + sum(each.weights_before - each.weights_after for each in poor)
    return {Blueprint(structures=kept, widths=made.widths): weights} if kept else {}


def costs_of_blueprints(task: Task, blueprints: Collection[Blueprint]) -> dict[Blueprint, Cost]:
    """Export and measure untrained networks, and return their costs.

    Networks that cannot be exported, or for which the time limit leaves no time, are left out.
    """

    def is_over() -> bool:
        return task.clock.is_over(WIDTHS_PART)

    def measured() -> dict[str, Cost]:
        exports = {}
        for blueprint in blueprints:
            if is_over():
                break
            new, _ = blueprint.build(task.model, task.lesson.x, {}, task.seed_of_trial)
            try:
                exports[blueprint.name] = task.export(new, blueprint.name)
            except ValueError:  # with random weights the file is off
                continue
        return task.exporter.measure(exports) if exports else {}

    found = task.memory.once(task.costs, "narrower butterflies", measured, is_finished=lambda: not is_over())
    return {each: Cost(*found[each.name]) for each in blueprints if each.name in found}
