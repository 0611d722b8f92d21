"""Tests of measuring on an Android phone: a stand-in for adb replays what phones print, and the real adb finds no phone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_butterfly import export
from keras_butterfly.export.measurement import devices
from keras_butterfly.export.measurement.devices.adb import BINARY_VARIABLE, BLOCK_SECONDS, WARMUP_SECONDS, Adb

HERE = Path(__file__).parent
# What benchmark_model prints, in the words of its source (tflite/tools/benchmark/benchmark_model.cc).
OUTPUT = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Graph: [0.tflite]
INFO: Signature to run: []
INFO: Loaded model 0.tflite
INFO: Using signature: serving_default
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.004
INFO: Initialized session in 1.183ms.
INFO: Running benchmark for at least 50 iterations and at least 0.1 seconds but terminate if exceeding 150 seconds.
INFO: count=24093 first=51 curr=4 min=3 max=88 avg=4.02 std=1

INFO: Running benchmark for at least 2500 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=2500 first=4 curr=4 min=3 max=31 avg={mean} std=0

INFO: Inference timings in us: Init: 1183, First inference: 51, Warmup (avg): 4.02, Inference (avg): {mean}
INFO: Memory footprint delta from the start of the tool (MB): init=1.98828 overall=2.24609
"""
# The same in the versions of 2019.
OLD_OUTPUT = """\
count=50 first=4 curr=4 min=3 max=31 avg={mean} std=0

Average inference timings in us: Warmup: 4.02, Init: 1183, Inference: {mean}
"""
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
}


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


