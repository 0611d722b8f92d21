"""Latency of TFLite models: warmed up, interleaved, raw seconds kept."""

from collections.abc import Callable, Mapping
from pathlib import Path

from keras_butterfly.utils.validation import positive_integer

from . import devices
from .latency import Latency

# More threads than any device has; each costs memory.
MAX_THREADS = 256


def measure(
    model_or_path, *, threads: int = 1, warmup: int = 50, runs: int = 100, device: str | devices.Device = "host"
) -> Latency:
    """Latency of one invocation of a TFLite model, set-up and input copy not counted.

    Args:
        model_or_path: a `TFLiteModel`, the bytes of a .tflite file, or a path to one.
        threads: threads of the interpreter.
        warmup: untimed invocations first.
        runs: timed blocks. A block is as many invocations as filled 200 microseconds in the warm-up, at least one.
        device: "host", the machine this runs on, or a `devices.Device`.

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
    device: str | devices.Device = "host",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Latency]:
    """Like `measure`, for several models in turn, A B C A B C ..., so that drift of the machine's speed hits all alike.

    `progress` is called with the number of rounds done after each.
    """
    threads, runs = positive_integer(threads, "threads"), positive_integer(runs, "runs")
    warmup = positive_integer(warmup, "warmup")
    if threads > MAX_THREADS:
        raise ValueError(f"`threads` must be at most {MAX_THREADS}. Received: threads={threads}")
    contents = {name: content_of(model) for name, model in models.items()}
    return devices.find(device).measure(contents, threads=threads, warmup=warmup, runs=runs, progress=progress)


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
