"""Make narrower networks, whose hidden layers stay dense, and measure what each costs."""

from collections.abc import Callable, Mapping

from keras_butterfly.compression.narrowing import Arguments, narrowed_widths
from keras_butterfly.compression.width_multiplier import with_multiplier

from ..model import TFLiteModel
from .blueprint import Blueprint
from .costs import Cost, empty_model
from .narrowing import StrongestUnits, WidthMultiplier
from .task import Task

# How to make a narrower network, by the factor on its widths. None: the network would not be smaller.
ByFactor = Callable[[float], Blueprint | None]
# The factors on the widths of narrower dense networks whose costs are measured.
FACTORS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
# The part of the time limit after which no more of them are measured.
WIDTHS_PART = 0.1


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
