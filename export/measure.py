"""Latency of TFLite models on this machine: warmed up, interleaved, raw seconds kept."""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from keras_butterfly.wiring import positive_integer

from .verify import Interpreter, load

# A timed block is sized by the speed of the warm-up to last this long, so that the clock's resolution does not show.
BLOCK_SECONDS = 2e-4


@dataclass(frozen=True)
class Latency:
    """Measured seconds per invocation of one model.

    Attributes:
        seconds: raw measurements: each the mean, in seconds per invocation, over one timed block of invocations.
        invocations: invocations in a block.
        warmup: untimed invocations before the first block.
        threads: of the interpreter.
        runtime: name and version of the runtime.
        machine: processor, as the operating system names it.
    """

    seconds: tuple[float, ...] = field(repr=False)
    invocations: int
    warmup: int
    threads: int
    runtime: str
    machine: str

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        return float(np.percentile(self.seconds, 95))

    @property
    def iqr(self) -> float:
        """The interquartile range, in seconds. Above a tenth of the median the machine was noisy."""
        return float(np.subtract(*np.percentile(self.seconds, [75, 25])))

    def to_dict(self) -> dict:
        """All fields and derived figures, ready for JSON; times in seconds."""
        return {**asdict(self), "median": self.median, "p95": self.p95, "iqr": self.iqr}


def measure(model_or_path, *, threads: int = 1, warmup: int = 50, runs: int = 100, device: str = "host") -> Latency:
    """Latency of one invocation of a TFLite model, set-up and input copy not counted.

    Args:
        model_or_path: a `TFLiteModel`, the bytes of a .tflite file, or a path to one.
        threads: threads of the interpreter.
        warmup: untimed invocations first.
        runs: timed blocks. A block is as many invocations as filled 200 microseconds in the warm-up, at least one.
        device: "host", the machine this runs on.

    Returns:
        A `Latency`, in seconds per invocation.

    Raises:
        ValueError: for a model that cannot be loaded or a setting out of range.
    """
    return measure_all({"model": model_or_path}, threads=threads, warmup=warmup, runs=runs, device=device)["model"]


def measure_all(
    models: Mapping[str, object],
    *,
    threads: int = 1,
    warmup: int = 50,
    runs: int = 100,
    device: str = "host",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Latency]:
    """Like `measure`, for several models in turn, A B C A B C ..., so that drift of the machine's speed hits all alike.

    `progress` is called with the number of rounds done after each.
    """
    if device != "host":
        raise ValueError(f'`device` must be "host". Received: device={device!r}')
    threads, runs = positive_integer(threads, "threads"), positive_integer(runs, "runs")
    warmup = positive_integer(warmup, "warmup")
    interpreters = {name: _prepared(content_of(model), threads) for name, model in models.items()}
    invocations = {name: _block_length(interpreter, warmup) for name, interpreter in interpreters.items()}
    seconds: dict[str, list[float]] = {name: [] for name in interpreters}
    for done in range(runs):
        for name, interpreter in interpreters.items():
            seconds[name].append(_block(interpreter, invocations[name]))
        progress(done + 1)
    return {
        name: Latency(tuple(seconds[name]), invocations[name], warmup, threads, runtime(), machine()) for name in interpreters
    }


def content_of(model) -> bytes:
    """The .tflite bytes of a `TFLiteModel`, of bytes, or of a file.

    Raises:
        ValueError: for anything else, or a path that names no file.
    """
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise ValueError(f"Expected the path of a .tflite file. Received: '{model}', which is no file.")
        return Path(model).read_bytes()
    content = getattr(model, "content", None)
    if not isinstance(content, bytes):
        raise ValueError(
            "Expected a TFLiteModel, the bytes of a .tflite file, or a path to one. "
            f"Received: {type(model).__name__}. Convert a Keras model with export.to_tflite first."
        )
    return content


def runtime() -> str:
    return f"ai-edge-litert {version('ai-edge-litert')}"


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _prepared(content: bytes, threads: int) -> Interpreter:
    """An interpreter with inputs set: standard normal, or zeros where the input is no float."""
    interpreter = load(content, threads)
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        shape, dtype = detail["shape"], detail["dtype"]
        value = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        interpreter.set_tensor(detail["index"], value.astype(dtype))
    return interpreter


def _block_length(interpreter: Interpreter, warmup: int) -> int:
    return max(1, round(BLOCK_SECONDS / _block(interpreter, warmup)))


def _block(interpreter: Interpreter, invocations: int) -> float:
    """Mean seconds per invocation."""
    invoke = interpreter.invoke
    start = time.perf_counter()
    for _ in range(invocations):
        invoke()
    return (time.perf_counter() - start) / invocations
