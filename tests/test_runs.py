"""The runs of an experiment: the best rate, the seeds, and what goes on after an interruption."""

import sys
from pathlib import Path

import keras
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from results import Results
from runs import Runs

SCORES = {0.01: 0.5, 0.05: 0.7, 0.25: 0.8, 1.25: 0.6}


class Fake(Runs):
    """Runs that train nothing. A score depends on the rate alone."""

    def __init__(self, folder):
        super().__init__(folder / "runs", Results(folder / "runs.json", {}), tuple(SCORES), lambda text: None)
        self.trained = []

    def train(self, kind, rate, seed):
        self.trained.append((kind, rate, seed))
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), {"dev": [0.1, SCORES[rate]], "test": 0.5}


def test_every_seed_is_trained_at_the_best_rate_once(tmp_path):
    runs = Fake(tmp_path)
    runs.all_seeds("dense", 3)
    # The search begins in the middle of the rates. The lowest rate is not tried, because the one above it is no better.
    assert sorted(runs.trained) == [("dense", 0.05, 0), *(("dense", 0.25, seed) for seed in range(3)), ("dense", 1.25, 0)]
    again = Fake(tmp_path)
    again.all_seeds("dense", 3)
    assert again.trained == []


def test_the_known_rate_is_the_best_of_which_there_is_a_network(tmp_path):
    runs = Fake(tmp_path)
    assert runs.known_rate("dense") is None
    runs.run("dense", 0.01, 0)
    runs.run("dense", 0.05, 1)  # not the first seed
    assert runs.known_rate("dense") == 0.01
    runs.all_seeds("dense", 1)
    assert runs.known_rate("dense") == 0.25
    runs.path("dense", 0.25, 0).unlink()
    assert runs.known_rate("dense") == 0.05


@pytest.mark.parametrize("place", ["path", "backup", "epochs"])
def test_no_two_runs_share_a_file(tmp_path, place):
    runs = Fake(tmp_path)
    found = [getattr(runs, place)("a kind", rate, seed) for rate in (0.05, 0.025, 1.0) for seed in (0, 1)]
    paths = {each.path if place == "epochs" else each for each in found}
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path / "runs"}
