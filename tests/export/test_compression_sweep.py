"""Several compressions of one model, exported and measured in turn."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

import keras_butterfly.export.compression_sweep as sweeping
from keras_butterfly import export
from keras_butterfly.export.compression_sweep import Sweep, accuracy


@pytest.fixture(scope="module")
def task():
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, "relu", name="a"),
            layers.Dense(128, "relu", name="b"),
            layers.Dense(10, "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x[:1400], y[:1400], 64, 6, verbose=0)
    return model, (x[:1400], y[:1400]), (x[1400:], y[1400:])


@pytest.fixture(scope="module")
def swept(task):
    model, train, test = task
    settings = {"train": train, "epochs": 3, "batch_size": 64, "learning_rate": 3e-3, "steps": 30, "seed": 0, "runs": 20}
    return export.sweep(model, test, ks=(8,), stacks=(1,), progress=False, **settings)


def test_points_are_what_they_say(swept, task):
    model, _, (x, y) = task
    assert [point.name for point in swept.points] == ["original", "full", "k = 8"]
    original, full, low_rank = swept.points
    assert original.model is model
    assert original.report is None
    assert full.weights == full.model.count_params() == full.report.weights_after
    assert max(full.weights, low_rank.weights) < original.weights / 3
    for point in swept.points:
        outputs = point.model.predict(x, verbose=0)
        assert point.score == pytest.approx(np.mean(outputs.argmax(-1) == y))
        assert point.size_bytes == len(point.exported.content)
        assert point.latency.median > 0
    assert full.score > original.score - 0.1


def test_table_json_and_plot(swept, tmp_path):
    assert swept.table().row_count == 3
    found = json.loads(swept.to_json(tmp_path / "sweep.json").read_text())["points"]
    assert [point["weights"] for point in found] == [point.weights for point in swept.points]
    assert [each["layer"] for each in found[1]["replacements"]] == ["a", "b"]
    assert swept.plot(tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="exists"):
        swept.plot(tmp_path / "sweep.png")
    with pytest.raises(ValueError, match="ends in a picture format"):
        swept.plot(tmp_path / "sweep")


def test_a_variant_that_cannot_be_exported_is_left_out_with_the_reason(task, monkeypatch):
    model, _, test = task
    convert = sweeping.to_tflite

    def to_tflite(model, **settings):
        if any(type(layer).__name__ == "ButterflyDense" for layer in model.layers):
            raise export.ParityError("The outputs differ by 0.5.")
        return convert(model, effort="estimate", **settings)

    monkeypatch.setattr(sweeping, "to_tflite", to_tflite)
    settings = {"initialize": "fresh", "seed": 0, "runs": 1, "progress": False}
    found = export.sweep(model, test, ks=(4, 8), **settings)
    assert [point.name for point in found.points] == ["original", "full"]
    assert found.to_dict()["skipped"] == dict.fromkeys(("k = 4", "k = 8"), "The outputs differ by 0.5.")
    assert "k = 8 is left out: The outputs differ by 0.5." in str(found.table())
    with pytest.raises(export.ParityError, match=r"differ by 0\.5"):
        export.sweep(model, test, ks=(4,), stacks=(), **settings)


def test_labels_are_checked_before_the_work(task, monkeypatch):
    model, (x, y), test = task
    monkeypatch.setattr(sweeping, "to_tflite", None)
    for labels, message in ((y + 1, "Expected labels within 0 .. 9"), (y.astype(str), "Expected numbers in the labels")):
        with pytest.raises(ValueError, match=message):
            export.sweep(model, test, train=(x, labels), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"Expected labels within 0 \.\. 9"):
        export.sweep(model, (x, y + 1), progress=False)


class Fake:
    """What `pick` and `pareto_points` look at, with chosen figures."""

    def __init__(self, name, score, microseconds, size):
        self.name, self.score, self.size_bytes = name, score, size
        self.latency = export.Latency((microseconds / 1e6,), 1, 1, 1, "runtime", "machine")


FAKES = Sweep((Fake("original", 0.9, 100, 1000), Fake("a", 0.89, 20, 300), Fake("b", 0.86, 10, 200), Fake("c", 0.85, 30, 100)))


@pytest.mark.parametrize(
    ("targets", "picked"),
    [
        ({"target_latency": 25e-6}, "a"),
        ({"target_latency": 15e-6}, "b"),
        ({"target_size": 150}, "c"),
        ({"max_accuracy_drop": 0.045}, "b"),
        ({"max_accuracy_drop": 0.02}, "a"),
        ({"target_size": 250, "max_accuracy_drop": 0.06}, "b"),
    ],
)
def test_pick(targets, picked):
    assert FAKES.pick(**targets).name == picked


def test_pick_says_what_came_nearest():
    with pytest.raises(export.TargetError, match=r"Nothing tried meets the targets. a: 20.0 us, 0 KiB, 0.0100 below"):
        FAKES.pick(target_latency=1e-6)
    with pytest.raises(ValueError, match="Expected at least one target"):
        FAKES.pick()


def test_pareto_points():
    assert [point.name for point in FAKES.pareto_points()] == ["b", "a", "original"]
    assert [point.name for point in FAKES.pareto_points("size")] == ["c", "b", "a", "original"]
    with pytest.raises(ValueError, match='`cost` must be "latency" or "size"'):
        FAKES.pareto_points("weights")


def test_accuracy():
    assert accuracy([1, 0, 1], np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])) == pytest.approx(2 / 3)
    assert accuracy([[1], [0]], np.array([[0.9], [0.6]])) == 0.5
    with pytest.raises(ValueError, match="Expected integer labels"):
        accuracy([0.5], np.array([[0.5]]))
    with pytest.raises(ValueError, match="model of one output"):
        accuracy([1], [np.ones((1, 2)), np.ones((1, 2))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.ones((3, 64))}, r"Expected `data` as a pair \(x, y\)"),
        ({"data": (np.ones((3, 64)), None)}, "Expected labels to score with"),
        ({"data": (np.ones((3, 64)), np.ones(2))}, "Expected as many labels as examples"),
        ({"epochs": 2}, "Expected `train`, other examples than `data`"),
        ({"stacks": ()}, "Expected at least one way to compress"),
        ({"ks": (0,)}, "`k` must be a positive integer"),
        ({"ks": (500,), "stacks": ()}, "Expected a layer to replace. Found none: "),
        ({"data": (np.ones((3, 64)), np.ones((3, 10), int))}, "Expected one integer label for each"),
    ],
)
def test_bad_arguments(change, message, task):
    with pytest.raises(ValueError, match=message):
        export.sweep(task[0], **{"data": (np.ones((3, 64)), np.ones(3, int)), "progress": False, **change})
