"""Tests of what an export says about itself: its summary, its notes, and the advice when it is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import Butterfly, export


def exported(units=64, **settings):
    model = keras.Sequential([keras.Input((units,), name="x"), Butterfly(name="hidden")])
    return export.to_tflite(model, **settings)


@pytest.mark.usefixtures("measured", "two_lowerings")
def test_a_printed_export_is_a_summary():
    found = exported(512)
    text = str(found)
    assert f"{found.size_bytes / 1024:,.1f} KiB" in text and "against Keras, on 4 examples (random inputs)" in text
    assert "as dense kernels" in text and found.gain.dense_size_bytes > found.gain.size_bytes
    assert found.gain.cost == found.plan[0].chosen.measured.cost


class FakeDevice:
    """A device on which a model takes as many seconds as the function `seconds` of its name and its content returns."""

    name, runtime, machine = "clock", "none", "none"

    def __init__(self, seconds):
        self.seconds = seconds

    def measure(self, models, *, threads, warmup, runs, on_round):
        return {
            name: export.Latency((self.seconds(name, content),), 1, warmup, threads, self.runtime, self.machine)
            for name, content in models.items()
        }


@pytest.mark.usefixtures("measured", "two_lowerings")
def test_no_gain_over_dense_is_said():
    found = exported(device=FakeDevice(lambda name, content: 1.0 if name == "dense" else 2.0))
    assert found.plan[0].lowering.kind == "dense"
    (note,) = found.notes
    assert note.startswith("No gain over Dense here") and 'objective="size" gives about' in note
    assert note in str(found)


@pytest.mark.usefixtures("measured", "two_lowerings")
def test_a_quantized_file_that_is_slower_is_said():
    device = FakeDevice(lambda name, content: {"quantized": 3e-6, "float32": 1e-6}.get(name, len(content) * 1e-9))
    notes = exported(quantize="dynamic", device=device).notes
    assert any('With quantize="dynamic" the file is slower (3.00 us, float32 1.00 us)' in note for note in notes)


@pytest.mark.usefixtures("measured")
def test_an_unrolled_file_that_is_larger_than_the_loop_in_float32_is_said():
    model = keras.Sequential([keras.Input((12, 32)), layers.LSTM(32)])
    data = np.random.default_rng(0).normal(size=(40, 12, 32))
    notes = export.to_tflite(model, quantize="int8", representative_data=data, device=FakeDevice(lambda *_: 1e-6)).notes
    assert any('With quantize="int8" the file is larger' in note for note in notes)


@pytest.mark.usefixtures("measured")
def test_the_smallest_of_the_lowerings_about_as_fast_as_the_fastest_is_taken():
    sizes = {}

    def seconds(name, content):
        sizes[name] = len(content)
        return 1.0 + 0.04 * (len(sizes) % 2)  # All are within 5 % of each other.

    found = exported(256, device=FakeDevice(seconds))
    assert sizes[str(found.plan[0].lowering)] == min(sizes.values())
    reasons = {found.plan[0].passed_over(candidate) for candidate in found.plan[0].candidates}
    assert reasons <= {"", "slower", "larger, and hardly faster"} and len(reasons) > 1


def test_an_int8_export_that_is_refused_says_where_and_what_helps():
    x = np.random.default_rng(0).standard_normal((200, 64)).astype("float32")
    model = keras.Sequential([keras.Input((64,), name="x"), layers.Dense(32, name="mid"), layers.Dense(3, name="head")])
    with pytest.raises(
        export.ParityError, match=r"in the output 'output_0'.*first layer to go wrong is 'mid'.*\"dynamic\" fits"
    ):
        export.to_tflite(model, quantize="int8", representative_data=x, tolerance=1e-4)
