"""The finalists: the few models that are trained to the end, exported and scored."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import keras

from keras_butterfly.compression.report import ReplacementReport

from ..model import TFLiteModel
from .blueprint import NARROWER_WITH, Blueprint
from .costs import Cost
from .families import Entry
from .imitation import imitate
from .narrowing import StrongestUnits
from .structures import LOW_RANK
from .targets import ROUND_OFF
from .task import Task, trial_name
from .trials import EXPORT_WORK

# At most so many models are trained to the end. If latency or size are limited, it is one of each of the families.
MOST, FAMILIES = 12, 7
# A model is chosen to use this part of its limits, so that the noise of the last measurement does not put it above them.
MARGIN = 0.97
# An original whose score in another precision is at most this much lower is as good as the original.
ALIKE = 0.001
# How often the prediction of a cost is corrected by a measurement.
CORRECTIONS = 4
# If a model is fast enough, families without such a model are searched up to this multiple of its seconds, so that the result
# says what the other families cost.
SLOWER = 2
# Narrower networks of these families start from a fit. Butterflies are as accurate from random weights.
FITTED_FAMILIES = (NARROWER_WITH[LOW_RANK],)
# The original is made by changing nothing.
UNCHANGED = Blueprint()
# Whether XLA compiles the step of a final training, which pays after some hundred steps.
COMPILED = True


class Finalist(NamedTuple):
    """A trained model, its exported file in one precision, and the learning rate. The original has no rate."""

    blueprint: Blueprint
    model: keras.Model
    report: ReplacementReport | None
    exported: TFLiteModel
    score: float
    rate: float | None = None


@dataclass(frozen=True)
class Finalists:
    """The models that were trained so far. The first is the original.

    One training of a model serves all precisions of the search: the model is exported in each.

    Attributes:
        tasks: the search that they are a part of, once for each precision, by the names of the precisions.
        found: the models, by the way they are made and the name of the precision.
        skipped: why models could not be exported, by their names.
        tried: the ways to make a model that were tried, with that of the original.
    """

    tasks: Mapping[str, Task]
    found: dict[tuple[Blueprint, str], Finalist] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    tried: set[Blueprint] = field(default_factory=lambda: {UNCHANGED})

    @property
    def task(self) -> Task:
        """The search in its first precision."""
        return next(iter(self.tasks.values()))

    @property
    def original(self) -> Finalist:
        """The original in the first precision in which it can be exported."""
        return next(iter(self.found.values()))

    @property
    def work(self) -> float:
        """The expected work, in training steps."""
        rates = len(self.task.training.learning_rates)
        trainings = FAMILIES * rates if self.task.targets.limits_cost else MOST + FAMILIES * (rates - 1)
        return trainings * self._work_of_each

    def add_originals(self) -> None:
        """Export and score the original in each precision, and add the files.

        Raises:
            ValueError: if it cannot be exported in any precision.
        """
        for precision, task in self.tasks.items():
            name = self.name(UNCHANGED, precision)
            try:
                exported = task.export(task.model, "the original")
            except ValueError as error:
                if len(self.tasks) == 1:
                    raise
                self.skipped[name] = str(error)
                continue
            score = task.memory.once(task.kind_of_scores, "original", partial(task.score, exported))
            self.found[UNCHANGED, precision] = Finalist(UNCHANGED, task.model, None, exported, score)
        if not self.found:
            reasons = " ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise ValueError(f"Expected a model that can be exported in one of {tuple(self.tasks)}. {reasons}")

    def is_like_the_original(self, precision: str) -> bool:
        """Return whether the original is about as good in one precision as in the first. Then nothing is more like it."""
        return self.found[UNCHANGED, precision].score >= self.original.score - ALIKE

    def name(self, blueprint: Blueprint, precision: str) -> str:
        """Return the name of a model in a precision."""
        return blueprint.name if len(self.tasks) == 1 else f"{blueprint.name}, {precision}"

    def train_those_within_limits(self, families: Sequence[Sequence[Entry]]) -> None:
        """Train the best model of each family that keeps the limits of latency and size.

        If no model of any family does, the nearest of each is trained, the nearest of all first.
        """
        best = sorted((self._best_within_limits(family) for family in families), key=lambda each: max(each[1], 1.0))
        for entry, load in best:
            if self._is_over:
                return
            if load <= 1 or best[0][1] > 1:
                self._train(entry)

    def train_the_fastest(self, families: Sequence[Sequence[Entry]], drop: float) -> None:
        """Find in each family the fastest model whose score drops by at most `drop`, by bisection over its models.

        The families take turns. Once a family has such a model, its models that are predicted to be slower than the fastest of
        all families are left out. A model of several families is trained once. The first model of a family is trained with each
        learning rate, and the others with the rate that was best for it.
        """
        least = self.original.score - drop - ROUND_OFF
        searches = [_Bisection(family) for family in families]
        fastest = float("inf")
        while open_searches := [search for search in searches if search.is_open]:
            for search in open_searches:
                if len(self.tried) > MOST or self._is_over:
                    return
                entry = search.middle
                trained = self._train(entry, search.rate)
                if trained is not None:
                    search.rate = search.rate or trained.rate
                    if trained.score >= least:
                        fastest = min(fastest, entry.cost.seconds)
                # In a precision other than the cheapest one the same model may be good enough.
                search.halve(any(each.score >= least for each in self._files_of(entry.blueprint).values()))
            for search in searches:
                search.leave_out_slower(fastest if search.has_good else SLOWER * fastest)

    @property
    def _is_over(self) -> bool:
        """Whether there is no time for one more model. One is trained in any case."""
        return self._has_trained and self.task.clock.is_over()

    @property
    def _has_trained(self) -> bool:
        """Whether a model other than the original was found."""
        return any(blueprint != UNCHANGED for blueprint, _ in self.found)

    @property
    def _work_of_each(self) -> float:
        epochs, batch_size, *_ = self.task.training
        return epochs * -(-len(self.task.lesson) // batch_size) + 3 * EXPORT_WORK * len(self.tasks)

    def _best_within_limits(self, family: Sequence[Entry]) -> tuple[Entry, float]:
        """Return the best model of a family that keeps the limits as measured, or the nearest, and its measured load.

        Predicted costs are corrected by the ratio of the measured and the predicted one, some times.
        """
        ratio, measured = 1.0, dict[int, float]()
        for _ in range(CORRECTIONS):
            if measured and self.task.clock.is_over():
                break
            usable = [index for index in range(len(family)) if math.isfinite(measured.get(index, 0.0))]
            fitting = [index for index in usable if family[index].load * ratio <= MARGIN]
            index = fitting[-1] if fitting else min(usable, default=0)
            if index in measured:
                break
            measured[index] = self.task.targets.load(*self._untrained_cost(family[index]))
            if math.isfinite(measured[index]):
                ratio = measured[index] / family[index].load
        within = [index for index, load in measured.items() if load <= 1]
        index = max(within) if within else min(measured, key=measured.__getitem__)
        return family[index], measured[index]

    def _untrained_cost(self, entry: Entry) -> Cost:
        """Return the cost of a model before its training, which hardly changes it. It is infinite if the export fails."""
        task, blueprint = self.tasks[entry.precision], entry.blueprint

        def measured() -> Cost:
            try:
                new, _ = self._built(blueprint, fitted=False)
                return task.exporter.measure({"new": task.export_untrained(new, blueprint.name)})["new"]
            except ValueError:
                return Cost(float("inf"), float("inf"))

        return Cost(*task.memory.once(task.kind_of_costs, f"untrained {_key(blueprint)}", measured))

    def _train(self, entry: Entry, rate: float | None = None) -> Finalist | None:
        """Train a model to imitate the original, and return it in the precision of the entry. In others it is added too.

        With `rate` None it is trained with each learning rate, and the best model is kept. Otherwise it is trained with `rate`,
        and with the others only if this fails. The result is None if no training succeeds, see `_trained`.
        """
        if entry.blueprint not in self.tried:
            self.task.clock.show(f"train model {len(self.tried)}: {entry.blueprint.name}")
            self.tried.add(entry.blueprint)
            self._train_at_rates(entry.blueprint, rate)
        return self.found.get((entry.blueprint, entry.precision))

    def _train_at_rates(self, blueprint: Blueprint, first: float | None) -> None:
        """Train a model with the learning rate `first`, or with each if it is None, and add the best of each precision.

        If the training with `first` fails, the other rates are tried until one succeeds.
        """
        is_needed = not self._has_trained
        for rate in sorted(self.task.training.learning_rates, key=lambda each: each != first):
            best = self._files_of(blueprint)
            if best and (first is not None or self.task.clock.is_over()):
                break
            for precision, trained in self._trained(blueprint, rate, is_needed and not best).items():
                if precision not in best or trained.score > best[precision].score:
                    self.found[blueprint, precision] = trained
        for precision in self._files_of(blueprint):
            self.skipped.pop(blueprint.name, None)
            self.skipped.pop(self.name(blueprint, precision), None)

    def _files_of(self, blueprint: Blueprint) -> dict[str, Finalist]:
        """Return the files that were found of the model which `blueprint` makes, by the names of their precisions."""
        return {precision: found for (made, precision), found in self.found.items() if made == blueprint}

    def _trained(self, blueprint: Blueprint, rate: float, is_needed: bool) -> dict[str, Finalist]:
        """Train a model with one learning rate, and return it with its file and score, by the names of the precisions.

        The result is empty if the training diverges, or if the time limit ends it and the model is not needed. A precision in
        which the export fails is left out.
        """
        task, key = self.task, _training_key(blueprint, rate)
        known = task.memory.known("finalists", key)
        try:
            fitted = blueprint.family in FITTED_FAMILIES and not known and not task.clock.is_over()
            new, report = self._built(blueprint, fitted)
            finished = known or self._imitates(new, blueprint, rate)
            if not finished and not is_needed:
                raise ValueError("the time limit ended its training")
        except ValueError as error:  # Keras cannot make a network of this width, or its training diverges
            self.skipped[blueprint.name] = str(error)
            return {}
        if known:
            new.set_weights(task.memory.arrays_of("finalist", key))
        elif finished:
            task.memory.keep_arrays("finalist", key, new.get_weights())
            task.memory.once("finalists", key, lambda: blueprint.name)
        (task.clock.skip if known else task.clock.finish)(self._work_of_each)
        return self._exported(blueprint, new, report, rate, finished)

    def _imitates(self, model: keras.Model, blueprint: Blueprint, rate: float) -> bool:
        """Train a new model to imitate the original, and return whether the time limit has left time for all epochs."""
        training = self.task.training
        training.seeded(_key(blueprint))
        return imitate(
            model,
            self.task.lesson,
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=rate,
            compiled=COMPILED,
            is_over=self.task.clock.is_over,
        )

    def _exported(
        self, blueprint: Blueprint, model: keras.Model, report: ReplacementReport | None, rate: float, finished: bool
    ) -> dict[str, Finalist]:
        """Export and score a trained model in each precision, and return the files, by the names of the precisions.

        Args:
            blueprint, model, report: how the model was made, the model, and what was replaced in it.
            rate: the learning rate with which it was trained.
            finished: whether its training was finished. Otherwise the scores serve this search only.
        """
        exported: dict[str, Finalist] = {}
        key = _training_key(blueprint, rate)
        for precision, task in self.tasks.items():
            name = self.name(blueprint, precision)
            try:
                file = task.export(model, blueprint.name)
                score = task.memory.once(task.kind_of_scores, key, partial(task.score, file), is_finished=lambda: finished)
            except ValueError as error:
                self.skipped[name] = str(error)
                continue
            exported[precision] = Finalist(blueprint, model, report, file, score, rate)
        return exported

    def _built(self, blueprint: Blueprint, fitted: bool) -> tuple[keras.Model, ReplacementReport | None]:
        """Return a new model, whose layers start from their trials, and the report of what was replaced.

        The layers of a narrower network have had no trials. They start from a fit if `fitted` is True, which is computed once,
        and else are random. The report leaves out how good the fits are: the training changes that, and a search that goes on
        later has no fits.
        """
        task, key = self.task, _key(blueprint)
        tried = () if blueprint.narrowing else blueprint.structures
        starts = {
            (path, structure.name): task.memory.arrays_of("layer", trial_name(path, structure)) for path, structure in tried
        }
        is_known = fitted and task.memory.known("fits", key)
        task.training.seeded(key)
        model, report = blueprint.build(task.model, task.lesson.x, starts, task.seed_of_trial, fitted and not is_known)
        if is_known:
            model.set_weights(task.memory.arrays_of("fit", key))
        elif fitted:
            task.memory.keep_arrays("fit", key, model.get_weights())
            task.memory.once("fits", key, lambda: blueprint.name)
        if report is not None:
            replacements = tuple(replace(each, error=None, fitted_to=None) for each in report.replacements)
            report = replace(report, replacements=replacements)
        return model, report


@dataclass
class _Bisection:
    """A search for the cheapest good model of a family, in which each model is taken to be better than the cheaper ones.

    Attributes:
        family: the models, the cheapest first.
        bad: the index of the most expensive model that is known to be bad, or -1.
        good: the index of the cheapest model that is known to be good or is not wanted.
        has_good: whether a model is known to be good.
        rate: the learning rate that was best for the first model of the family, or None if no model has been trained.
    """

    family: Sequence[Entry]
    bad: int = -1
    good: int = field(init=False)
    has_good: bool = False
    rate: float | None = None

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
    narrowing = blueprint.narrowing
    return json.dumps([blueprint.layers, narrowing.units if isinstance(narrowing, StrongestUnits) else {}])


def _training_key(blueprint: Blueprint, rate: float) -> str:
    """Return the text under which the results of a training of a blueprint with a learning rate are kept."""
    return f"{_key(blueprint)} at {rate:g}"
