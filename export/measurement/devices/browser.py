"""Timing .tflite files in a headless Chromium, by LiteRT.js, which runs them as WebAssembly in a page."""

import atexit
import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...tflite import runtime
from ..latency import Latency
from . import browser_packages
from .browser_packages import PAGE, SETUP, litert_version, packages_folder
from .chromium import Chromium, PageError, find_chromium
from .host import Host
from .page_server import PageServer

# A timed block lasts about this long: 400 ticks of the clock in a page, which are 5 microseconds.
BLOCK_SECONDS = 2e-3
# V8 compiles WebAssembly again, for speed, while it runs. So many runs were enough for that, and 20 were not. A model that is
# so slow that they take longer than the seconds has run often enough by then.
WARMUP, WARMUP_SECONDS = 2000, 2.0
# The untimed runs are divided into this many blocks, whose fastest one tells how many runs fill a timed block.
WARMUP_BLOCKS = 5


class Browser:
    """A device that runs models in a page of a headless Chromium on this machine.

    Chromium is started when the device is used first, and stays open until `close` is called or Python ends.
    """

    name = "browser"
    needs = f"Chromium, and LiteRT.js, which `{SETUP}` installs by npm"

    def __init__(self, address: str = ""):
        if address:
            raise ValueError(f'Expected the device "browser" without an address. Received: "browser:{address}"')
        self._session: _Session | None = None

    @staticmethod
    def missing() -> str | None:
        """Return what is missing, as a sentence, or None if all is there."""
        try:
            find_chromium()
            packages_folder()
        except ValueError as error:
            return str(error)
        return None

    @staticmethod
    def setup(on_step: Callable[[str], object]) -> None:
        """Install LiteRT.js by npm, and look for Chromium, which the user installs.

        Args:
            on_step: a function that is called with a sentence before each step.

        Raises:
            ValueError: if Node.js, npm or Chromium is missing, or npm fails.
        """
        browser_packages.setup(on_step)
        on_step(f"Chromium is {find_chromium()}.")

    @staticmethod
    def remove() -> Path | None:
        """Remove LiteRT.js, and return the folder it was in. If there is none, return None. Chromium stays."""
        return browser_packages.remove()

    @property
    def runtime(self) -> str:
        """The versions of LiteRT.js and of Chromium."""
        with self._running(self._session is not None and self._session.threaded) as session:
            return f"LiteRT.js {litert_version()}, {session.chromium.version}"

    @property
    def machine(self) -> str:
        return Host().machine

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model, as `Device.measure` says.

        A run costs some 4 microseconds by itself, which are in every figure. At least WARMUP untimed runs are made.
        """
        with self._running(threads > 1) as session:
            numbers, warmed, invocations = {}, {}, {}
            for name, content in models.items():
                numbers[name] = session.load(f"'{name}'", content, _example_inputs(content), threads)
            for name, number in numbers.items():
                warmed[name], invocations[name] = session.warm_up(number, max(warmup, WARMUP))
            seconds: dict[str, list[float]] = {name: [] for name in models}
            for done in range(runs):
                for name, number in numbers.items():
                    seconds[name].append(session.time(number, invocations[name]))
                on_round(done + 1)
            for number in numbers.values():
                session.delete(number)
        return {
            name: Latency(tuple(seconds[name]), invocations[name], warmed[name], threads, self.runtime, self.machine, self.name)
            for name in models
        }

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once, and return its outputs by name, as `Device.predict` says."""
        runner = runtime.load(content).get_signature_runner()
        arrays = runtime.typed_inputs(runner, inputs)
        _check_sizes(runner.get_input_details(), arrays)
        with self._running() as session:
            number = session.load("the model", content, arrays)
            outputs = session.outputs(number)
            session.delete(number)
        details = runner.get_output_details()
        return runtime.readable_outputs(runner, {name: _array(data, details[name]) for name, data in outputs.items()})

    def close(self) -> None:
        """Close Chromium, if it runs."""
        session, self._session = self._session, None
        if session is not None:
            atexit.unregister(self.close)
            session.close()

    @contextmanager
    def _running(self, threaded: bool = False) -> Iterator["_Session"]:
        """Yield a running Chromium. If anything goes wrong, an interrupt too, it is closed.

        After an error the WebAssembly module cannot be trusted, and the next call starts a new one.
        """
        if self._session is not None and self._session.threaded != threaded:
            self.close()
        try:
            if self._session is None:
                atexit.register(self.close)
                self._session = _Session(threaded)
            yield self._session
        except BaseException:
            self.close()
            raise