class Phone:
    """The folder that stands for a phone, and the folder of programs on this machine's PATH."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder / "phone", monkeypatch
        self.files = self.folder / "data" / "local" / "tmp"
        self.files.mkdir(parents=True)
        cases = "\n".join(f'{key}) echo "{value}";;' for key, value in PROPERTIES.items())
        program(self.folder / "system" / "bin" / "getprop", f'case "$1" in\n{cases}\n*) echo;;\nesac')
        self.programs = folder / "bin"
        program(self.programs / "adb", f'exec {sys.executable} -S -E {HERE / "fake_adb.py"} "$@"')
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_PHONE", str(self.folder))
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        self.calls = folder / "calls"
        self.prints(OUTPUT)

    def prints(self, output: str) -> None:
        """Let benchmark_model print `output`, with a mean of 8 us for the first model and 4 us for the others."""
        script = f"""
            echo "$@" >> {self.calls}
            case "$*" in *0.tflite*) mean=8;; *) mean=4;; esac
            cat <<END\n{output.replace("{mean}", "$mean")}\nEND
        """
        self.binary(program(self.folder.parent / "binary", script))

    def binary(self, path: Path) -> None:
        self.monkeypatch.setenv(BINARY_VARIABLE, str(path))

    def has_trouble(self, trouble: str) -> None:
        self.monkeypatch.setenv("FAKE_ADB", trouble)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    return Phone(tmp_path, monkeypatch)


MODELS = {"dense": b"a file", "butterfly": b"another file"}


def measured(address: str = "", on_round=lambda done: None, runs: int = 3):
    return Adb(address).measure(MODELS, threads=2, warmup=7, runs=runs, on_round=on_round)


def fails(message: str, address: str = "", **settings) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        measured(address, **settings)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("output", [OUTPUT, OLD_OUTPUT])
def test_each_block_is_a_process_on_the_phone(phone, output):
    phone.prints(output)
    rounds = []
    latencies = measured(on_round=rounds.append)
    assert rounds == [1, 2, 3]
    assert latencies["dense"].seconds == pytest.approx((8e-6,) * 3)
    assert latencies["butterfly"].seconds == pytest.approx((4e-6,) * 3)
    assert [latency.invocations for latency in latencies.values()] == [round(BLOCK_SECONDS / mean) for mean in (8e-6, 4e-6)]
    latency = latencies["dense"]
    assert (latency.threads, latency.warmup, latency.device) == (2, 7, "adb")
    assert latency.machine == "Google, Pixel 8, Tensor G3, arm64-v8a, Android 14"
    assert latency.runtime.startswith("benchmark_model ")


def test_the_models_take_turns(phone):
    measured()
    calls = [dict(part.removeprefix("--").split("=") for part in line.split()) for line in phone.calls.read_text().splitlines()]
    assert [call["graph"] for call in calls] == ["0.tflite", "1.tflite"] * 4
    assert [call["num_runs"] for call in calls] == ["7", "7", *["6250", "12500"] * 3]
    shared = {"num_threads": "2", "warmup_runs": "7", "warmup_min_secs": str(WARMUP_SECONDS), "min_secs": "0"}
    assert all(call.items() >= shared.items() for call in calls)


def test_the_phone_is_cleaned_up(phone):
    measured()
    assert list(phone.files.iterdir()) == []


def test_the_phone_is_cleaned_up_after_an_interrupt(phone):
    def interrupt(done):
        assert len(list(next(phone.files.iterdir()).iterdir())) == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(on_round=interrupt)
    assert list(phone.files.iterdir()) == []


def test_a_binary_on_the_phone_stays_there(phone, monkeypatch):
    binary = Path(os.environ[BINARY_VARIABLE])
    runtime = Adb().runtime
    monkeypatch.delenv(BINARY_VARIABLE)
    shutil.copy(binary, phone.files / "android_aarch64_benchmark_model")
    assert measured()["dense"].runtime == runtime
    assert [path.name for path in phone.files.iterdir()] == ["android_aarch64_benchmark_model"]


def test_a_binary_on_the_path_is_found(phone, monkeypatch):
    shutil.copy(os.environ[BINARY_VARIABLE], phone.programs / "benchmark_model")
    runtime = Adb().runtime
    monkeypatch.delenv(BINARY_VARIABLE)
    assert measured()["dense"].runtime == runtime


def test_no_binary(phone, monkeypatch):
    monkeypatch.delenv(BINARY_VARIABLE)
    fails(f"Download android_aarch64_benchmark_model from https://.*, and set {BINARY_VARIABLE} to its path")
    phone.binary("no/file")
    fails(f"Expected the path of Google's benchmark_model in {BINARY_VARIABLE}. Received: 'no/file'")


def test_one_of_several_phones_is_chosen(phone):
    phone.has_trouble("several")
    fails('adb reaches several: PHONE1, PHONE2. Choose one with device="adb:SERIAL"')
    assert measured("PHONE2")["dense"].device == "adb:PHONE2"
    fails("Expected the Android phone that the device names .* adb reaches these: PHONE1, PHONE2", "PHONE3")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("no phone", "Received none. Connect one by USB, and switch on USB debugging"),
        ("unauthorized", "Unlock the phone, and confirm the question about USB debugging"),
        ("offline", "adb calls it offline"),
        ("no permissions", "Install the udev rules"),
        ("full", "Expected space for the model and benchmark_model in /data/local/tmp"),
    ],
)
def test_phones_that_are_not_ready(phone, trouble, message):
    phone.has_trouble(trouble)
    fails(message)
    assert list(phone.files.iterdir()) == []


def test_a_phone_that_is_unplugged_in_the_middle(phone, monkeypatch):
    phone.has_trouble("unplugged")
    monkeypatch.setenv("FAKE_LINES", str(3 * (OUTPUT.count("\n") + 2)))
    rounds = []
    fails("The connection was lost in the middle of the measurement. Plug the phone in", on_round=rounds.append, runs=10_000)
    assert list(phone.files.iterdir()) == []  # The script on the phone cleans up by itself.


@pytest.mark.parametrize(
    "script",
    [
        "echo '/system/bin/sh: ./benchmark_model: not executable: 64-bit ELF file' >&2; exit 126",
        """echo 'CANNOT LINK EXECUTABLE "./benchmark_model": "x.so" is 32-bit instead of 64-bit' >&2; exit 1""",
    ],
)
def test_a_binary_for_another_processor(phone, script):
    phone.binary(program(phone.folder.parent / "foreign", script))
    fails("Expected a benchmark_model that runs on this phone, whose ABI is arm64-v8a. The phone says: .*bit")


def test_a_real_binary_for_another_processor(phone):
    """The head of an ELF file for SPARC, which the kernel of no developer's machine runs."""
    head = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x2b" + bytes(44)
    path = phone.folder.parent / "sparc"
    path.write_bytes(head)
    phone.binary(path)
    fails("Expected a benchmark_model that runs on this phone, whose ABI is arm64-v8a")


