"""The whole search on a small network: what it returns, that it keeps its targets, and that it goes on where it was stopped."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

import keras_butterfly.export.compression.costs as costs
import keras_butterfly.export.compression.finalists as finalists
import keras_butterfly.export.compression.harm as harm
import keras_butterfly.export.compression.narrower as narrower
import keras_butterfly.export.compression.trials as trials
from keras_butterfly import LowRank, export
from keras_butterfly.export.compression.harm import try_layer
from keras_butterfly.export.compression.imitation import Lesson, imitate
from keras_butterfly.export.compression.memory import FILE
from keras_butterfly.export.compression.replaceable import replaceable_layers
from keras_butterfly.export.compression.score import Score
from keras_butterfly.export.compression.structures import structures_of
from keras_butterfly.export.convert import to_tflite

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def task():
    """A trained network, examples to train on and others to score on."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(96, "relu", name="a"),
            layers.Dense(96, "relu", name="b"),
            layers.Dense(10, "softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x[:1200], y[:1200], 64, 6, verbose=0)
    return model, (x[:1200], y[:1200]), (x[1200:], y[1200:])


def compress(task, **settings):
    model, data, validation_data = task
    quick = {"epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "runs": 5, "progress": False}
    settings = {"validation_data": validation_data, **quick, **settings}
    return export.compress(model, settings.pop("data", data), **settings)


@pytest.mark.long
def test_a_size(task, tmp_path):
    found = compress(task, target_size=20_000)
    original = found.points[0]
    assert original.name == "original" and original.model is task[0]
    assert original.size_bytes > 3 * 20_000
    assert found.exported.size_bytes <= 20_000
    assert found.pick.score == max(point.score for point in found.points if point.size_bytes <= 20_000)
    assert {"narrower", "narrower butterfly"} <= {point.family for point in found.points[1:]}
    x, y = task[2]
    for point in found.points:
        assert point.score == pytest.approx(np.mean(point.exported.predict(x).argmax(-1) == y))
        assert point.weights == point.model.count_params()
    assert found.pick.score > 0.6
    assert found.model is found.pick.model
    assert "most accurate that meets the targets (at most 19.5 KiB)" in found.why[0]
    assert not any("validation_data" in sentence for sentence in found.why)
    report = json.loads(found.to_json(tmp_path / "found.json").read_text())
    assert report["pick"]["name"] == found.pick.name
    assert [point["weights"] for point in report["points"]] == [point.weights for point in found.points]
    assert found.table().row_count == len(found.points)
    assert found.meets and "(picked)" in str(found.table())
    assert found.plot(tmp_path / "found.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="exists"):
        found.plot(tmp_path / "found.png")


@pytest.mark.long
def test_any_precision(task, tmp_path, monkeypatch):
    """Each model is trained once, and its file is scored in each precision. A search in one of them has nothing to train."""
    found = compress(task, target_size=9_000, quantize="any", folder=tmp_path / "search")
    assert [point.name for point in found.points[:3]] == ["original, float32", "original, dynamic", "original, int8"]
    assert [point.exported.precision.name for point in found.points[:3]] == [None, "dynamic", "int8"]
    names = {point.name.removesuffix(f", {point.precision}") for point in found.points[3:]}
    assert len(found.points) == 3 + 3 * len(names) - len(found.skipped)
    x, y = task[2]
    for point in found.points:
        assert point.score == pytest.approx(np.mean(point.exported.predict(x).argmax(-1) == y))
    fitting = [point for point in found.points if point.size_bytes <= 9_000]
    assert found.pick.score == max(point.score for point in fitting)
    # In float32 a network of this size is far less accurate.
    assert found.pick.precision != "float32"
    assert f"of {len(names)} trained models and the original, in up to 3 precisions" in found.why[0]
    assert found.to_dict()["pick"]["precision"] == found.pick.precision
    assert found.plot(tmp_path / "found.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(trials, "try_layer", lambda *rest: pytest.fail("tried again"))
    again = compress(task, target_size=9_000, quantize="any", folder=tmp_path / "search")
    assert [(point.name, point.score, point.size_bytes) for point in again.points] == [
        (point.name, point.score, point.size_bytes) for point in found.points
    ]
    alone = compress(task, target_size=9_000, quantize="int8", folder=tmp_path / "search")
    assert {point.precision for point in alone.points} == {"int8"}


@pytest.mark.long
def test_a_drop_of_the_agreement_without_labels(task):
    """The fastest that agrees with the original on most examples, where some are held back."""
    found = compress(task, data=task[1][0], validation_data=None, max_accuracy_drop=0.3, learning_rate=(1e-3, 3e-3))
    assert {point.learning_rate for point in found.points[1:]} <= {1e-3, 3e-3} and found.points[0].learning_rate is None
    assert found.score_name == "agreement with the original"
    assert found.points[0].score == pytest.approx(1, abs=0.01)
    assert found.pick.score >= 0.7
    assert found.pick.latency.median == min(point.latency.median for point in found.points if point.score >= 0.7)
    assert any("give `validation_data`" in sentence for sentence in found.why)


def test_the_original_is_picked_where_it_keeps_the_limits(task, tmp_path):
    found = compress(task, target_latency=1.0)
    assert [point.name for point in found.points] == ["original"]
    assert found.pick is found.points[0]
    assert found.why[0] == "'original' meets the targets (at most 1,000,000.0 us), so no smaller model was trained."
    report = json.loads(found.to_json(tmp_path / "found.json").read_text())
    assert (report["pick"]["name"], report["pick"]["weights"]) == ("original", task[0].count_params())
    assert report["fronts"] == {"latency": ["original"], "size": ["original"]}
    with pytest.raises(ValueError, match="exists"):
        found.to_json(tmp_path / "found.json")


@pytest.mark.parametrize("compiled", [True, False])
def test_one_output_decides_as_its_loss_says(compiled):
    model, loss = (
        keras.Sequential([keras.Input((16,)), layers.Dense(16), layers.Dense(1)]),
        keras.losses.BinaryCrossentropy(True),
    )
    if compiled:
        model.compile("sgd", loss)
    x = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    y = (model(x).numpy() > 0).astype(int)
    found = export.compress(model, (x, y), target_latency=1.0, loss=None if compiled else loss, runs=1, progress=False)
    assert found.points[0].score > 0.99


def test_probabilities_decide_about_a_class_without_a_loss():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16), layers.Dense(3, "softmax")])
    x = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    found = export.compress(model, x, validation_data=x, target_latency=1.0, quantize="int8", runs=1, progress=False)
    assert found.points[0].score == np.mean(found.exported.predict(x).argmax(-1) == model(x).numpy().argmax(-1))


def test_a_quantized_original_that_is_wrong_on_the_data_is_refused():
    """Features of very different scales, whose normalization becomes a part of the weights. Random inputs would not show it."""
    scale = np.logspace(-3, 4, 64).astype("float32")
    hidden = layers.Dense(64, bias_initializer="ones")
    model = keras.Sequential([keras.Input((64,)), layers.BatchNormalization(), hidden, layers.Dense(4, "softmax")])
    model.layers[0].moving_mean.assign(3 * scale)
    model.layers[0].moving_variance.assign(scale**2)
    x = scale * (3 + np.random.default_rng(0).normal(size=(100, 64)).astype("float32"))
    with pytest.raises(ValueError, match=r"disagrees with Keras .* on the representative data"):
        export.compress(model, x, target_latency=1.0, quantize="dynamic", runs=1, progress=False)


def test_the_warnings_of_the_picked_file_are_shown():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16), layers.Dense(3, "softmax")])
    x = np.random.default_rng(0).normal(size=(20, 16)).astype("float32")
    found = export.compress(model, x, target_latency=1.0, quantize="int8", runs=1, progress=False)
    assert found.exported.notes and set(found.exported.notes) <= set(found.why)


