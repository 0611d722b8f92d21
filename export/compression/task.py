"""What all stages of a search share: the model, the targets, the settings, and what was found so far."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras

from ..model import TFLiteModel
from .clock import Clock
from .costs import Exporter
from .imitation import Lesson
from .memory import Memory
from .score import Score
from .structures import Structure
from .targets import Targets


class Training(NamedTuple):
    """How each model is trained in the end: for how long, in which batches, with which learning rates, and with which seed."""

    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    seed: int | None

    def seed_of(self, name: str) -> int | None:
        """Return the seed for a model of this name, or None if nothing is seeded.

        It depends on the name, not on what was trained before, so that a search that was stopped goes on alike.
        """
        return None if self.seed is None else (self.seed + zlib.crc32(name.encode())) % 2**32

    def seeded(self, name: str) -> int | None:
        """Set all seeds to the seed for a model of this name, and return it."""
        seed = self.seed_of(name)
        if seed is not None:
            keras.utils.set_random_seed(seed)
        return seed


@dataclass(frozen=True)
class Task:
    """A search and its settings.

    Attributes:
        model: the original, which is not changed.
        targets: what a compressed model has to meet.
        training: the settings of the final training.
        lesson: what models learn from in it.
        score: scores an exported model.
        exporter: exports and measures models, in one precision.
        memory: what was found so far.
        clock: shows how far the search is, and knows its time limit.
        share: the precisions of a search take turns in each stage. This is the part of a stage after which the turn of this
            precision ends.
    """

    model: keras.Model
    targets: Targets
    training: Training
    lesson: Lesson
    score: Score
    exporter: Exporter
    memory: Memory
    clock: Clock
    share: float = 1.0

    @property
    def kind_of_costs(self) -> str:
        """The kind of results under which `memory` keeps what files of this precision and objective cost."""
        return f"costs of {self._files}"

    @property
    def kind_of_scores(self) -> str:
        """The kind of results under which `memory` keeps how good files of this precision and objective are."""
        return f"scores of {self._files}"

    @property
    def _files(self) -> str:
        """The exported files in words: their precision, and whether they are made for size or for latency."""
        return f"{self.exporter.precision} files for {self.exporter.objective}"

    def is_over(self, end: float, begin: float = 0.0) -> bool:
        """Return whether the turn of this precision is over in a stage between two parts of the time limit."""
        return self.clock.is_over(begin + (end - begin) * self.share)

    def export(self, model: keras.Model, name: str) -> TFLiteModel:
        """Return `model` as a file, and keep what was measured for it.

        Raises:
            ValueError: if it cannot be exported, or the file is off by more than the tolerance.
        """
        return self._exported(self.exporter.export, model, name)

    def export_untrained(self, model: keras.Model, name: str) -> TFLiteModel:
        """Return a model of which only the cost matters as a file, and keep what was measured for it.

        Raises:
            ValueError: as `export`. In a quantized file the tolerance is larger.
        """
        return self._exported(self.exporter.export_untrained, model, name)

    def _exported(self, export: Callable[[keras.Model], TFLiteModel], model: keras.Model, name: str) -> TFLiteModel:
        self.clock.show(f"export {name}, {self.exporter.precision}")
        exported = export(model)
        self.memory.learn(self.exporter.wisdom)
        return exported

    def seed_of_trial(self, path: str, structure: Structure) -> int | None:
        """Return the seed of the trial of a structure in the place of a layer."""
        return self.training.seed_of(trial_name(path, structure))


def trial_name(path: str, structure: Structure) -> str:
    """Return the name under which the trial of a structure in the place of a layer is kept."""
    return f"{path} as {structure.name}"
