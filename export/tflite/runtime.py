"""Loading and running .tflite files in the stock runtime, ai-edge-litert."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

from keras_butterfly.utils.quiet import silent_libraries

from .operators import operator_names
from .tensorflow_internals import executed_operators

# Run by a new process, which imports neither TensorFlow nor Keras and so starts quickly.
_RUN_ONCE = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
interpreter.invoke()
"""


def partitions(interpreter: Interpreter) -> int:
    """Return the number of pieces of the model that XNNPACK runs. Operators that it cannot run lie between them.

    Entering and leaving a piece takes time, so 1 is best. 0 means that XNNPACK runs nothing.
    """
    return executed_operators(interpreter).count("DELEGATE")


def load(content: bytes, threads: int = 1) -> Interpreter:
    """Load the bytes of a .tflite file, and return an interpreter whose tensors are allocated.

    Raises:
        ValueError: if the runtime cannot load the file.
    """
    try:
        with silent_libraries():  # The runtime notes on stderr that XNNPACK is used.
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"Expected a TFLite model that the stock runtime loads. The runtime says: {error}") from error
    return interpreter


def signature(interpreter: Interpreter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the inputs and of the outputs of the file's signature.

    Raises:
        ValueError: if the file does not have exactly one signature.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(
            "Expected a .tflite file with one signature, as export.to_tflite writes it. "
            f"Received one with the signatures {list(signatures)}"
        )
    (names,) = signatures.values()
    return tuple(names["inputs"]), tuple(names["outputs"])


def check_survives(content: bytes) -> None:
    """Check that the runtime can load and run a file without killing its process.

    The file is run in a new process, because on some int8 operators the runtime aborts instead of raising an error.

    Raises:
        ValueError: if that process dies. The message names the operators of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        done = subprocess.run([sys.executable, "-c", _RUN_ONCE, str(path)], capture_output=True)
    if done.returncode < 0:
        names = ", ".join(sorted(set(operator_names(content))))
        raise ValueError(
            f"Expected a model that the stock runtime runs. It dies of signal {-done.returncode} on this one, of the operators "
            f'{names}. Take quantize="dynamic", or replace the layers that are neither Dense nor butterfly layers.'
        )


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn the runtime's errors into a ValueError until the `with` block ends.

    Args:
        name: the model that runs, in words for the message.
    """
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"Expected a model that the stock runtime runs. Running {name}, it says: {error}") from error


def run(interpreter: Interpreter, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Invoke the model once, and return its outputs by name. Int8 outputs are converted to float.

    Args:
        interpreter: an interpreter of a file with one signature.
        inputs: the inputs by name. Floats are quantized where the model takes int8.

    Raises:
        ValueError: if an input is missing or has the wrong shape, or the runtime cannot run the model.
    """
    runner = interpreter.get_signature_runner()
    typed = typed_inputs(runner, inputs)
    with running("the model"):
        outputs = runner(**typed)
    return readable_outputs(runner, outputs)


def typed_inputs(runner: SignatureRunner, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs of a model in the types that its file takes, by name. Floats are quantized where it takes int8.

    Args:
        runner: what `get_signature_runner` of the model's interpreter returns.
        inputs: the inputs by name.

    Raises:
        ValueError: if an input is missing, or has the wrong shape.
    """
    details = runner.get_input_details()
    if not details.keys() <= inputs.keys():
        raise ValueError(f"Expected the inputs {sorted(details)}. Received: {sorted(inputs)}")
    typed = {}
    for name, detail in details.items():
        value = np.asarray(inputs[name])
        shape = tuple(None if axis < 0 else axis for axis in detail["shape_signature"].tolist())
        if len(value.shape) != len(shape) or any(a is not None and a != b for a, b in zip(shape, value.shape, strict=True)):
            raise ValueError(f"Expected the input '{name}' to have the shape {shape}. Received: {value.shape}")
        typed[name] = _quantized(value, detail)
    return typed


def readable_outputs(runner: SignatureRunner, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model by name. Int8 outputs are converted to float.

    Args:
        runner: what `get_signature_runner` of the model's interpreter returns.
        outputs: the outputs by name, in the types that the file gives.
    """
    return {name: dequantized(outputs[name], detail) for name, detail in runner.get_output_details().items()}


def run_all(interpreter: Interpreter, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Invoke the model once for each batch, and return the outputs by name. The outputs of all batches are concatenated."""
    return joined([run(interpreter, batch) for batch in batches])


def joined(results: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the outputs of several invocations, and return them by name."""
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in results[0]}


def _quantized(value: np.ndarray, detail: dict) -> np.ndarray:
    """Return `value` in the type of a tensor. `detail` is what the interpreter tells of the tensor."""
    scale, zero = detail["quantization"]
    if scale and np.issubdtype(value.dtype, np.floating):
        limits = np.iinfo(detail["dtype"])
        value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
    return value.astype(detail["dtype"])


def dequantized(value: np.ndarray, detail: dict) -> np.ndarray:
    """Return the value of a tensor in float if it is quantized, else as it is.

    Args:
        value: the value of the tensor.
        detail: what the interpreter tells of the tensor, an item of `get_tensor_details()` for example.
    """
    scale, zero = detail["quantization"]
    return ((value.astype(np.float32) - zero) * scale).astype(np.float32) if scale else value
