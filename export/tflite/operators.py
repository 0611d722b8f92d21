"""The operators in a .tflite file, and the check that all of them are built into the stock runtime."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .graph import read_model, schema

# TensorFlow computes the scales of int8 in float32, and dies of larger values than this.
MAX_RANGE = 1e37

_BUILTIN_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def operator_names(content: bytes) -> tuple[str, ...]:
    """Return the names of the operators of all subgraphs in the order of execution. A custom one is "CUSTOM <name>"."""
    model = read_model(content)
    return tuple(
        operator_name(model.operatorCodes[op.opcodeIndex]) for graph in model.subgraphs for op in graph.operators or []
    )


def tensor_names(content: bytes) -> list[str]:
    """Return the names of all tensors that operators compute, in the order of execution."""
    model = read_model(content)
    return [
        graph.tensors[index].name.decode() for graph in model.subgraphs for op in graph.operators or [] for index in op.outputs
    ]


def check_builtin(content: bytes) -> tuple[str, ...]:
    """Check that all operators of a file are built in, and return their names in the order of execution.

    Raises:
        ValueError: if the file has custom operators. The message names them.
    """
    names = operator_names(content)
    custom = sorted({name for name in names if name.startswith("CUSTOM")})
    if custom:
        raise ValueError(
            f"Expected TFLite's built-in operators only, so that the stock runtime loads the model. Received: {custom}. "
            "Replace the layers that need them."
        )
    return names


def count_operators(names: Sequence[str]) -> str:
    """Return how often each operator occurs, the most frequent first, for example "FULLY_CONNECTED 2, RESHAPE 1"."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def operator_name(code) -> str:
    """Return the name of an operator by its `OperatorCode`."""
    # Before version 3a of the schema, files kept small codes in another field.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM {code.customCode.decode()}"
    return _BUILTIN_NAMES[builtin]


def check_ranges(calibrated: bytes) -> None:
    """Check that all ranges of a calibrated model are finite.

    Raises:
        ValueError: if a tensor took infinite values or NaN on the representative data. The message names it.
    """
    model = read_model(calibrated)
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        ranges = tensor.quantization
        limits = [] if ranges is None else [*_listed(ranges.min), *_listed(ranges.max)]
        if not np.all(np.abs(np.asarray(limits, np.float64)) <= MAX_RANGE):
            raise ValueError(
                "Expected finite values inside the model on the representative data, from which int8 takes its ranges. The "
                f"tensor '{tensor.name.decode()}' takes values up to {np.max(np.abs(limits)):.3g}. Change the layer that "
                'computes it, for example by clipping, or take quantize="dynamic".'
            )


def _listed(values) -> list:
    return [] if values is None else list(values)