class _Session:
    """A running Chromium with the page that runs models, and the server of the page.

    Args:
        threaded: whether the page loads the build of LiteRT.js with threads. The other one is faster on one thread.
    """

    def __init__(self, threaded: bool):
        packages, executable = packages_folder(), find_chromium()
        self.threaded = threaded
        self.server = PageServer({"/": PAGE, "/node_modules/": packages / "node_modules"})
        try:
            self.chromium = Chromium(executable)
        except BaseException:
            self.server.close()
            raise
        try:
            self.chromium.open(self.server.url)
            self._call("start", threaded)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.chromium.close()
        self.server.close()

    def load(self, name: str, content: bytes, inputs: Mapping[str, np.ndarray], threads: int = 1) -> int:
        """Load a model, set its inputs, and return the number that stands for it.

        Args:
            name: the model in words, for messages.

        Raises:
            ValueError: if LiteRT.js cannot load it.
        """
        path = self.server.add(content)
        tensors = {
            each: {"shape": value.shape, "data": base64.b64encode(value.tobytes()).decode()} for each, value in inputs.items()
        }
        try:
            return self._call("load", path, threads, tensors)
        except PageError as error:
            raise ValueError(
                f"Expected a TFLite model that LiteRT.js {litert_version()} loads. Loading {name}, it says: {error}"
            ) from error
        finally:
            del self.server.models[path]

    def warm_up(self, number: int, most: int) -> tuple[int, int]:
        """Run a model untimed, and return how often it ran, and how many runs fill a timed block."""
        limits = -(-most // WARMUP_BLOCKS), 1e3 * WARMUP_SECONDS / WARMUP_BLOCKS
        blocks = [self._run("warmUp", number, *limits) for _ in range(WARMUP_BLOCKS)]
        fastest = max(1e-6, min(block["mean"] for block in blocks)) / 1e3
        return sum(block["runs"] for block in blocks), max(1, round(BLOCK_SECONDS / fastest))

    def time(self, number: int, runs: int) -> float:
        """Return the mean seconds of so many runs of a model."""
        return self._run("time", number, runs) / 1e3

    def outputs(self, number: int) -> dict[str, bytes]:
        """Run a model once, and return its outputs, bytes by name."""
        return {name: base64.b64decode(text) for name, text in self._run("outputs", number).items()}

    def delete(self, number: int) -> None:
        """Free the memory of a model."""
        self._call("delete", number)

    def _run(self, function: str, *arguments):
        try:
            return self._call(function, *arguments)
        except PageError as error:
            raise ValueError(
                f"Expected a TFLite model that LiteRT.js {litert_version()} runs. Running it, it says: {error}"
            ) from error

    def _call(self, function: str, *arguments):
        return self.chromium.evaluate(f"runner.{function}({', '.join(map(json.dumps, arguments))})")


def _example_inputs(content: bytes) -> dict[str, np.ndarray]:
    """Return inputs by name: standard normal values for floats, zeros for other types. Axes of any size get size 1."""
    rng, inputs = np.random.default_rng(0), {}
    for name, detail in runtime.load(content).get_signature_runner().get_input_details().items():
        shape = [max(1, axis) for axis in detail["shape_signature"].tolist()]
        value = rng.standard_normal(shape) if np.issubdtype(detail["dtype"], np.floating) else np.zeros(shape)
        inputs[name] = value.astype(detail["dtype"])
    return inputs


def _check_sizes(details: Mapping[str, dict], inputs: Mapping[str, np.ndarray]) -> None:
    """Check that axes of any size, such as the batch, have size 1. LiteRT.js cannot resize a model.

    Raises:
        ValueError: if one has another size.
    """
    for name, detail in details.items():
        flexible = [size for axis, size in zip(detail["shape_signature"], inputs[name].shape, strict=True) if axis < 0]
        if any(size != 1 for size in flexible):
            raise ValueError(
                f"Expected the axes of any size of the input '{name}' to have size 1, which is what LiteRT.js runs. "
                f"Received the shape {inputs[name].shape}. Pass one example at a time, or export with a fixed batch_size."
            )


def _array(data: bytes, detail: dict) -> np.ndarray:
    """Return the bytes of an output as an array. `detail` is what the interpreter tells of the output."""
    shape = [max(1, axis) for axis in detail["shape_signature"].tolist()]
    return np.frombuffer(data, detail["dtype"]).reshape(shape)