def test_the_label_of_a_plot_fits_in_it(task):
    found = compress(task, data=task[1][0], validation_data=None, target_latency=1.0, quantize="any")
    figure = found.figure()
    figure.draw_without_rendering()
    label = figure.axes[0].yaxis.label
    assert label.get_text() == "agreement with the original\nof the float32 or dynamic or int8 file"
    assert figure.bbox.y0 <= label.get_window_extent().y0 and label.get_window_extent().y1 <= figure.bbox.y1


@pytest.mark.usefixtures("eager")
def test_a_target_that_nothing_meets(task, monkeypatch):
    monkeypatch.setattr(trials, "MOST_STRUCTURES", 2)
    monkeypatch.setattr(narrower, "FACTORS", (1 / 4,))
    (x, y), validation_data = task[1], tuple(part[:200] for part in task[2])
    with pytest.raises(
        export.TargetError, match=r"No model found meets the targets \(at most 0.001 us\). The nearest is '"
    ) as error:
        settings = {"validation_data": validation_data, "epochs": 1, "time_limit": 1e-3}  # One model is trained.
        compress(task, data=(x[:300], y[:300]), target_latency=1e-9, where=["a"], **settings)
    found = error.value.compression
    assert error.value.exit_code == 1
    assert len(found.points) > 1 and found.pick in found.points
    assert "is the nearest" in found.why[0]
    assert not found.meets and "(nearest)" in str(found.table())
    assert "The time limit ended the search early" in str(error.value)
    # Only the layer that `where` names is changed.
    assert all(set(point.layers) == {"a"} for point in found.points[1:])


