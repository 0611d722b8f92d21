"""Tests of the networks in which dense layers dominate: their kinds of layers, a short training, and what is measured."""

import json
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "dense_heavy")]

import cifar  # noqa: E402
import results  # noqa: E402
import wide  # noqa: E402
import wide_kinds  # noqa: E402
import wide_latency  # noqa: E402
import wide_models  # noqa: E402
import wide_tables  # noqa: E402
from pruning import PrunedDense  # noqa: E402

SMALL = {
    "vgg": partial(wide_models.vgg, channels=(4, 8, 8)),
    "mixer": partial(wide_models.mixer, blocks=1),
    "transformer": partial(wide_models.transformer, blocks=1),
}


@pytest.mark.parametrize(
    ("name", "weights", "replaced"),
    [("vgg", 21_160_106, ["head_0", "head_1"]), ("mixer", 4_273_034, 4), ("transformer", 6_341_130, 12)],
)
def test_most_weights_are_in_the_layers_that_are_replaced(name, weights, replaced):
    model = wide_models.MODELS[name](**wide_models.SIZES[name])
    wide_layers = wide_kinds.wide_layers(model)
    assert model.count_params() == weights
    assert sum(layer.count_params() for layer in wide_layers) > 0.95 * weights
    assert replaced in (len(wide_layers), [layer.name for layer in wide_layers])


