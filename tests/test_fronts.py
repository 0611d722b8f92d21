"""Fronts: the searches of benchmarks/fronts.py, and the page docs/fronts.md that says whether a rival beats the picks."""

import json
from dataclasses import replace
from pathlib import Path

import fronts
import int4
import keras
import networks
import numpy as np
import pytest
import rates
from click.testing import CliRunner
from fronts_page import GROUPS, INT4, KEYS, group_of, limit_of, limits_of, plot_fronts, results_in, winners_table, with_tables

from keras_butterfly import export
from keras_butterfly.export.compression import harm, trials
from keras_butterfly.export.compression.blueprint import KIND_OF

ROOT = Path(__file__).parent.parent
TREES = results_in(ROOT / "docs" / "compress")


def point(family, score, unseen, size):
    return {
        "name": f"{family} {size}",
        "family": family,
        "score": score,
        "unseen": unseen,
        "size_bytes": size,
        "median_seconds": size * 1e-9,
    }


def result(pick, *points):
    return {"limit": 100, "pick": pick, "points": [point("original", 0.9, 0.9, 1000), *points]}


def limit(*results):
    return limit_of("hapt", "size", "1/10", {f"seed {seed}": each for seed, each in enumerate(results)})


FEATURES = {"hapt": 768, "cifar10": 3072}


def random_data(name, folder):
    """Return random examples of three classes, as many features as the data set `name` has."""
    rng = np.random.default_rng(0)
    parts = [(rng.random((count, FEATURES[name]), "float32"), np.arange(count) % 3) for count in (60, 40)]
    return fronts.Data(*parts[0], *parts[1])


@pytest.fixture
def briefly(monkeypatch, eager):
    """Let the program train for moments on random examples."""
    monkeypatch.setattr(fronts, "load", random_data)
    monkeypatch.setattr(fronts, "QUICK", replace(fronts.QUICK, seconds=0.5, runs=2))
    monkeypatch.setattr(harm, "STEPS", 2)
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")


def run_quickly(folder, name, precision="float32"):
    """Run the searches of one task, and return the results of seed 0."""
    arguments = [str(folder / "searches"), "--task", name, "--seeds", "1", "--json", str(folder), "--quick"]
    arguments += ["--precision", precision]
    result = CliRunner().invoke(fronts.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads((folder / f"{name}-{precision}.json").read_text())["seed 0"]


@pytest.mark.long
def test_the_search_trains_and_goes_on(tmp_path, briefly):
    found = run_quickly(tmp_path, "hapt")
    for cost in fronts.TARGETS:
        points = found[cost]["1/10"]["points"]
        assert points[0]["name"] == "original"
        assert all(0 <= point["unseen"] <= 1 for point in points)
    assert len(found["size"]["1/10"]["points"]) > 1
    assert run_quickly(tmp_path, "hapt") == found


@pytest.mark.long
@pytest.mark.parametrize(("name", "part"), [("hapt_transformer", 1.6), ("cifar10_vgg", 6)])
def test_other_networks_and_any_precision(tmp_path, briefly, monkeypatch, name, part):
    monkeypatch.setattr(trials, "MOST_STRUCTURES", 2)
    monkeypatch.setitem(fronts.PARTS, "any", {"size": (part,), "latency": ()})
    monkeypatch.setattr(fronts, "QUICK", replace(fronts.QUICK, seconds=None, runs=2, examples=60))
    (limit,) = run_quickly(tmp_path, name, "any")["size"].values()
    narrower = [point for point in limit["points"] if point["name"].startswith("all layers narrower")]
    assert {point["precision"] for point in narrower if point["family"] != INT4} <= {"float32", "dynamic", "int8"}
    assert any(point["size_bytes"] <= limit["limit"] for point in narrower)
    assert int4.is_installed() == any(point["name"] == "original, int4" for point in limit["points"])


def test_weights_in_int4():
    pytest.importorskip("ai_edge_quantizer")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256, name="layer")])
    x = np.random.default_rng(0).normal(size=(50, 64)).astype("float32")
    exported = export.to_tflite(model)
    quantized = int4.quantized(exported)
    kernel = model.get_layer("layer").kernel.numpy()
    steps = np.abs(kernel).max(axis=0) / 7
    expected = x @ (np.round(kernel / steps) * steps)
    np.testing.assert_allclose(quantized.predict(x), expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(exported.predict(x) - expected).max() > 0.03 * np.abs(expected).max()
    assert quantized.size_bytes < exported.size_bytes - 0.8 * kernel.nbytes


def test_examples_are_a_random_part(monkeypatch):
    monkeypatch.setattr(fronts, "load", random_data)
    task = replace(fronts.TASKS["cifar10_vgg"], examples=30)
    data, everything = fronts.examples_of(task, None), random_data("cifar10", None)
    assert (data.x_train.shape, data.x_test.shape) == ((30, 32, 32, 3), (40, 32, 32, 3))
    rows = data.x_train.reshape(30, -1) / 255
    places = [int(np.abs(everything.x_train - row).sum(axis=1).argmin()) for row in rows]
    np.testing.assert_allclose(everything.x_train[places], rows, rtol=1e-5)
    np.testing.assert_array_equal(everything.y_train[places], data.y_train)
    assert len(set(places)) == 30


def test_a_token_is_successive_samples_of_all_channels():
    windows = np.arange(2 * 6 * 128, dtype="float32").reshape(2, -1)  # (windows, channel after channel)
    tokens = networks.tokens(windows)
    assert tokens.shape == (2, 16, 48)
    by_channel = windows.reshape(2, 6, 128)
    np.testing.assert_array_equal(tokens[1, 3].reshape(8, 6), by_channel[1, :, 24:32].T)


@pytest.mark.parametrize("name", ["hapt_transformer", "cifar10_vgg"])
def test_the_networks_classify(name, monkeypatch):
    monkeypatch.setattr(fronts, "load", random_data)
    task = fronts.TASKS[name]
    data = fronts.examples_of(task, None, 2)
    model = task.build(data, task.small)
    np.testing.assert_allclose(model.predict(data.x_test, verbose=0).sum(-1), 1, rtol=1e-5)


def test_the_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "fronts.md").read_text()
    assert all(TREES.values())
    assert with_tables(page, TREES) == page