@pytest.mark.long
def test_a_width_multiplier_for_a_network_without_dense_hidden_layers(task):
    """Its convolutions are added to each other, so they can only become narrower together."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="first")(images)
    x = x + layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    model = keras.Model(images, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))
    (x, y), (held_x, held_y) = task[1:]
    parts = (x.reshape(-1, 8, 8, 1), y), (held_x.reshape(-1, 8, 8, 1), held_y)
    found = compress((model, *parts), target_size=30_000)
    assert found.pick.family == "narrower"
    assert found.pick.name.startswith("all layers narrower, width multiplier 0.")
    assert found.pick.layers["first"].startswith("filters ")
    assert found.exported.size_bytes <= 30_000 < found.points[0].size_bytes


@pytest.mark.long
@pytest.mark.parametrize("target", [{"target_size": 25_000}, {"max_accuracy_drop": 0.5}])
def test_widths_that_keras_cannot_make_are_left_out(task, target):
    """The channels have to be a multiple of eight."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    x = layers.GroupNormalization(8)(layers.Conv2D(64, 3, padding="same", activation="relu")(images))
    x = x + layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    model = keras.Model(images, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))
    (x, y), (held_x, held_y) = task[1:]
    parts = (x[:300].reshape(-1, 8, 8, 1), y[:300]), (held_x.reshape(-1, 8, 8, 1), held_y)
    found = compress((model, *parts), **target, epochs=1)
    assert any(point.name.startswith("all layers narrower") for point in found.points)


@pytest.mark.usefixtures("eager")
def test_with_any_precision_a_poor_original_does_not_end_the_search(task, monkeypatch):
    """An original in int8 that keeps the limit is taken only if it is about as good as the one in float32."""
    real = Score.__call__
    # 15,000 bytes are less than the original in int8, and more than the model that is trained.
    poor = lambda file: file.precision.name is not None and file.size_bytes > 15_000  # noqa: E731
    monkeypatch.setattr(Score, "__call__", lambda self, file: real(self, file) - 0.5 * poor(file))
    (x, y), validation_data = task[1], tuple(part[:200] for part in task[2])
    settings = {"data": (x[:300], y[:300]), "validation_data": validation_data, "epochs": 1, "time_limit": 1e-3}
    found = compress(task, target_size=30_000, quantize="any", **settings)
    assert len({point.family for point in found.points}) > 1


