"""Measuring TFLite models on a device: their latency, or the counts of an emulated processor."""

from collections.abc import Callable, Mapping
from pathlib import Path

from keras_butterfly.utils.validation import integer_up_to

from . import devices
from .counts import Counts
from .latency import Latency

# More threads than any device has. Each thread costs memory. More runs than a user waits for.
MAX_THREADS, MAX_RUNS = 256, 1_000_000


def measure(
    model_or_path, *, threads: int = 1, warmup: int = 50, runs: int = 100, device: str | devices.Device = "host"
) -> Latency | Counts:
    """Measure one invocation of a TFLite model. Loading the file and copying the inputs are not measured.

    Args:
        model_or_path: a `TFLiteModel`, the bytes of a .tflite file, or a path to such a file.
        threads: number of threads of the interpreter.
        warmup: number of untimed invocations before the first timed block.
        runs: number of timed blocks. A block is as many invocations as filled 200 microseconds in the warm-up, at least one.
        device: "host", the machine that runs this process; another name that `keras-butterfly devices` lists, such as "arm64";
            or an object like `devices.Device`.

    Returns:
        A `Latency`, in seconds per invocation. From a device that counts instead, which "arm64" does, a `Counts`.

    Raises:
        ValueError: if the model cannot be loaded or run, an argument is out of range, or the device is not ready.

    Example:
        >>> model = keras.Sequential([keras.Input((16,)), Butterfly(seed=0)])
        >>> latency = export.measure(export.to_tflite(model, effort="estimate"), runs=10)
        >>> len(latency.seconds), latency.median < 1
        (10, True)
    """
    return measure_all({"model": model_or_path}, threads=threads, warmup=warmup, runs=runs, device=device)["model"]


def measure_all(
    models: Mapping[str, object],
    *,
    threads: int = 1,
    warmup: int = 50,
    runs: int = 100,
    device: str | devices.Device = "host",
    on_round: Callable[[int], None] = lambda rounds_done: None,
) -> Mapping[str, Latency | Counts]:
    """Measure several TFLite models, and return the latencies, or the counts, by name.

    The models take turns, A B C A B C ..., so that a change of the machine's speed affects all of them alike.

    Args:
        models: name -> `TFLiteModel`, bytes of a .tflite file, or a path to such a file.
        threads, warmup, runs, device: as for `measure`.
        on_round: a function to call after each round with the number of rounds that are done. Each model has one timed block in
            a round.

    Raises:
        ValueError: as `measure`.
    """
    check_extent(threads, warmup, runs)
    contents = {name: content_of(model) for name, model in models.items()}
    return devices.find(device).measure(contents, threads=threads, warmup=warmup, runs=runs, on_round=on_round)


def check_extent(threads: int = 1, warmup: int = 1, runs: int = 1) -> None:
    """Check the arguments that say how long and with how many threads is measured.

    Raises:
        ValueError: if one is no positive integer, or is absurdly large.
    """
    limits = (("threads", threads, MAX_THREADS), ("warmup", warmup, MAX_RUNS), ("runs", runs, MAX_RUNS))
    for name, value, most in limits:
        integer_up_to(value, name, most)


def content_of(model) -> bytes:
    """Return the bytes of the .tflite file that `model` stands for.

    Args:
        model: a `TFLiteModel`, the bytes themselves, or a path to the file.

    Raises:
        ValueError: if `model` is none of these, no file is at the path, or the file is a Keras model.
    """
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise ValueError(f"Expected the path of a .tflite file. Received: '{model}', which is no file.")
        if Path(model).suffix in (".keras", ".h5"):
            raise ValueError(
                f"Expected a .tflite file. Received a file of Keras: '{model}'. Convert it first, with export.to_tflite or the "
                "command keras-butterfly export."
            )
        try:
            return Path(model).read_bytes()
        except OSError as error:
            raise ValueError(f"Expected a .tflite file that can be read. Received '{model}': {error.strerror}.") from error
    content = getattr(model, "content", None)
    if not isinstance(content, bytes):
        raise ValueError(
            "Expected a TFLiteModel, the bytes of a .tflite file, or a path to such a file. "
            f"Received: {type(model).__name__}. Convert a Keras model with export.to_tflite first."
        )
    return content
