"""The benchmark of how the layers of narrower networks start: it trains, goes on after a stop, and makes the table."""

import json
from functools import partial
from pathlib import Path

import fronts
import numpy as np
import pytest
import starts
from click.testing import CliRunner
from fronts import Task
from keras_butterfly_cli.datasets import Data
from results import Results

from keras_butterfly.export.compression.structures import low_rank

PAGE, RESULTS = (Path(__file__).parent.parent / "docs" / name for name in ("design.md", "compress/starts.json"))
TASK = Task("hapt", 128, 2, 32, 1e-3)


@pytest.fixture
def small(monkeypatch):
    """Replace the tasks of the benchmark by a small one: three classes told apart by their means, hidden layers of 64 units."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 256)
    x = (2 * rng.normal(size=(3, 48))[y] + rng.normal(size=(256, 48))).astype("float32")
    monkeypatch.setattr(starts, "TASKS", {"hapt": TASK})
    monkeypatch.setattr(starts, "HIDDEN", {"hidden_0": 64, "hidden_1": 64})
    monkeypatch.setattr(starts, "RATES", (3e-3,))
    monkeypatch.setattr(starts, "STRUCTURES", {"low rank": partial(low_rank, part=1 / 8)})
    monkeypatch.setattr(fronts, "load", lambda name, folder: Data(x[:192], y[:192], x[192:], y[192:]))


@pytest.mark.long
@pytest.mark.usefixtures("eager", "small")
def test_a_network_is_trained_from_both_starts_once(tmp_path, monkeypatch):
    arguments = [str(tmp_path), "--task", "hapt", "--seeds", "1", "--json", str(tmp_path / "starts.json")]
    first = CliRunner().invoke(starts.main, arguments)
    assert first.exit_code == 0, first.output
    found = json.loads((tmp_path / "starts.json").read_text())["hapt"]["seed 0"]
    assert {start: set(rates) for start, rates in found["low rank"].items()} == {"random": {"0.003"}, "fitted": {"0.003"}}
    assert min(found["low rank"]["fitted"]["0.003"]) > 0.5
    monkeypatch.setattr(starts, "imitate", None)  # What is known is not trained again.
    assert CliRunner().invoke(starts.main, arguments).output == first.output


def test_the_best_rate_of_one_half_is_reported_on_the_other(tmp_path):
    results = Results(tmp_path / "starts.json", {})
    for seed, unseen in enumerate((0.6, 0.7)):
        for start, gain in (("random", 0.0), ("fitted", 0.1)):
            for rate, score, other in (("0.001", 0.5, unseen + gain), ("0.003", 0.4, 0.99)):
                results.once(("hapt", f"seed {seed}", "radix 4", start, rate), lambda pair=(score, other): list(pair))
    row = starts.row(results, "hapt", "radix 4", 2)
    assert row == "| HAPT | radix 4 | 65.00 ± 5.00 | 75.00 ± 5.00 | 10.00 ± 0.00 |"


def test_the_table_of_the_page_is_that_of_the_results():
    results = Results(RESULTS, json.loads(RESULTS.read_text())["settings"])
    page = PAGE.read_text()
    for name in starts.NAMES:
        assert all(starts.row(results, name, structure, 3) in page for structure in starts.STRUCTURES)
