"""Every use of a private or experimental name of TensorFlow and of LiteRT.

Each function notes the versions in which the name was seen. All of them work with TensorFlow 2.18.1 and 2.21.0, and with
ai-edge-litert 1.2.0 and 2.3.0. After an update of these packages, look here first.
"""

import warnings
from collections.abc import Sequence

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter


def set_calibrate_only(converter: tf.lite.TFLiteConverter) -> None:
    """Set the converter up to record the ranges of an int8 model but to leave all weights and activations in float32.

    Private: `TFLiteConverter._experimental_calibrate_only` (TensorFlow 2.18.1 and 2.21.0).
    """
    converter._experimental_calibrate_only = True


def quantize_calibrated(calibrated: bytes, integer_io: bool, float32_tensors: Sequence[str]) -> bytes:
    """Quantize a calibrated model to int8, and leave some of its operators in float32.

    This is the function below the public `tf.lite.experimental.QuantizationDebugger`. The class itself cannot make int8 inputs
    and outputs, and refuses a model without an operator to debug.

    Private: `tensorflow.lite.python.convert.mlir_quantize` (TensorFlow 2.18.1 and 2.21.0).

    Args:
        calibrated: the bytes of a .tflite file that was converted after `set_calibrate_only`.
        integer_io: whether the inputs and outputs become int8 as well.
        float32_tensors: the names of the output tensors of the operators that stay in float32.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    io_type = tf.int8 if integer_io else tf.float32
    return mlir_quantize(calibrated, input_data_type=io_type, output_data_type=io_type, denylisted_nodes=list(float32_tensors))


def executed_operators(interpreter: Interpreter) -> list[str]:
    """Return the names of the operators that the runtime executes. Each part that XNNPACK runs counts as one, "DELEGATE".

    Private: `Interpreter._get_ops_details` (ai-edge-litert 1.2.0 and 2.3.0).
    """
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


def interpreter_that_keeps_tensors(content: bytes) -> Interpreter:
    """Return an interpreter that keeps the values of all tensors after an invocation, not only those of the outputs.

    Experimental: the argument `experimental_preserve_all_tensors`, which warns that it may go (ai-edge-litert 1.2.0 and 2.3.0).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors", category=UserWarning)
        return Interpreter(model_content=content, experimental_preserve_all_tensors=True)


def field_position(table, field_offset: int) -> int:
    """Return where in its buffer a field of a flatbuffer table is stored.

    Private: `_tab` of the classes in `ai_edge_litert.schema_py_generated` (ai-edge-litert 1.2.0 and 2.3.0).

    Args:
        table: an object of one of these classes, such as a `Tensor`.
        field_offset: the offset of the field in the table's vtable, as the generated code has it.
    """
    return table._tab.Pos + table._tab.Offset(field_offset)