def test_the_most_accurate_model_that_keeps_the_limit_stands_for_its_kind():
    found = limit(
        result(
            "butterfly 90",
            point("butterfly", 0.8, 0.81, 90),
            point("narrower butterfly", 0.7, 0.99, 50),
            point("low rank", 0.95, 0.95, 101),
            point("narrower", 0.6, 0.61, 100),
        )
    )
    assert {group: models.mean for group, models in found.groups.items()} == {"butterfly": 0.81, "narrow dense": 0.61}
    assert (found.winner, found.picks.mean, found.picks.cost) == ("butterfly", 0.81, 90)


def test_every_family_has_a_group():
    groups = {family: group_of(family) for family in KIND_OF}
    assert set(groups.values()) | {INT4} == {"dense", *GROUPS}
    assert {family for family, group in groups.items() if group == "butterfly"} == {"butterfly", "narrower butterfly", "mixed"}


def test_no_pick_where_nothing_keeps_the_limit():
    found = limit(result("narrower 200", point("narrower", 0.6, 0.6, 200)))
    assert (found.winner, found.picks, found.groups, found.beaten_by) == (None, None, {}, None)


def test_a_limit_for_which_nothing_was_searched():
    results = {"limit": 100, "pick": "nothing", "points": []}
    found = limit(results)
    assert (found.picks, found.groups, found.beaten_by) == (None, {}, None)
    tree = {"seed 0": {"size": {"1/10": results}}}
    assert "| nothing fits |" in with_tables("<!-- size any -->\n<!-- end -->", {"any": {"hapt": tree}})
    assert not plot_fronts({"hapt": tree}).axes[0].get_visible()


def test_a_rival_that_keeps_a_limit_beats_a_search_that_finds_nothing():
    found = limit(result("butterfly 200", point("butterfly", 0.9, 0.9, 200), point("narrower", 0.6, 0.6, 90)))
    assert (found.winner, found.picks, found.beaten_by) == (None, None, "narrow dense")


@pytest.mark.parametrize(
    ("rivals", "size", "beaten_by"),
    [
        ((0.84, 0.83), 90, "low rank"),
        ((0.84, 0.83), 95, None),  # it costs more than the picks
        ((0.84, 0.79), 90, None),  # ahead by 0.015, with a standard error of 0.025
        ((0.80, 0.79), 90, None),
        ((0.801,), 90, "low rank"),  # with one seed any lead counts
        ((0.80,), 90, None),
    ],
)
def test_a_rival_beats_the_picks_by_more_than_a_standard_error_at_no_more_cost(rivals, size, beaten_by):
    results = [
        result("butterfly 90", point("butterfly", 0.9, 0.8, 90), point("low rank", 0.8, unseen, size)) for unseen in rivals
    ]
    assert limit(*results).beaten_by == beaten_by


