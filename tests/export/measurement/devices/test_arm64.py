"""The device arm64: counts, the messages where something is missing, and one real measurement if the device is set up."""

import json
import shutil
import subprocess

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, export
from keras_butterfly.export.measurement.devices import DEVICES, arm64, arm64_packages, find
from keras_butterfly.export.tflite import runtime

MISSING = DEVICES["arm64"].missing()


def counts(instructions=50_000, reads=40_000):
    return export.Counts(instructions, reads, core="cortex-a76", runtime="litert 1", machine="QEMU 7")


def latency(seconds=1e-6):
    return export.Latency((seconds,), 100, 50, 1, "litert 1", "a board")


def test_counts_show_themselves_in_text_tables_and_json():
    figure = counts()
    assert "instructions=50000" in repr(figure) and figure.when in repr(figure)
    assert figure.cells()[:2] == ["50,000", "40,000"]
    read = json.loads(json.dumps(figure.to_dict()))
    assert (read["instructions"], read["reads"], read["core"], read["unit"]) == (50_000, 40_000, "cortex-a76", "counts")
    comparison = export.Comparison({"a": figure, "b": counts(25_000, 20_000)}, {"a": 1024, "b": 512}, {"a": (), "b": ()})
    assert comparison.speedup("b") == pytest.approx(2.0)
    assert "cortex-a76" in str(comparison.table()) and "50,000" in str(comparison.table())
    assert "counts" in comparison.to_dict()["models"]["a"]


def test_bars_of_counts_have_the_length_of_the_cost():
    comparison = export.Comparison({"a": counts(), "b": counts(25_000, 20_000)}, {"a": 1024, "b": 512}, {"a": (), "b": ()})
    axes = comparison.figure().axes[0]
    # From below, in thousands: instructions + reads / 2.
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([35.0, 70.0])
    assert "instructions and reads" in axes.get_xlabel()


def test_reads_raise_the_cost_so_that_instructions_alone_do_not_decide():
    assert counts(reads=50_000).cost > counts(reads=40_000).cost > counts(instructions=40_000).cost


def test_a_measurement_says_when_it_was_made():
    assert latency().when.endswith("+00:00") and len(latency().when) == len("2026-11-26T12:00:00+00:00")
    assert latency().to_dict()["device"] == "host"


def test_seconds_and_counts_are_not_compared():
    with pytest.raises(ValueError, match=r"seconds and counts cannot be compared.*seconds of 'a', counts of 'b'"):
        export.Comparison({"a": latency(), "b": counts()}, {"a": 1, "b": 1}, {"a": (), "b": ()})


@pytest.mark.parametrize(("name", "core"), [("arm64", "cortex-a76"), ("arm64:a53", "cortex-a53"), ("arm64:a72", "cortex-a72")])
def test_the_name_of_the_device_says_the_core(name, core):
    device = find(name)
    assert (device.name, device.core) == (name, core)
    assert find(name) is device


@pytest.mark.parametrize("name", ["arm64:a999", "host:somewhere", "phone", ""])
def test_names_that_are_no_device(name):
    with pytest.raises(ValueError, match=r"Expected the device|`device` must be one of"):
        find(name)


def test_compress_needs_seconds():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Expected a device that measures seconds.*arm64"):
        export.compress(model, np.zeros((4, 8)), target_size=1000, device="arm64")


def test_more_than_one_thread_is_refused():
    with pytest.raises(ValueError, match=r"Expected threads=1 on the device .arm64"):
        export.measure(b"", threads=2, device="arm64")


def test_without_the_setup_each_use_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for use in (lambda: export.measure(b"", device="arm64"), lambda: find("arm64").predict(b"", {})):
        with pytest.raises(ValueError, match=r"is not set up in .* Run `keras-butterfly devices setup arm64` first"):
            use()
    assert "devices setup arm64" in DEVICES["arm64"].missing()
    assert arm64_packages.remove() is None


def test_a_setup_of_other_versions_is_not_used_and_can_be_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "keras_butterfly" / "arm64"
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text(json.dumps({"built from": "ai-edge-litert 0.1"}))
    with pytest.raises(ValueError, match=r"for other versions. Run .* again"):
        arm64_packages.installed()
    assert arm64_packages.remove() == folder and not folder.exists()


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb", "cc"])
def test_a_missing_tool_is_one_message_and_nothing_is_written(tool, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(arm64_packages.shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(ValueError, match=f"needs {tool}, .*It is not on the PATH"):
        arm64_packages.setup(lambda step: None)
    assert not list(tmp_path.iterdir())


def test_a_failing_step_leaves_nothing_and_reports_what_the_tool_says(tmp_path, monkeypatch):
    """A stand-in for apt-get fails as apt does without a network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(arm64_packages, "_check_tools", lambda: None)

    def failing(arguments, **settings):
        error = "W: a warning\nE: Failed to fetch http://deb.debian.org/debian/dists\n"
        return subprocess.CompletedProcess(arguments, 100 if "update" in arguments else 0, "amd64\n", error)

    monkeypatch.setattr(arm64_packages.subprocess, "run", failing)
    with pytest.raises(ValueError, match="apt-get says: E: Failed to fetch http"):
        arm64_packages.setup(lambda step: None)
    assert not list((tmp_path / "keras_butterfly").iterdir())


def test_counts_come_from_the_difference_of_two_blocks():
    """A block costs 100 instructions and 10 reads by itself; each invocation 7 and 3. One block has a little more."""
    marks, now = [], (0, 0)
    for extra in (5, 0, 0):
        for invocations in (1, 2):
            marks.append(now)
            now = (now[0] + 100 + 7 * invocations + extra, now[1] + 10 + 3 * invocations)
            marks.append(now)
    assert arm64._per_invocation(marks) == [7, 3]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_plugin_compiles_without_warnings(tmp_path):
    options = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-DPLUGIN_API=2", "-o", str(tmp_path / "counter.so")]
    subprocess.run(["cc", *options, str(arm64_packages.SOURCE)], check=True)


@pytest.mark.long
@pytest.mark.skipif(MISSING is not None, reason=f"real counts need the emulator: {MISSING}")
def test_real_counts_repeat_exactly_and_outputs_equal_those_of_the_host():
    layers = {"dense": keras.layers.Dense(256), "butterfly": Butterfly(256, seed=0)}
    models = {name: keras.Sequential([keras.Input((256,)), layer]) for name, layer in layers.items()}
    exports = {name: export.to_tflite(model, effort="estimate") for name, model in models.items()}
    first = export.compare(exports, device="arm64").latencies
    again = export.compare(dict(reversed(exports.items())), device="arm64").latencies
    assert {name: (each.instructions, each.reads) for name, each in first.items()} == {
        name: (each.instructions, each.reads) for name, each in again.items()
    }
    assert first["dense"].reads > 256 * 256 / 2 > first["butterfly"].reads
    with pytest.raises(ValueError, match=r"runs on cortex-a76.*'broken': "):
        export.compare({"dense": exports["dense"], "broken": b"no model"}, device="arm64")
    x = np.random.default_rng(0).standard_normal((1, 256)).astype("float32")
    for exported in exports.values():
        (name,) = exported.input_names
        (actual,) = find("arm64").predict(exported.content, {name: x}).values()
        (expected,) = runtime.run(runtime.load(exported.content), {name: x}).values()
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
