"""Converting a TensorFlow function to a .tflite file."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_butterfly.utils.quiet import silent_libraries
from keras_butterfly.utils.validation import reason_of

from .mixed_precision import has_float32_parts, with_float32_layers
from .operators import check_ranges
from .quantize import Precision
from .tensorflow_internals import quantize_calibrated

# What the graph of a model takes beside its weights.
_OTHER_TEMPORARY_BYTES = 2**20
_OUT_OF_MEMORY = (
    "Expected a model that fits into memory during the conversion, which takes several times the size of its weights. "
    "The memory ran out. Make the model smaller with replace_dense, or convert it on a machine with more memory."
)


def convert(
    function: Callable,
    specs: Sequence[tf.TensorSpec],
    precision: Precision = Precision(),  # noqa: B008 (frozen)
    batches: Sequence[dict[str, np.ndarray]] = (),
    variables: Sequence[tf.Variable] = (),
    keep_float32: bool = False,
) -> bytes:
    """Convert a TensorFlow function to the bytes of a .tflite file of built-in operators.

    Args:
        function: a function that takes a tensor for each item of `specs` and returns a tensor or a dict of tensors.
        specs: shape, dtype and signature name of each input.
        precision: how weights and activations are stored.
        batches: the data that the ranges of "int8" come from. Each batch is a dict of the inputs by name.
        variables: the variables that the function reads.
        keep_float32: whether layers of a quantized model compute in float32 where their lowering says so.

    Raises:
        ValueError: if the function needs operators that TFLite has not built in (the message names them), has a loop although
            the precision is "int8", computes infinite values on `batches` although the precision is "int8", or does not fit
            into memory.
    """

    def call_by_name(values):
        return function(*(values[spec.name] for spec in specs))

    # A signature of one dict keeps names that are no Python identifiers, such as "input-ids".
    signature = [{spec.name: spec for spec in specs}]
    concrete = tf.function(call_by_name, input_signature=signature, autograph=False).get_concrete_function()
    if precision.name == "int8" and any("While" in operation.type for operation in concrete.graph.get_operations()):
        raise ValueError(
            "Expected a model without loops, which TensorFlow cannot calibrate for int8. Received one with a loop that is no "
            'recurrent layer of Keras. Write the steps one after the other, or take quantize="dynamic".'
        )
    owner = tf.Module()
    owner.weights = list(variables)  # Without an owner of the variables the converter drops the signature.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    # Nothing reads these metadata, and to write them TensorFlow takes the whole file apart, in Python.
    converter.exclude_conversion_metadata = True
    precision.configure(converter, batches)
    _check_room(sum(variable.shape.num_elements() * variable.dtype.size for variable in variables))
    content = _run(converter.convert)
    if precision.name == "int8":
        check_ranges(content)  # TensorFlow dies of infinite ranges when it quantizes.
    has_parts = precision.name in ("int8", "dynamic") and has_float32_parts(content, precision)
    if keep_float32 or has_parts:
        # What the converter has rounded already in "dynamic" is read from a second conversion.
        exact = convert(function, specs, variables=variables) if has_parts and precision.name == "dynamic" else None
        return _run(with_float32_layers, content, precision, exact)
    return _run(quantize_calibrated, content, precision.integer_io, ()) if precision.name == "int8" else content


def _check_room(weight_bytes: int) -> None:
    """Raise an OSError if the folder of temporary files has no room for a model with weights of this size.

    TensorFlow's converter hides that its temporary files could not be written. It goes wrong later, or leaves the signature
    out.
    """
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < weight_bytes + _OTHER_TEMPORARY_BYTES:
        reason = f"could not write the temporary files of the conversion: {os.strerror(errno.ENOSPC)}"
        raise OSError(errno.ENOSPC, f"{reason}. Free some space in the folder", folder)


def _run(step: Callable[..., bytes], *arguments) -> bytes:
    """Run one step of TensorFlow's converter. Its errors become a ValueError that says what to do."""
    try:
        with silent_libraries():
            return step(*arguments)
    except MemoryError as error:
        raise ValueError(_OUT_OF_MEMORY) from error
    except Exception as error:
        if "bad_alloc" in str(error):
            raise ValueError(_OUT_OF_MEMORY) from error
        # The converter raises several private types. For all of them the operators at which it stopped matter most.
        raise ValueError(f"Expected layers that TFLite's built-in operators can express. {_complaint(error)}") from error


def _complaint(error: Exception) -> str:
    """Return the operators that the converter's error names, with advice. If it names none, quote the first line."""
    named = re.findall(r"(?:Custom|TF Select|Flex) ops: ([^\n]+)", str(error))
    if named:
        return f"There is none for: {', '.join(named)}. Replace the layers concerned."
    # Where the error names an operation of TensorFlow, a layer is the cause.
    advice = " Replace the layers concerned." if "'tf." in str(error) else ""
    return f"The converter says: {reason_of(error)}.{advice}"
