"""The finalists: the few models that are trained to the end, exported and scored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import keras

from keras_butterfly.compression.report import ReplacementReport

from ..model import TFLiteModel
from .blueprint import Blueprint
from .costs import Cost
from .families import Entry
from .imitation import imitate
from .task import Task, trial_name
from .trials import EXPORT_WORK

# At most so many models are trained to the end. If latency or size are limited, it is one of each of the families.
MOST, FAMILIES = 12, 5
# A model is chosen to use this part of its limits, so that the noise of the last measurement does not put it above them.
MARGIN = 0.97
# How often the prediction of a cost is corrected by a measurement.
CORRECTIONS = 4
# If a model is fast enough, families without such a model are searched up to this multiple of its seconds, so that the result
# says what the other families cost.
SLOWER = 2
# Whether XLA compiles the step of a final training, which pays after some hundred steps.
COMPILED = True


class Finalist(NamedTuple):
    """A model that was trained, and its exported file."""

    blueprint: Blueprint
    model: keras.Model
    report: ReplacementReport | None
    exported: TFLiteModel
    score: float


@dataclass(frozen=True)
class Finalists:
    """The models that were trained so far. The first is the original.

    Attributes:
        task: the search that they are a part of.
        found: the models by the way they are made.
        skipped: why models could not be exported, by their names.
    """

    task: Task
    found: dict[Blueprint, Finalist] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> float:
        """The expected work, in training steps."""
        return (FAMILIES if self.task.targets.limits_cost else MOST) * self._work_of_each

    def add_original(self, exported: TFLiteModel) -> None:
        """Score the original and add it."""
        task, blueprint = self.task, Blueprint()
        score = task.memory.once(task.scores, "original", lambda: task.score(exported))
        self.found[blueprint] = Finalist(blueprint, task.model, None, exported, score)

    def train_those_within_limits(self, families: Sequence[Sequence[Entry]]) -> None:
        """Train the best model of each family that keeps the limits of latency and size.

        If no model of any family does, the nearest of each is trained.
        """
        best = [self._best_within_limits(family) for family in families]
        for entry, load in best:
            if self._is_over:
                return
            if load <= 1 or min(load for _, load in best) > 1:
                self._train(entry.blueprint)

    def train_the_fastest(self, families: Sequence[Sequence[Entry]], drop: float) -> None:
        """Find in each family the fastest model whose score drops by at most `drop`, by bisection over its models.

        The families take turns. Once a family has such a model, its models that are predicted to be slower than the fastest of
        all families are left out. A model of several families is trained once.
        """
        least = self.found[Blueprint()].score - drop
        searches = [_Bisection(family) for family in families]
        fastest = float("inf")
        while open_searches := [search for search in searches if search.is_open]:
            for search in open_searches:
                if len(self.found) + len(self.skipped) > MOST or self._is_over:
                    return
                trained = self._train(search.middle.blueprint)
                meets = trained is not None and trained.score >= least
                if meets:
                    fastest = min(fastest, search.middle.cost.seconds)
                search.halve(meets)
            for search in searches:
                search.leave_out_slower(fastest if search.has_good else SLOWER * fastest)

    @property
    def _is_over(self) -> bool:
        """Whether there is no time for one more model. One is trained in any case."""
        return len(self.found) > 1 and self.task.clock.is_over()

    @property
    def _work_of_each(self) -> float:
        epochs, batch_size, rates, _ = self.task.training
        return len(rates) * (epochs * -(-len(self.task.lesson) // batch_size) + 3 * EXPORT_WORK)

    def _best_within_limits(self, family: Sequence[Entry]) -> tuple[Entry, float]:
        """Return the best model of a family that keeps the limits as measured, or the nearest, and its measured load.

        Predicted costs are corrected by the ratio of the measured and the predicted one, some times.
        """
        ratio, measured = 1.0, dict[int, float]()
        for _ in range(CORRECTIONS):
            if measured and self.task.clock.is_over():
                break
            fitting = [index for index, entry in enumerate(family) if entry.load * ratio <= MARGIN]
            index = fitting[-1] if fitting else 0
            if index in measured:
                break
            measured[index] = self.task.targets.load(*self._untrained_cost(family[index].blueprint))
            ratio = measured[index] / family[index].load
        within = [index for index, load in measured.items() if load <= 1]
        index = max(within) if within else min(measured, key=measured.__getitem__)
        return family[index], measured[index]

    def _untrained_cost(self, blueprint: Blueprint) -> Cost:
        """Return the cost of a model before its training, which hardly changes it. It is infinite if the export fails."""

        def measured() -> Cost:
            new, _ = self._built(blueprint)
            try:
                return self.task.exporter.measure({"new": self.task.export(new, blueprint.name)})["new"]
            except ValueError:
                return Cost(float("inf"), float("inf"))

        return Cost(*self.task.memory.once(self.task.costs, f"untrained {_key(blueprint)}", measured))

    def _train(self, blueprint: Blueprint) -> Finalist | None:
        """Return a model that imitates the original, with its file and score: the best of those of all learning rates.

        It is None if there is none, see `_trained`.
        """
        if blueprint in self.found:
            return self.found[blueprint]
        self.task.clock.show(f"train model {len(self.found) + len(self.skipped)}: {blueprint.name}")
        best: Finalist | None = None
        for rate in self.task.training.learning_rates:
            if best is not None and self.task.clock.is_over():
                break
            trained = self._trained(blueprint, rate, is_needed=best is None and len(self.found) == 1)
            if trained is not None and (best is None or trained.score > best.score):
                best = trained
        if best is not None:
            self.skipped.pop(blueprint.name, None)
            self.found[blueprint] = best
        return best

    def _trained(self, blueprint: Blueprint, rate: float, is_needed: bool) -> Finalist | None:
        """Return a model that was trained with one learning rate, with its file and score.

        It is None if the training diverges, if the export fails, or if the time limit ends the training and the model is not
        needed.
        """
        task, key, finished = self.task, f"{_key(blueprint)} at {rate:g}", True
        new, report = self._built(blueprint)
        known = task.memory.known("finalists", key)
        if known:
            new.set_weights(task.memory.arrays_of("finalist", key))
        else:
            task.training.seeded(_key(blueprint))
            try:
                finished = imitate(
                    new,
                    task.lesson,
                    epochs=task.training.epochs,
                    batch_size=task.training.batch_size,
                    learning_rate=rate,
                    compiled=COMPILED,
                    is_over=task.clock.is_over,
                )
                if not finished and not is_needed:
                    raise ValueError("the time limit ended its training")
            except ValueError as error:
                self.skipped[blueprint.name] = str(error)
                return None
            if finished:
                task.memory.keep_arrays("finalist", key, new.get_weights())
                task.memory.once("finalists", key, lambda: blueprint.name)
        (task.clock.skip if known else task.clock.finish)(self._work_of_each / len(task.training.learning_rates))
        try:
            exported = task.export(new, blueprint.name)
        except ValueError as error:
            self.skipped[blueprint.name] = str(error)
            return None
        score = task.memory.once(task.scores, key, lambda: task.score(exported), is_finished=lambda: finished)
        return Finalist(blueprint, new, report, exported, score)

    def _built(self, blueprint: Blueprint) -> tuple[keras.Model, ReplacementReport | None]:
        """Return a new model, whose layers start from their trials, and the report of what was replaced.

        The layers of a narrower network have had no trials.
        """
        task = self.task
        tried = () if blueprint.widths else blueprint.structures
        starts = {
            (path, structure.name): task.memory.arrays_of("layer", trial_name(path, structure)) for path, structure in tried
        }
        task.training.seeded(_key(blueprint))
        return blueprint.build(task.model, task.lesson.x, starts, task.seed_of_trial)


@dataclass
class _Bisection:
    """A search for the cheapest good model of a family, in which each model is taken to be better than the cheaper ones.

    Attributes:
        family: the models, the cheapest first.
        bad: the index of the most expensive model that is known to be bad, or -1.
        good: the index of the cheapest model that is known to be good or is not wanted.
        has_good: whether a model is known to be good.
    """

    family: Sequence[Entry]
    bad: int = -1
    good: int = field(init=False)
    has_good: bool = False

    def __post_init__(self):
        self.good = len(self.family)

    @property
    def is_open(self) -> bool:
        """Whether a model is left to try."""
        return self.good - self.bad > 1

    @property
    def middle(self) -> Entry:
        """The model to try next."""
        return self.family[(self.bad + self.good) // 2]

    def halve(self, is_good: bool) -> None:
        """Note whether the model in the middle is good."""
        middle = (self.bad + self.good) // 2
        self.bad, self.good = (self.bad, middle) if is_good else (middle, self.good)
        self.has_good = self.has_good or is_good

    def leave_out_slower(self, seconds: float) -> None:
        """Leave out the models that are predicted to take this many seconds or more."""
        while self.is_open and self.family[self.good - 1].cost.seconds >= seconds:
            self.good -= 1


def _key(blueprint: Blueprint) -> str:
    """Return a text that tells blueprints apart. Their names leave out some layers."""
    widths: Mapping[str, int] = dict(blueprint.widths)
    return json.dumps([blueprint.layers, widths])
