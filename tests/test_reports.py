"""What a user reads: summaries, tables, notes, what is listed and what is not."""

import threading

import keras
import numpy as np
import pytest
from keras import layers

import keras_butterfly
from keras_butterfly import Butterfly, ButterflyDense, export, replace_dense, summary
from keras_butterfly.utils.recording import recorded


def test_the_packages_list_their_api_only():
    assert dir(keras_butterfly) == sorted(keras_butterfly.__all__)
    assert dir(export) == sorted(export.__all__)


def test_tables_are_text_under_plain_print():
    model = keras.Sequential([keras.Input((64,)), Butterfly(64, name="hidden")])
    text = str(summary(model, show=False).table())
    assert "hidden" in text and "\n" in text and max(map(len, text.splitlines())) <= 120


def test_a_layer_that_saves_little_is_named():
    model = keras.Sequential([keras.Input((1024,)), Butterfly(1024, name="hidden"), ButterflyDense(10, name="head")])
    (note,) = summary(model, show=False).notes
    assert note.startswith("'head' saves little:") and "10,250" in note
    assert summary(model, show=False).to_dict()["notes"] == [note]
    dense = keras.Sequential([keras.Input((64,)), layers.Dense(16, name="head")])
    _, report = replace_dense(dense, where="head", initialize="fresh", progress=False)
    assert "'head' saves little" in report.notes[0] and "'head' saves little" in " ".join(str(report.table()).split())


def test_what_stays_is_listed_only_if_somebody_would_replace_it():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 64)),
            layers.Conv2D(64, 3, name="convolution"),
            layers.Conv2D(64, 1, name="pointwise"),
            layers.Reshape((36, 64)),
            layers.LSTM(128, name="recurrent"),
            layers.Dense(4, name="small"),
            layers.Dense(1024, name="wide"),
        ]
    )
    _, report = replace_dense(model, where="wide", initialize="fresh", progress=False)
    assert set(report.kept) == {"pointwise", "recurrent"}
    assert report.kept["pointwise"] == "is not selected by `where`"
    assert "is recurrent, which is not replaced" in report.kept["recurrent"]


def exported(units=64, **settings):
    model = keras.Sequential([keras.Input((units,), name="x"), Butterfly(name="hidden")])
    return export.to_tflite(model, **settings)


def test_a_printed_export_is_a_summary():
    found = exported(512)
    text = str(found)
    assert f"{found.size_bytes / 1024:,.1f} KiB" in text and "against Keras, on 4 examples (random inputs)" in text
    assert "as dense kernels" in text and found.gain.dense_size_bytes > found.gain.size_bytes
    assert found.gain.seconds == found.plan[0].chosen.measured.seconds


def test_names_in_plots_are_shown_letter_by_letter(tmp_path):
    latency = export.Latency((1e-6,), 1, 1, 1, "none", "none")
    names = ("$10 model$", "$x^$")
    comparison = export.Comparison(dict.fromkeys(names, latency), dict.fromkeys(names, 1000), dict.fromkeys(names, ()))
    comparison.plot(tmp_path / "plot.svg")
    labels = comparison.figure().axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [r"\$x^\$", r"\$10 model\$"]


class Clock:
    """A device on which dense kernels are the fastest, and all else takes its number of bytes."""

    name, runtime, machine = "clock", "none", "none"

    def __init__(self, seconds):
        self.seconds = seconds

    def measure(self, models, *, threads, warmup, runs, on_round):
        return {
            name: export.Latency((self.seconds(name, content),), 1, warmup, threads, self.runtime, self.machine)
            for name, content in models.items()
        }


def test_no_gain_over_dense_is_said():
    found = exported(device=Clock(lambda name, content: 1.0 if name == "dense" else 2.0))
    assert found.plan[0].lowering.kind == "dense"
    (note,) = found.notes
    assert note.startswith("No gain over Dense here") and 'objective="size" gives about' in note
    assert note in str(found)


def test_a_quantized_file_that_is_slower_is_said():
    device = Clock(lambda name, content: {"quantized": 3e-6, "float32": 1e-6}.get(name, len(content) * 1e-9))
    notes = exported(quantize="dynamic", device=device).notes
    assert any('With quantize="dynamic" the file is slower (3.0 us, float32 1.0 us)' in note for note in notes)


def test_the_smallest_of_the_lowerings_about_as_fast_as_the_fastest_is_taken():
    sizes = {}

    def seconds(name, content):
        sizes[name] = len(content)
        return 1.0 + 0.04 * (len(sizes) % 2)  # all within 5 %

    found = exported(256, device=Clock(seconds))
    assert sizes[str(found.plan[0].lowering)] == min(sizes.values())
    reasons = {found.plan[0].passed_over(candidate) for candidate in found.plan[0].candidates}
    assert reasons <= {"", "slower", "larger, and hardly faster"} and len(reasons) > 1


def test_two_threads_do_not_mix_what_they_record():
    layer = layers.Dense(4)
    layer.build((None, 4))
    found = {}

    def record(value):
        for _ in range(50):
            with recorded([layer]) as calls:
                layer(np.full((2, 4), value, "float32"))
            found.setdefault(value, []).extend(calls[id(layer)])

    threads = [threading.Thread(target=record, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value, calls in found.items():
        assert len(calls) == 50
        assert all(float(np.max(call.inputs)) == value for call in calls)
    assert "call" not in layer.__dict__


def test_an_int8_export_that_is_refused_says_where_and_what_helps():
    x = np.random.default_rng(0).standard_normal((200, 64)).astype("float32")
    model = keras.Sequential([keras.Input((64,), name="x"), layers.Dense(32, name="mid"), layers.Dense(3, name="head")])
    with pytest.raises(
        export.ParityError, match=r"in the output 'output_0'.*first layer to go wrong is 'mid'.*\"dynamic\" fits"
    ):
        export.to_tflite(model, quantize="int8", representative_data=x, tolerance=1e-4)


def test_processes_that_share_a_wisdom_file_lose_nothing(tmp_path):
    path = tmp_path / "wisdom.json"
    for units in (32, 48, 64):
        mine = export.Wisdom()
        exported(units, wisdom=mine)
        assert len(mine) == 1
        mine.save_merged(path)
    assert len(export.Wisdom.load(path)) == 3