def test_a_model_that_benchmark_model_cannot_run(phone):
    script = "echo 'ERROR: Failed to load model 0.tflite' >&2; echo 'ERROR: Benchmarking failed.' >&2; exit 1"
    phone.binary(program(phone.folder.parent / "failing", script))
    fails("Expected a model that benchmark_model runs. On 'dense' it ends with exit code 1: ERROR: Failed to load model")
    assert list(phone.files.iterdir()) == []


def test_output_without_figures(phone):
    phone.prints("INFO: STARTING!")
    fails("Expected benchmark_model to print its inference timings. It says: INFO: STARTING!")


def test_outputs_come_by_name(phone, rng):
    """The stand-in for benchmark_model runs the model with this machine's runtime, so the outputs are equal to the bit."""
    phone.binary(program(phone.folder.parent / "runner", f'exec {sys.executable} {HERE / "fake_benchmark_model.py"} "$@"'))
    data = {name: rng.standard_normal((64, size)).astype("float32") for name, size in {"right": 8, "left": 4}.items()}
    inputs = {name: values[:1] for name, values in data.items()}
    tensors = [keras.Input(values.shape[1:], name=name) for name, values in data.items()]
    joined = keras.layers.Concatenate()(tensors)
    model = keras.Model(tensors, {"b": keras.layers.Dense(3)(joined), "a": keras.layers.Dense(5)(joined)})
    for quantize in (None, "int8"):
        content = export.to_tflite(model, effort="estimate", quantize=quantize, representative_data=data).content
        here, there = (devices.find(name).predict(content, inputs) for name in ("host", "adb"))
        assert here.keys() == there.keys() == {"a", "b"}
        for name in here:
            assert there[name].dtype == np.float32
            np.testing.assert_array_equal(here[name], there[name])
    assert list(phone.files.iterdir()) == []


def test_a_binary_that_writes_no_outputs(phone):
    content = export.to_tflite(
        keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)]), effort="estimate"
    ).content
    with pytest.raises(ValueError, match="Expected a benchmark_model with the option --output_filepath"):
        Adb().predict(content, {"x": np.zeros((1, 4), "float32")})


def test_no_adb(phone, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    fails("The program adb is not installed. Install the package adb")
    assert "adb" in Adb.missing()


@pytest.mark.parametrize("address", ["-d", "two words"])
def test_addresses_that_are_no_serial_number(address):
    with pytest.raises(ValueError, match="Expected the serial number of a phone"):
        Adb(address)


@pytest.fixture
def real_adb(monkeypatch):
    """The real client adb with a server of its own, to which no phone is connected."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed (Debian: adb)")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5097")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    started = subprocess.run(["adb", "devices"], capture_output=True, text=True)
    if "\tdevice" in started.stdout:
        pytest.skip("a phone is connected to this machine")
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True)


def test_the_real_adb_without_a_phone(real_adb):
    fails("Received none. Connect one by USB")
    fails("Expected the Android phone that the device names by its serial number. adb reaches these: none", "NO-SUCH-PHONE")
    assert Adb.missing() is None