def test_a_model_in_int4_is_a_rival_under_each_limit_of_its_seed():
    butterfly, small, large = point("butterfly", 0.9, 0.9, 90), point("int4", 0.8, 0.8, 40), point("int4", 0.95, 0.95, 80)
    sizes = {
        "1/20": {**result("butterfly 90", butterfly, small), "limit": 50},
        "1/10": result("butterfly 90", butterfly, large),
    }
    tree = {"seed 0": {"size": sizes}}
    tight, loose = limits_of({"hapt": tree}, "size")
    assert (tight.groups[INT4].mean, loose.groups[INT4].mean) == (0.8, 0.95)
    assert (tight.beaten_by, loose.beaten_by) == (INT4, INT4)
    assert winners_table({"hapt": tree}).split("\n")[0] == "| limit | butterfly | no rival beats the picks |"
    assert {text.get_text() for text in plot_fronts({"hapt": tree}).legends[0].get_texts()} == {INT4, "butterfly"}


def test_the_table_tells_models_that_do_not_fit_from_those_that_were_not_made():
    butterfly = point("butterfly", 0.9, 0.9, 90)
    trees = {
        name: {"seed 0": {"size": {"1/10": result("butterfly 90", butterfly, *others)}}}
        for name, others in (
            ("hapt", [point("int4", 0.8, 0.8, 40)]),
            ("isolet", [point("int4", 0.8, 0.8, 400)]),
            ("cifar10", []),
        )
    }
    table = with_tables("<!-- size any -->\n<!-- end -->", {"any": trees}).split("\n")
    assert [row.split(" | ")[3] for row in table if "1/10" in row] == ["80.00, 1 seed", "nothing fits", "not run"]


def test_wins_are_counted_over_the_tasks():
    trees = {
        "hapt": {"seed 0": {"size": {"1/10": result("butterfly 90", point("butterfly", 0.9, 0.9, 90))}}},
        "isolet": {"seed 0": {"size": {"1/10": result("low rank 90", point("low rank", 0.9, 0.9, 90))}}},
    }
    assert winners_table(trees).split("\n")[-1] == "| 1/10 of the size | 1 of 2 | 1 of 2 | 2 of 2 |"


@pytest.mark.parametrize("trees", TREES.values(), ids=TREES)
def test_the_plot_has_two_panels_for_each_task(trees):
    figure = plot_fronts(trees)
    assert len(figure.axes) == len(KEYS) * len(trees)
    known = [any(limit.groups for limit in limits_of({name: tree}, cost)) for name, tree in trees.items() for cost in KEYS]
    assert [axis.has_data() and axis.get_visible() for axis in figure.axes] == known
    assert any(known)


def test_gains_of_a_learning_rate_by_kind(tmp_path):
    """Compare the rates in each kind, and leave out a model that was trained with one rate only."""
    models = {
        '[{"a": "low rank 4", "b": "radix 4"}, {}]': "low rank 4: a; radix 4: b",
        '[{"a": "dense, 8 units"}, {"a": 8}]': "narrower, 8 units",
        '[{"a": "low rank 2, 8 units"}, {"a": 8}]': "narrower, 8 units; low rank 2: a",
        '[{"conv": "filters 4"}, {}]': "all layers narrower, width multiplier 0.5",
    }
    scores = {f"{key} at {rate}": 0.5 + 10 * rate for key in models for rate in (0.001, 0.003)}
    del scores['[{"a": "low rank 2, 8 units"}, {"a": 8}] at 0.003']
    scores['[{"a": "two stages"}, {}] at 0.001'] = 0.9
    scores['[{"a": "two stages"}, {}] at 0.003'] = 0.8
    results = {
        "finalists": {f"{key} at {rate}": name for key, name in models.items() for rate in (0.001, 0.003)},
        "scores of float32 files for size": {"original": 0.9, **scores},
    }
    results["finalists"]['[{"a": "two stages"}, {}] at 0.001'] = "two stages: a"
    (tmp_path / "compression.json").write_text(json.dumps({"results": results}))
    found = rates.gains(tmp_path / "compression.json")
    expected = {"several kinds": 2, "narrow dense": 2, "width multiplier": 2, "butterfly": -10}
    assert dict(found) == {kind: [pytest.approx(gain)] for kind, gain in expected.items()}