def test_attention_is_that_of_keras(rng):
    inputs = keras.Input((wide_models.TOKENS, 32))
    model = keras.Model(inputs, wide_models.attention(inputs, keras.layers.Dense, "attention"))
    reference = keras.layers.MultiHeadAttention(wide_models.HEADS, 32 // wide_models.HEADS)
    x = rng.standard_normal((2, wide_models.TOKENS, 32)).astype("float32")
    reference(x, x)
    for part in ("query", "key", "value", "output"):
        old, new = getattr(reference, f"{part}_dense"), model.get_layer(f"attention_{part}")
        new.bias.assign(rng.standard_normal(32))
        old.kernel.assign(keras.ops.reshape(new.kernel, old.kernel.shape))
        old.bias.assign(keras.ops.reshape(new.bias, old.bias.shape))
    np.testing.assert_allclose(model(x), reference(x, x), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_rivals_have_about_as_many_weights_as_the_butterflies(name):
    network = wide_kinds.Network(SMALL[name], 128)
    dense, narrow = network.untrained(wide_kinds.DENSE), network.untrained(wide_kinds.NARROW)
    assert network.weights < dense.count_params()
    # The widths are multiples of eight, and ranks are whole numbers.
    assert narrow.count_params() == pytest.approx(network.weights, rel=0.15)
    assert network.untrained(wide_kinds.LOW_RANK).count_params() == pytest.approx(network.weights, rel=0.15)
    pruned = network.untrained(wide_kinds.PRUNED)
    layers = [layer for layer in pruned.layers if isinstance(layer, PrunedDense)]
    assert [layer.name for layer in layers] == [layer.name for layer in wide_kinds.wide_layers(dense)]
    assert wide_kinds.weights_of(pruned) == dense.count_params()
    layers[0].mask.assign(np.zeros(layers[0].mask.shape))
    assert wide_kinds.weights_of(pruned) == dense.count_params() - layers[0].kernel.shape[0] * layers[0].kernel.shape[1]


def test_a_width_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="Expected the width of 'narrow dense, equal latency', but it was not measured"):
        wide_kinds.Network(SMALL["vgg"], 128).untrained(wide_kinds.EQUAL_LATENCY)
    made = wide_kinds.Network(SMALL["vgg"], 128, 24).untrained(wide_kinds.EQUAL_LATENCY)
    assert made.get_layer("head_1").units == 24


@pytest.mark.usefixtures("eager")
def test_the_experiment_trains_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(wide, "RATES", (2e-3,))
    monkeypatch.setattr(wide, "START", 2e-3)
    kinds = (wide_kinds.REFERENCE, wide_kinds.PRUNED)
    arguments = [str(tmp_path / "all"), "--recipe", "quick", "--model", "vgg", "--seeds", "1"]
    arguments += [argument for kind in kinds for argument in ("--kind", kind)]
    outcome = CliRunner().invoke(wide.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    paths = sorted((tmp_path / "all").iterdir())
    assert [path.name for path in paths] == ["vgg-pruned_dense.json", "vgg-radix_4.json"]
    written = [path.read_text() for path in paths]
    merged = tmp_path / "wide.json"
    assert CliRunner().invoke(results.main, [str(merged), *map(str, paths)]).exit_code == 0
    tree = json.loads(merged.read_text())
    network = wide.network("vgg", wide.RECIPES["quick"])
    for kind in kinds:
        run = tree["vgg"][kind]["rate 0.002"]["seed 0"]
        assert run["losses"][-1] < run["losses"][0]
        assert run["weights"] == network.weights
        assert 0 <= run["accuracy"] <= 1
    again = CliRunner().invoke(wide.main, arguments)
    assert again.exit_code == 0
    assert "loss" not in again.output  # nothing is trained again
    assert [path.read_text() for path in paths] == written
    refused = CliRunner().invoke(results.main, [str(merged), *map(str, paths)])
    assert refused.exit_code == 2
    assert "exists. Choose another path." in refused.output


def test_results_of_other_settings_are_not_merged():
    trees = [{"settings": {"epochs": epochs}, "date": "today"} for epochs in (1, 2)]
    with pytest.raises(ValueError, match=r"Expected results of the settings \{'epochs': 1\}. Received: \{'epochs': 2\}"):
        results.merged(trees)


def test_the_rate_is_chosen_on_images_that_no_network_is_trained_on():
    images = cifar.Images(np.arange(100), np.arange(100), np.arange(7), np.arange(7))
    data = wide.Data(images, 50)
    assert [(part[0][0], part[0][-1]) for part in (data.train, data.choice, data.test)] == [(0, 44), (45, 49), (0, 6)]


def test_missing_data_are_one_line_and_write_nothing(tmp_path):
    outcome = CliRunner().invoke(wide.main, [str(tmp_path / "out"), "--data", str(tmp_path / "nowhere")])
    assert outcome.exit_code == 2
    assert "Expected the packed images of CIFAR-10" in outcome.output
    assert not (tmp_path / "out").exists()


def test_a_kind_that_a_recipe_does_not_have_is_one_line(tmp_path):
    arguments = [str(tmp_path), "--recipe", "quick", "--model", "mixer", "--kind", wide_kinds.EQUAL_LATENCY]
    outcome = CliRunner().invoke(wide.main, arguments)
    assert outcome.exit_code == 2
    assert "was not measured for this recipe. Take another kind." in " ".join(outcome.output.split())
    assert wide_kinds.EQUAL_LATENCY not in wide.RECIPES["quick"].kinds("mixer")
    assert wide_kinds.EQUAL_LATENCY in wide.RECIPES["cpu"].kinds("vgg")


@pytest.mark.long
def test_latencies_are_measured_in_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(wide_latency, "RUNS", 2)
    monkeypatch.setitem(wide_latency.QUICK, "head", {"width": 32, "features": 16})
    arguments = [str(tmp_path), "--quick", "--model", "head", "--precision", "int8"]
    outcome = CliRunner().invoke(wide_latency.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    measured = json.loads((tmp_path / "latency.json").read_text())["head"]
    assert 8 <= measured["width of equal latency"] <= 32
    assert list(measured["int8"]) == [kind for kind in wide_kinds.KINDS if kind != wide_kinds.PRUNED]
    for figures in measured["int8"].values():
        assert figures["seconds"] > 0
        assert figures["bytes"] > figures["weights"]
    outcome = CliRunner().invoke(wide_latency.main, [str(tmp_path), "--model", "head"])
    assert outcome.exit_code == 2
    assert "holds results of other settings" in outcome.output


def runs(choice, *accuracies, weights=100):
    return {
        f"seed {seed}": {"accuracy": accuracy, "choice": choice, "weights": weights} for seed, accuracy in enumerate(accuracies)
    }


def test_the_best_rate_is_that_of_most_seeds_and_the_best_choice():
    tree = {"vgg": {"dense": {"rate 0.001": runs(0.7, 0.6, 0.62, 0.64), "rate 0.002": runs(0.8, 0.9)}}}
    found = wide_tables.runs_of(tree, "vgg", "dense")
    assert (found.rate, found.weights, found.mean, found.deviation) == (1e-3, 100, pytest.approx(62), pytest.approx(2))
    assert str(found) == "62.00 ± 2.00 (60.00 to 64.00)"
    tree["vgg"]["dense"] = {"rate 0.001": runs(0.7, 0.6), "rate 0.002": runs(0.8, 0.5)}
    assert str(wide_tables.runs_of(tree, "vgg", "dense")) == "50.00, one seed"
    assert wide_tables.runs_of(tree, "mixer", "dense") is None


def test_claims_are_answered_against_the_noise():
    def kind(*accuracies, weights=100):
        return {"rate 0.001": runs(0.7, *accuracies, weights=weights)}

    tree = {
        "vgg": {
            "dense": kind(0.80, 0.81, 0.82, weights=1000),
            "radix 4": kind(0.799, 0.81, 0.82),
            "two stages": kind(0.70, 0.70, 0.70, weights=200),
            "low rank": kind(0.70, 0.71, 0.72),
        }
    }
    files = {"dense": {"seconds": 8e-3}, "radix 4": {"seconds": 1e-3}, "two stages": {"seconds": 9e-3}}
    lines = wide_tables.claim_table(tree, {"vgg": dict.fromkeys(wide_tables.PRECISIONS, files)}).splitlines()
    cells = {line.split(" | ")[0][2:]: line[:-2].split(" | ")[1:] for line in lines}
    assert cells["the paper's claim"] == ["VGG-like, radix 4", "VGG-like, two stages"]
    assert cells["as accurate as dense"] == ["yes: -0.03", "**no**: -11.00"]
    assert cells["fewer weights"] == ["yes: 1/10", "yes: 1/5"]
    assert cells["faster inference, int8"] == ["yes: 8.0x", "**no**: 0.9x"]
    assert cells["beyond the paper: more accurate than low rank"] == ["yes: +9.97", "no difference: -1.00"]
    assert cells["beyond the paper: more accurate than pruned dense"] == ["not run", "not run"]
    tree["vgg"]["dense"] = kind(0.85, weights=1000)
    lines = wide_tables.claim_table(tree, {"vgg": dict.fromkeys(wide_tables.PRECISIONS, files)}).splitlines()
    assert lines[2] == "| as accurate as dense | one seed: -4.03 | one seed: -15.00 |"


def test_the_plot_has_a_point_for_every_kind():
    tree = json.loads((EXAMPLES.parent / "docs" / "dense_heavy" / "wide.json").read_text())
    figure = wide_tables.plot(tree)
    kinds = [text.get_text() for text in figure.legends[0].get_texts()]
    assert kinds == list(wide_tables.trained(tree, "vgg"))
    assert len(kinds) >= 6
