"""The stock runtime: a .tflite file loaded and run by its signature."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .operators import operator_names

# A program of its own, so that it imports neither TensorFlow nor Keras.
_RUN_ONCE = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
interpreter.invoke()
"""


def partitions(interpreter: Interpreter) -> int:
    """Into how many pieces the stock runtime cuts the model for its XNNPACK delegate; each costs a crossing. 0: it runs
    nothing."""
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


def load(content: bytes, threads: int = 1) -> Interpreter:
    """An interpreter with its tensors allocated.

    Raises:
        ValueError: if `content` is no TFLite model that the runtime can load.
    """
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"Expected a TFLite model that the stock runtime loads. The runtime says: {error}") from error
    return interpreter


def signature(interpreter: Interpreter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and outputs of the file's one signature.

    Raises:
        ValueError: if it has none, or several.
    """
    found = interpreter.get_signature_list()
    if len(found) != 1:
        raise ValueError(f"Expected a .tflite file with one signature, as to_tflite writes it. Received: {list(found)}")
    (names,) = found.values()
    return tuple(names["inputs"]), tuple(names["outputs"])


def check_survives(content: bytes) -> None:
    """Loads and runs the model in a process of its own: on some int8 operators the runtime aborts instead of giving an error.

    Raises:
        ValueError: if that process dies.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        done = subprocess.run([sys.executable, "-c", _RUN_ONCE, str(path)], capture_output=True)
    if done.returncode < 0:
        names = ", ".join(sorted(set(operator_names(content))))
        raise ValueError(
            f"Expected a model that the stock runtime runs. It dies of signal {-done.returncode} on this one, of the operators "
            f'{names}. Try quantize="dynamic", or replace the layers that are not dense or butterfly ones.'
        )


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn what the runtime raises of a model that it loads but cannot run into a ValueError that says so."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"Expected a model that the stock runtime runs. Running {name}, it says: {error}") from error


def run(interpreter: Interpreter, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One invocation of the model's signature: input values by name to output values by name, in float where they are int8.

    Raises:
        ValueError: for an input of the wrong shape.
    """
    runner = interpreter.get_signature_runner()
    typed = {}
    for name, detail in runner.get_input_details().items():
        value = np.asarray(inputs[name])
        shape = tuple(None if axis < 0 else axis for axis in detail["shape_signature"].tolist())
        if len(value.shape) != len(shape) or any(a is not None and a != b for a, b in zip(shape, value.shape, strict=True)):
            raise ValueError(f"Input '{name}' takes the shape {shape}. Received: {value.shape}")
        typed[name] = _quantized(value, detail)
    with running("the model"):
        outputs = runner(**typed)
    return {name: _dequantized(outputs[name], detail) for name, detail in runner.get_output_details().items()}


def run_all(interpreter: Interpreter, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """`run` for every batch; the outputs by name, those of all batches joined."""
    return joined([run(interpreter, batch) for batch in batches])


def joined(results: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Outputs by name, those of all `results` one after the other."""
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in results[0]}


def _quantized(value: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    if scale and np.issubdtype(value.dtype, np.floating):
        limits = np.iinfo(detail["dtype"])
        value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
    return value.astype(detail["dtype"])


def _dequantized(value: np.ndarray, detail: dict) -> np.ndarray:
    scale, zero = detail["quantization"]
    return ((value.astype(np.float32) - zero) * scale).astype(np.float32) if scale else value