@pytest.mark.usefixtures("eager")
def test_a_layer_that_cannot_be_exported_alone_is_not_replaced(task, monkeypatch):
    real = costs.Exporter.export_layer

    def refused(self, model, *rest):
        if model.layers[-1].name == "b":
            raise ValueError("off")
        return real(self, model, *rest)

    monkeypatch.setattr(costs.Exporter, "export_layer", refused)
    (x, y), validation_data = task[1], tuple(part[:200] for part in task[2])
    settings = {"data": (x[:300], y[:300]), "validation_data": validation_data, "epochs": 1}
    found = compress(task, target_size=10_000, quantize="int8", **settings)
    assert any("a" in point.layers for point in found.points)
    assert all("units" in point.layers.get("b", "units") for point in found.points)  # it may become narrower


X = np.random.default_rng(0).standard_normal((9, 64))


class Stopped(Exception):
    """What stops a search in a test."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [(trials, "try_layer", 3), (finalists, "imitate", 1), (finalists, "imitate", 2)],
    ids=["in a trial of a layer", "in the first training", "in the second training"],
)
def test_a_search_that_was_stopped_ends_like_one_that_was_not(task, tmp_path, monkeypatch, module, name, call, whole):
    real, calls = getattr(module, name), []

    def stopping(*arguments, **settings):
        calls.append(name)
        if len(calls) == call:
            raise Stopped
        return real(*arguments, **settings)

    monkeypatch.setattr(module, name, stopping)
    with pytest.raises(Stopped):
        compress(task, target_size=20_000, folder=tmp_path / "search", epochs=2)
    monkeypatch.setattr(module, name, real)
    found = compress(task, target_size=20_000, folder=tmp_path / "search", epochs=2)
    assert [point.name for point in found.points] == [point.name for point in whole.points]
    assert [point.score for point in found.points] == pytest.approx([point.score for point in whole.points], abs=0.01)
    assert [point.size_bytes for point in found.points] == [point.size_bytes for point in whole.points]
    assert [point.name for point in found.front("size")] == [point.name for point in whole.front("size")]
    assert found.pick.name == whole.pick.name
    with pytest.raises(ValueError, match=r"holds a search with other settings\. What differs: epochs, batch size, "):
        compress(task, target_size=20_000, folder=tmp_path / "search", epochs=1)
    monkeypatch.setattr(trials, "try_layer", lambda *rest: pytest.fail("tried again"))
    assert compress(task, target_size=25_000, folder=tmp_path / "search", epochs=2).exported.size_bytes <= 25_000


@pytest.mark.parametrize("examples", [5, 8, 12])
def test_a_trial_on_few_examples_has_as_many_steps(examples, monkeypatch):
    monkeypatch.setattr(
        harm, "imitate", lambda student, lesson, *, epochs, batch_size, **rest: steps.append((epochs, batch_size))
    )
    steps, model = [], keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    x = np.random.default_rng(0).normal(size=(examples, 16)).astype("float32")
    lesson, (place,) = Lesson.of(model, x), replaceable_layers(model, x, None, None)
    try_layer(model, place, structures_of(place.dense)[0], lesson, lesson, 8, 0)
    assert steps == [(20 if examples <= 8 else 10, 8)]


@pytest.fixture
def whole(task, kept={}):  # noqa: B006
    """A search that was not stopped. It is run once: the settings of `quick` are those of a test, not of the module."""
    if not kept:
        kept["found"] = compress(task, target_size=20_000, epochs=2)
    return kept["found"]


@pytest.mark.usefixtures("eager")
def test_a_time_limit_holds_in_every_stage(task, tmp_path, monkeypatch):
    """One model is trained, for one epoch. What was cut short is not kept."""
    exported, trained = [], []
    monkeypatch.setattr(costs, "to_tflite", lambda model, **rest: exported.append(model.name) or to_tflite(model, **rest))
    monkeypatch.setattr(trials, "try_layer", lambda *rest: trained.append("layer") or try_layer(*rest))
    monkeypatch.setattr(finalists, "imitate", lambda *rest, **how: trained.append(imitate(*rest, **how)) or trained[-1])
    (x, y), validation_data = task[1], tuple(part[:200] for part in task[2])
    settings = {"data": (x[:300], y[:300]), "validation_data": validation_data}
    found = compress(task, max_accuracy_drop=1.0, time_limit=1e-3, folder=tmp_path / "search", **settings)
    assert len(found.points) == 2
    assert "The time limit ended the search early" in found.why[-1]
    # The original, no layer, a narrower network, each layer as it is and in one other way, the cheapest and the trained model.
    assert len(exported) <= 3 + 2 * 3 + 2
    assert trained in ([False], ["layer", False])
    results = json.loads((tmp_path / "search" / FILE).read_text())["results"]
    assert list(results["scores of float32 files for latency"]) == ["original"] and not results.get("finalists")
    assert not [name for name in results.get("costs of float32 files for latency", ()) if name == "widths" or "Dense" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "Expected at least one target"),
        ({"target_size": 9, "time_limit": 0}, "`time_limit` must be a positive number"),
        ({"target_size": 9, "epochs": 0}, "`epochs` must be a positive integer"),
        ({"target_size": 9, "validation_data": (X[:3], np.full(3, 10))}, "Expected labels within 0 .. 9"),
        (
            {"target_size": 9, "data": (X, np.full(9, 10)), "validation_data": None},
            "Expected labels within 0 .. 9",
        ),
        ({"target_size": 9, "data": np.full((9, 64), np.nan)}, "Expected finite numbers"),
        ({"target_size": 9, "data": X[:, 1:], "validation_data": None}, "of the shapes"),
        ({"target_size": 9, "data": X, "validation_data": None, "metric": max}, "Expected labels with `metric`"),
        ({"target_size": 9, "metric": "accuracy"}, "Expected `metric` as a function"),
        ({"target_size": 9, "metric": lambda y, outputs: np.nan}, "Expected a finite number from `metric`. Received: nan"),
        ({"target_size": 9, "metric": lambda y, outputs: [0.5, 0.6]}, "Expected a finite number from `metric`"),
        ({"target_size": 9, "where": ["nobody"]}, "Expected names of dense layers"),
        ({"target_size": 9, "where": lambda layer: False}, "Expected a layer that can be replaced or made narrower"),
        ({"target_size": 9, "quantize": "int2"}, r"`quantize` must be one of .*'any'"),
        ({"max_accuracy_drop": 50}, "Expected `max_accuracy_drop` of at most 1"),
        ({"target_size": 9, "device": "toaster"}, "`device` must be one of"),
    ],
)
def test_bad_arguments(task, change, message, monkeypatch):
    monkeypatch.setattr(trials, "try_layer", None)
    with pytest.raises(ValueError, match=message):
        compress(task, **change)


@pytest.mark.usefixtures("eager")
def test_int8_and_several_outputs(task):
    """A model of a user's metric, with a shared layer and two outputs, in int8."""
    keras.utils.set_random_seed(0)
    inputs, shared = keras.Input((64,)), layers.Dense(64, "relu", name="shared")
    hidden = shared(shared(inputs))
    model = keras.Model(inputs, [layers.Dense(10, "softmax", name="kind")(hidden), layers.Dense(1, name="size")(hidden)])
    x = task[1][0][:300]
    found = export.compress(
        model, x, target_size=9_000, quantize="int8", where="shared", epochs=1, runs=3, progress=False, batch_size=64
    )
    assert found.exported.size_bytes <= 9_000
    assert found.exported.precision.name == "int8"
    assert not any(isinstance(layer, LowRank) for layer in model.layers)
