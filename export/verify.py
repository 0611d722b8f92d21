"""What is inside a .tflite file, and whether it computes what Keras computes."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

# How far the sum of an output may be from 1 to count as probabilities.
SUM_TOLERANCE = 1e-3
_BUILTIN_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


# A program of its own, so that it imports neither TensorFlow nor Keras.
_RUN_ONCE = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
interpreter.invoke()
"""


class ParityError(ValueError):
    """The exported model disagrees with the Keras model beyond the tolerance."""

    exit_code = 1  # of the command line: the input was good, the result is not


@dataclass(frozen=True)
class OutputParity:
    """How far one output of an export is from Keras's on the same inputs.

    Attributes:
        name: of the output.
        max_error: the largest absolute difference of any value.
        relative_error: that difference divided by the largest absolute value that Keras gives.
        agreement: if the output looks like classes, the part of the examples, 0 .. 1, in which both decide for the same class
            (the largest value). None for other outputs.
    """

    name: str
    max_error: float
    relative_error: float
    agreement: float | None


@dataclass(frozen=True)
class Parity:
    """How far an export is from Keras on the same inputs.

    Attributes:
        outputs: the figures of each output.
        examples: number of examples compared.
        inputs: what these examples are, in words: random inputs, the representative data, or a part of them.
    """

    outputs: tuple[OutputParity, ...]
    examples: int
    inputs: str = "the given inputs"

    @property
    def max_error(self) -> float:
        """The largest absolute difference of any value of any output."""
        return max((output.max_error for output in self.outputs), default=0.0)

    @property
    def relative_error(self) -> float:
        """The relative error of the worst output."""
        return max((output.relative_error for output in self.outputs), default=0.0)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of the outputs that look like classes, or None if none does."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    def to_dict(self) -> dict:
        """Return all figures, ready for JSON."""
        overall = {name: getattr(self, name) for name in ("max_error", "relative_error", "agreement")}
        return {**overall, **asdict(self)}


def operators(content: bytes) -> tuple[str, ...]:
    """The operators of all subgraphs in the order of execution; custom ones as "CUSTOM <name>"."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return tuple(
        _operator_name(model.operatorCodes[op.opcodeIndex]) for graph in model.subgraphs for op in graph.operators or []
    )


def tensor_names(content: bytes) -> list[str]:
    """The names of all tensors that an operator computes."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return [
        graph.tensors[index].name.decode() for graph in model.subgraphs for op in graph.operators or [] for index in op.outputs
    ]


def partitions(interpreter: Interpreter) -> int:
    """Into how many pieces the stock runtime cuts the model for its XNNPACK delegate; each costs a crossing. 0: it runs
    nothing."""
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


def check_builtin(content: bytes) -> tuple[str, ...]:
    """The operators of `content`, all built in.

    Raises:
        ValueError: naming the operators that are not.
    """
    names = operators(content)
    foreign = sorted({name for name in names if name.startswith("CUSTOM")})
    if foreign:
        raise ValueError(
            f"Expected TFLite's built-in operators only, so that the stock runtime loads the model. Received: {foreign}. "
            "Replace the layers that need them."
        )
    return names


def counted(names: Sequence[str]) -> str:
    """For example "FULLY_CONNECTED 2, RESHAPE 1"."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


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
        names = ", ".join(sorted(set(operators(content))))
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


def compare_outputs(
    expected: Sequence[np.ndarray],
    actual: Sequence[np.ndarray],
    names: Sequence[str] | None = None,
    inputs: str = "the given inputs",
    logits: bool = False,
) -> Parity:
    """Return the parity of pairs of outputs. A value that is not finite on one side only counts as an infinite error.

    Args:
        expected, actual: the outputs of Keras and of the export.
        names: of the outputs. Default: output_0, output_1, ...
        inputs: what the outputs were computed from, in words.
        logits: whether outputs are classes even if they are no probabilities.

    Raises:
        ParityError: for outputs of different shapes.
    """
    names = names or [f"output_{index}" for index in range(len(expected))]
    compared = [_compare_output(*each, logits) for each in zip(names, expected, actual, strict=True)]
    return Parity(tuple(compared), len(expected[0]) if np.ndim(expected[0]) else 1, inputs)


def _compare_output(name: str, expected, actual, logits: bool) -> OutputParity:
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if expected.shape != actual.shape:
        raise ParityError(f"Keras gives the output '{name}' the shape {expected.shape}, the exported model {actual.shape}.")
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(expected - actual))
    largest = float(np.max(np.nan_to_num(error, nan=np.inf), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    agreement = float(np.mean(expected.argmax(-1) == actual.argmax(-1))) if _are_classes(expected, logits) else None
    return OutputParity(name, largest, largest / scale if scale else largest, agreement)


def _are_classes(output: np.ndarray, logits: bool) -> bool:
    """Return whether an output holds probabilities over its last axis, or any values if they may be `logits`."""
    if output.ndim < 2 or output.shape[-1] < 2 or not output.size or not np.all(np.isfinite(output)):
        return False
    return logits or bool(output.min() >= 0 and np.abs(output.sum(-1) - 1).max() < SUM_TOLERANCE)


def _operator_name(code) -> str:
    # Files before schema 3a keep small codes in the older field.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM {code.customCode.decode()}"
    return _BUILTIN_NAMES[builtin]
