"""Tests of measuring and comparing: the conditions that are recorded, the figures, and arguments that do not fit."""

import io
import json

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_butterfly import export
from keras_butterfly.export.measurement.devices import standalone
from keras_butterfly.utils.progress import Progress


@pytest.fixture(scope="module")
def models():
    def dense(units):
        return export.to_tflite(keras.Sequential([keras.Input((8,)), keras.layers.Dense(units)]))

    return {"wide": dense(16), "narrow": dense(2)}


def test_figures_derive_from_the_raw_seconds():
    seconds = (4.0, 1.0, 2.0, 3.0, 100.0)
    latency = export.Latency(seconds, invocations=1, warmup=1, threads=1, runtime="r", machine="m")
    assert latency.median == 3.0
    assert latency.p95 == np.percentile(seconds, 95)
    assert latency.iqr == 2.0
    assert latency.to_dict()["seconds"] == seconds


def test_measure_records_the_conditions(models, tmp_path):
    path = models["wide"].save(tmp_path / "m.tflite")
    for model in (models["wide"], models["wide"].content, path, str(path)):
        latency = export.measure(model, threads=2, warmup=3, runs=5)
        assert len(latency.seconds) == 5
        assert all(seconds > 0 for seconds in latency.seconds)
        assert (latency.threads, latency.warmup) == (2, 3)
        assert latency.runtime.startswith("ai-edge-litert ")
        assert latency.machine


def test_models_are_measured_in_turn(models, monkeypatch):
    order = []
    monkeypatch.setattr(standalone, "time_block", lambda interpreter, invocations: order.append(id(interpreter)) or 1e-3)
    export.compare(models, runs=3)
    warmups, rounds = order[: 2 * standalone.WARMUP_BLOCKS], order[2 * standalone.WARMUP_BLOCKS :]
    assert rounds == [warmups[0], warmups[-1]] * 3


def test_a_block_is_long_enough_for_the_clock(models):
    latency = export.measure(models["narrow"], runs=5)
    assert latency.invocations * latency.median > standalone.BLOCK_SECONDS / 5


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("nowhere.tflite", {}, "which is no file"),
        (b"not a model", {}, "that the stock runtime loads"),
        (3, {}, "Expected a TFLiteModel, the bytes of a .tflite file, or a path to such a file. Received: int"),
        (None, {"threads": 0}, "`threads` must be a positive integer"),
        (None, {"runs": 0}, "`runs` must be a positive integer"),
        (None, {"warmup": 1.5}, "`warmup` must be a positive integer"),
        (
            None,
            {"device": "phone"},
            "`device` must be one of .* or an object like export.measurement.devices.Device. Received: device=.phone.",
        ),
    ],
)
def test_bad_input_is_a_clear_error(models, model, settings, message):
    with pytest.raises(ValueError, match=message):
        export.measure(models["wide"] if model is None else model, **settings)


def test_a_keras_model_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"Convert a Keras model with export\.to_tflite first"):
        export.measure(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))


def test_comparison_has_a_table_a_plot_and_a_file(models, tmp_path):
    comparison = export.compare(models, runs=4)
    assert comparison.baseline == "wide"
    assert comparison.speedup("wide") == 1
    assert comparison.speedup("narrow") == comparison.latencies["wide"].median / comparison.latencies["narrow"].median
    console = Console(width=160, file=io.StringIO())
    console.print(comparison.table())
    text = console.file.getvalue()
    assert "narrow" in text
    assert "FULLY_CONNECTED 1" in text
    report = json.loads(comparison.to_json(tmp_path / "c.json").read_text())
    assert report["baseline"] == "wide"
    assert report["models"]["narrow"]["latency"]["seconds"] == list(comparison.latencies["narrow"].seconds)
    assert report["models"]["narrow"]["size_bytes"] == models["narrow"].size_bytes
    assert comparison.plot(tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    for write in (lambda: comparison.to_json(tmp_path / "c.json"), lambda: comparison.plot(tmp_path / "c.png")):
        with pytest.raises(ValueError, match="exists"):
            write()
    with pytest.raises(ValueError, match="picture format"):
        comparison.plot(tmp_path / "latency")
    with pytest.raises(ValueError, match="`name` must be one of"):
        comparison.speedup("fast")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.json", "c.png"]


class FakeDevice:
    """A device that runs nothing. Each model takes as many nanoseconds as its file has bytes."""

    name, runtime, machine = "fake", "no runtime", "no machine"

    def measure(self, models, *, threads, warmup, runs, on_round):
        for round_number in range(runs):
            on_round(round_number + 1)
        return {
            name: export.Latency((len(content) * 1e-9,) * runs, 1, warmup, threads, self.runtime, self.machine)
            for name, content in models.items()
        }


def test_compare_measures_on_the_given_device(models):
    comparison = export.compare(models, runs=3, threads=2, device=FakeDevice())
    latency = comparison.latencies["wide"]
    assert latency.seconds == (models["wide"].size_bytes * 1e-9,) * 3
    assert (latency.threads, latency.machine) == (2, "no machine")
    with pytest.raises(ValueError, match="`device` must be one of"):
        export.compare(models, device="phone")


@pytest.mark.parametrize(("terminal", "progress", "shown"), [(True, None, True), (True, False, False), (False, None, False)])
def test_compare_shows_progress_where_stderr_is_a_terminal(terminal, progress, shown, models, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")  # If it is set, rich takes stderr for a terminal.
    monkeypatch.setattr(Progress, "lines", False)  # The command line, which other tests run in this process, sets it.
    export.compare(models, runs=3, device=FakeDevice(), progress=progress)
    assert ("measure" in capsys.readouterr().err) == shown


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="Expected a mapping"):
        export.compare([])
    with pytest.raises(ValueError, match="at least one model"):
        export.compare({})
