"""The device `browser`: a real Chromium where there is one, and messages for whatever is missing."""

import os
import signal

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, export
from keras_butterfly.export.measurement.devices import browser_packages
from keras_butterfly.export.measurement.devices.browser import Browser
from keras_butterfly.export.measurement.devices.chromium import NAMES, VARIABLE, Chromium, ChromiumError, find_chromium
from keras_butterfly.export.tflite import runtime


def program(folder, name, text="exit 0"):
    """A shell script that stands for a program, and its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A folder that is the whole PATH, on a machine without a cache."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "bin"


@pytest.fixture(scope="module")
def models():
    """Files of different inputs: float32, int8 inside, int8 throughout, two inputs of which one holds integers, any batch."""
    keras.utils.set_random_seed(0)
    data = np.random.default_rng(0).standard_normal((64, 32)).astype("float32")
    plain = keras.Sequential([keras.Input((32,), name="x"), Butterfly(32, "relu", seed=0), keras.layers.Dense(5, name="y")])
    numbers, floats = keras.Input((3,), dtype="int32", name="numbers"), keras.Input((4,), name="floats")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(numbers))
    two = keras.Model([numbers, floats], keras.layers.Dense(2)(keras.layers.Concatenate()([embedded, floats])))
    int8 = {"quantize": "int8", "representative_data": data, "effort": "estimate"}
    return {
        "float32": export.to_tflite(plain, effort="estimate"),
        "int8": export.to_tflite(plain, **int8),
        "int8 throughout": export.to_tflite(plain, integer_io=True, **int8),
        "two inputs": export.to_tflite(two, effort="estimate"),
        "any batch": export.to_tflite(plain, batch_size=None, effort="estimate"),
    }


@pytest.fixture(scope="module")
def browser():
    missing = Browser.missing()
    if missing:
        pytest.skip(missing)
    device = Browser()
    yield device
    device.close()


@pytest.mark.parametrize("name", ["float32", "int8", "int8 throughout", "two inputs", "any batch"])
def test_outputs_equal_those_of_the_host(models, browser, name):
    content, rng = models[name].content, np.random.default_rng(1)
    details = runtime.load(content).get_signature_runner().get_input_details()
    inputs = {each: rng.integers(0, 10, detail["shape"]) for each, detail in details.items()}
    inputs |= {each: rng.standard_normal(inputs[each].shape) for each in inputs if each != "numbers"}
    expected, actual = runtime.run(runtime.load(content), inputs), browser.predict(content, inputs)
    assert actual.keys() == expected.keys()
    for output in expected:
        np.testing.assert_allclose(actual[output], expected[output], rtol=1e-6, atol=1e-6)


def test_measure_records_the_conditions(models, browser):
    rounds = []
    contents = {name: model.content for name, model in models.items()}
    latencies = browser.measure(contents, threads=1, warmup=10, runs=3, on_round=rounds.append)
    assert rounds == [1, 2, 3] and list(latencies) == list(models)
    for latency in latencies.values():
        assert len(latency.seconds) == 3 and 0 < latency.median < 1
        assert latency.warmup >= 10 and latency.threads == 1
        assert latency.runtime.startswith(f"LiteRT.js {browser_packages.litert_version()}, Chrome/")
        assert latency.machine and latency.device == "browser"


def test_page_is_isolated_so_that_its_clock_is_fine(models, browser):
    browser.predict(models["float32"].content, {"x": np.zeros((1, 32))})
    assert browser._session.chromium.evaluate("crossOriginIsolated")


def test_threads_are_those_of_the_runtime(models, browser):
    latency = browser.measure({"m": models["float32"].content}, threads=2, warmup=1, runs=1, on_round=lambda done: None)["m"]
    assert latency.threads == 2 and browser._session.threaded


def test_interrupt_closes_chromium(models, browser):
    def interrupt(done):
        running.append(browser._session.chromium)
        raise KeyboardInterrupt

    running: list[Chromium] = []
    with pytest.raises(KeyboardInterrupt):
        browser.measure({"m": models["float32"].content}, threads=1, warmup=1, runs=5, on_round=interrupt)
    assert running[0]._process.poll() is not None and not os.path.exists(running[0]._profile)


@pytest.mark.parametrize("how", ["page", "browser"])
def test_crash_is_a_clear_error_and_the_next_call_works(models, browser, how):
    def crash(done):
        if how == "page":
            browser._session.chromium.call("Page.crash")
        else:
            os.killpg(browser._session.chromium._process.pid, signal.SIGKILL)

    message = "The page crashed in Chromium" if how == "page" else "Chromium ended with exit code -9"
    with pytest.raises(ValueError, match=message):
        browser.measure({"m": models["float32"].content}, threads=1, warmup=1, runs=5, on_round=crash)
    assert browser.predict(models["float32"].content, {"x": np.zeros((1, 32))})


def test_a_model_that_does_not_load_is_a_clear_error(models, browser, monkeypatch):
    arrays = {"x": np.zeros((1, 32), "float32")}
    with browser._running() as session, pytest.raises(ValueError, match=r"that LiteRT\.js .* loads\. Loading 'bad', it says: "):
        session.load("'bad'", b"no model", arrays)
    with pytest.raises(ValueError, match="Pass one example at a time, or export with a fixed batch_size"):
        browser.predict(models["any batch"].content, {"x": np.zeros((2, 32))})
    with pytest.raises(ValueError, match="Expected the input 'x' to have the shape"):
        browser.predict(models["float32"].content, {"x": np.zeros((1, 31))})


def test_no_chromium(bare):
    with pytest.raises(ChromiumError, match=rf"Found none of {', '.join(NAMES)}\. Install one") as error:
        find_chromium()
    assert Browser.missing() == str(error.value)


def test_chromium_is_found_by_name_or_by_the_variable(bare, monkeypatch):
    named = program(bare, "google-chrome")
    assert find_chromium() == str(named)
    other = program(bare.parent, "mine")
    monkeypatch.setenv(VARIABLE, str(other))
    assert find_chromium() == str(other)
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with pytest.raises(ChromiumError, match=f"path of Chromium in {VARIABLE}. Received: '/nowhere', which is no program"):
        find_chromium()


def test_packages_that_are_not_set_up(bare):
    program(bare, "chromium")
    with pytest.raises(ValueError, match=r"Run `keras-butterfly devices setup browser` first"):
        Browser().measure({}, threads=1, warmup=1, runs=1, on_round=lambda done: None)
    assert "devices setup browser" in Browser.missing()


def test_chromium_that_ends_at_once_or_never_answers(bare, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath, prepend=os.pathsep)
    with pytest.raises(ChromiumError, match=r"exit code 3\. Its last line is: no display"):
        Chromium(str(program(bare, "chromium", "echo no display >&2; exit 3")))
    monkeypatch.setattr("keras_butterfly.export.measurement.devices.chromium.START_SECONDS", 0.2)
    monkeypatch.setattr("keras_butterfly.export.measurement.devices.chromium.STOP_SECONDS", 0.2)
    with pytest.raises(ChromiumError, match="Chromium does not answer"):
        Chromium(str(program(bare, "chromium", "sleep 60")))


@pytest.mark.parametrize(("programs", "message"), [((), r"Node\.js on the PATH"), (("node",), "npm on the PATH")])
def test_setup_without_node_or_npm(bare, programs, message):
    for name in programs:
        program(bare, name)
    with pytest.raises(ValueError, match=message):
        browser_packages.setup(print)


def test_setup_installs_once_and_can_be_undone(bare):
    program(bare, "node")
    program(bare, "npm", 'echo "$@" >> ../../calls; /bin/mkdir -p node_modules/@litertjs/core')
    steps: list[str] = []
    folder = browser_packages.setup(steps.append)
    assert folder == browser_packages.packages_folder() and len(steps) == 2
    assert "sha512-" in (folder / "package-lock.json").read_text()
    assert browser_packages.setup(steps.append) == folder and "already" in steps[-1]
    calls = (folder.parent / "calls").read_text().splitlines()
    assert len(calls) == 1 and calls[0].startswith("ci --ignore-scripts")
    assert browser_packages.remove() == folder and not folder.exists()
    assert browser_packages.remove() is None


def test_setup_that_fails_leaves_nothing(bare):
    program(bare, "node")
    program(bare, "npm", "/bin/mkdir node_modules; echo 'npm error code ENOTFOUND' >&2; exit 1")
    with pytest.raises(ValueError, match=r"It says: code ENOTFOUND\. Check the network"):
        browser_packages.setup(print)
    assert list(browser_packages.cache_folder().parent.iterdir()) == []
