"""The runs of an experiment: networks of several kinds, each trained at several learning rates and with several seeds."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
from results import Results, write_whole
from search import climb

# The seed with which the learning rate is chosen.
FIRST_SEED = 0


class Runs(ABC):
    """The runs of one network or task. What was trained before is not trained again.

    Args:
        folder: folder of the trained networks.
        results: the results, by kind, rate and seed.
        rates: learning rates, rising, of which every kind gets its best.
        say: function that shows a line of text.
    """

    def __init__(self, folder: Path, results: Results, rates: tuple[float, ...], say: Callable[[str], None]):
        self.folder, self.results, self.rates, self.say = folder, results, rates, say

    @abstractmethod
    def train(self, kind: str, rate: float, seed: int) -> tuple[keras.Model, dict]:
        """Train a network. Return it, and what it reached: under "dev" the scores on the held-out examples after each epoch."""

    def run(self, kind: str, rate: float, seed: int) -> dict:
        """Return what `train` says that a network of this kind, rate and seed reached. If it is not known, train it."""

        def trained() -> dict:
            model, reached = self.train(kind, rate, seed)
            write_whole(self.path(kind, rate, seed), model.save)
            scores = f"held out {reached['dev'][-1]:.4f}, test {reached['test']:.4f}"
            self.say(f"{self.folder.name}, {', '.join(names_of(kind, rate, seed))}: {scores}")
            return reached

        return self.results.once(names_of(kind, rate, seed), trained)

    def best_rate(self, kind: str) -> float:
        """Return the rate that is best with the first seed, on the held-out examples after the last epoch.

        The search begins in the middle of the rates. In each direction it ends at a rate that is no better.
        """
        return climb(self.rates, self.rates[len(self.rates) // 2], partial(self.score_at, kind))

    def score_at(self, kind: str, rate: float) -> float:
        """Return the score of the first seed on the held-out examples."""
        return self.run(kind, rate, FIRST_SEED)["dev"][-1]

    def all_seeds(self, kind: str, seeds: int) -> None:
        """Find the best rate of a kind, and train all seeds with it."""
        rate = self.best_rate(kind)
        for seed in range(seeds):
            self.run(kind, rate, seed)

    def known_rate(self, kind: str) -> float | None:
        """Return the best of the rates for which there is a network of the first seed, or None if there is none."""
        tried = [float(name.removeprefix("rate ")) for name in self.results.tree.get(kind, {})]
        known = [rate for rate in tried if self.results.has(names_of(kind, rate, FIRST_SEED))]
        there = [rate for rate in known if self.path(kind, rate, FIRST_SEED).exists()]
        return max(there, key=partial(self.score_at, kind), default=None)

    def path(self, kind: str, rate: float, seed: int) -> Path:
        """Return the path of a trained network, whose folder exists."""
        self.folder.mkdir(exist_ok=True)
        return self.folder / ("-".join(names_of(kind, rate, seed)).translate(str.maketrans(" ,'^", "____")) + ".keras")

    def backup(self, kind: str, rate: float, seed: int) -> Path:
        """Return the folder that keeps the state of a training while it lasts."""
        return self.path(kind, rate, seed).with_suffix("")

    def epochs(self, kind: str, rate: float, seed: int) -> Results:
        """Return the results of the epochs of a training. Remove their file when the training is done."""
        return Results(self.path(kind, rate, seed).with_suffix(".json"), {})


def names_of(kind: str, rate: float, seed: int) -> tuple[str, str, str]:
    """Return the names under which the results of a network are kept."""
    return kind, f"rate {rate:g}", f"seed {seed}"
