"""A TensorFlow function to the bytes of a .tflite file of built-in operators."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import tensorflow as tf

from keras_butterfly.utils.quiet import quiet_tensorflow

from .mixed_precision import with_float32_layers
from .quantize import Precision

_OUT_OF_MEMORY = (
    "Expected a model that the converter can hold in memory, which takes several times the size of its weights. The memory ran "
    "out. Make the model smaller with replace_dense, or convert on a machine with more memory."
)


def convert(
    function: Callable,
    specs: Sequence[tf.TensorSpec],
    precision: Precision = Precision(),  # noqa: B008 (frozen)
    batches: Sequence[dict[str, np.ndarray]] = (),
    variables: Sequence[tf.Variable] = (),
    keep_float32: bool = False,
) -> bytes:
    """A TensorFlow function, which may read `variables`, to the bytes of a .tflite file of built-in operators.

    `batches` of its inputs calibrate it where the precision is int8; with `keep_float32` some layers of a quantized
    model compute in float32.

    Raises:
        ValueError: naming the operators that TFLite has not built in.
    """

    def by_name(values):
        return function(*(values[spec.name] for spec in specs))

    # A dict keeps names that are no Python identifiers, such as "input-ids".
    signature = [{spec.name: spec for spec in specs}]
    concrete = tf.function(by_name, input_signature=signature, autograph=False).get_concrete_function()
    if precision.name == "int8" and any("While" in operation.type for operation in concrete.graph.get_operations()):
        raise ValueError(
            "Expected a model without loops, which TensorFlow cannot calibrate for int8. Received one with a loop that is no "
            'recurrent layer of Keras. Write the steps one after the other, or take quantize="dynamic".'
        )
    owner = tf.Module()
    owner.weights = list(variables)  # what the function reads must be owned, or the converter drops the signature
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    precision.configure(converter, batches, keep_float32)
    try:
        with _quiet():
            content = converter.convert()
            return with_float32_layers(content, precision) if keep_float32 else content
    except MemoryError as error:
        raise ValueError(_OUT_OF_MEMORY) from error
    except Exception as error:
        if "bad_alloc" in str(error):
            raise ValueError(_OUT_OF_MEMORY) from error
        # The converter raises several private types; whichever, the reader needs the operators it stopped at.
        raise ValueError(
            f"Expected layers that TFLite's built-in operators can express. {_complaint(error)} Replace the layers concerned."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what TensorFlow's converter and the runtime that it calibrates with write on stderr from the user.

    Compiled code writes to file descriptor 2, so that leads nowhere for the while.
    """
    nowhere, kept = os.open(os.devnull, os.O_WRONLY), None
    with suppress(OSError):  # stderr may be closed
        kept = os.dup(2)
    try:
        os.dup2(nowhere, 2)
        with quiet_tensorflow(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.close(nowhere)
        if kept is not None:
            os.dup2(kept, 2)
            os.close(kept)


def _complaint(error: Exception) -> str:
    """The operators that the converter names, or else its first words, without its MLIR dump."""
    named = re.findall(r"(?:Custom|TF Select|Flex) ops: ([^\n]+)", str(error))
    if named:
        return f"There is none for: {', '.join(named)}."
    return f"The converter says: {str(error).splitlines()[0]}"
