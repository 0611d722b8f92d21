"""Layers that compute in float32 inside a quantized model; a scope in the names of their operators says which.

With "arithmetic" kept in float32 the weights are stored in int8 all the same. A DEQUANTIZE operator turns them into float32,
which the runtime does once, when it loads the model. It saves quantizing the activations at every call, which for the small
blocks of a butterfly can take longer than all its multiplications, and it rounds nothing but the weights.
"""

import flatbuffers
import numpy as np
import tensorflow as tf

from ..lowering import SCOPES
from .operators import schema, tensor_names
from .quantize import Precision

# TFLite aligns weights so that they can be used where they lie in the file.
_ALIGNMENT = 16
# Of DEQUANTIZE, the first version that takes one scale per channel.
_PER_CHANNEL_VERSION = 5
# The converter leaves weights of fewer values in float32, and so does this module.
_MIN_VALUES = 1024
_CODES = schema.BuiltinOperator
_PRODUCTS = (_CODES.CONV_2D, _CODES.FULLY_CONNECTED, _CODES.BATCH_MATMUL)


def with_float32_layers(content: bytes, precision: Precision) -> bytes:
    """Return the quantized model, with the layers computing in float32 whose lowering asks for it by `keep_float32`.

    `content` is what the converter gives after `Precision.configure` with `keep_float32`: a calibrated float model for "int8",
    a finished one for "dynamic".
    """
    model = _parsed(_quantized_but_kept(content, precision) if precision.name == "int8" else content)
    dequantize = schema.OperatorCodeT(_CODES.DEQUANTIZE, version=_PER_CHANNEL_VERSION, builtinCode=_CODES.DEQUANTIZE)
    model.operatorCodes.append(dequantize)
    for graph in model.subgraphs:
        _dequantize_weights(model, graph, code=len(model.operatorCodes) - 1)
    return _packed(model)


def _quantized_but_kept(calibrated: bytes, precision: Precision) -> bytes:
    # The function below the public QuantizationDebugger, which knows no int8 inputs and needs an operator to debug.
    from tensorflow.lite.python.convert import mlir_quantize

    scopes = SCOPES["arithmetic"], SCOPES["weights"]
    kept = [name for name in tensor_names(calibrated) if _is_within(name, scopes)]
    model = _parsed(calibrated)
    for graph in model.subgraphs:
        products = [operator for operator in graph.operators if _is_product(operator, graph, model, scopes)]
        kept += [graph.tensors[operator.outputs[0]].name.decode() for operator in products]
    io = tf.int8 if precision.integer_io else tf.float32
    return mlir_quantize(calibrated, input_data_type=io, output_data_type=io, denylisted_nodes=kept)


def _dequantize_weights(model, graph, code: int) -> None:
    """Let each product of `graph` that computes in float32 read int8 weights through a DEQUANTIZE operator."""
    operators, restored = [], {}
    for operator in graph.operators:
        in_float32 = graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32
        if in_float32 and _is_product(operator, graph, model, scopes=(SCOPES["arithmetic"],)):
            index = operator.inputs[1]
            weights = graph.tensors[index]
            _round_to_int8(weights, model)
            if index not in restored and weights.type == schema.TensorType.INT8:
                name, shape = weights.name + b"/float32", list(weights.shape)
                graph.tensors.append(schema.TensorT(shape=shape, type=schema.TensorType.FLOAT32, name=name))
                restored[index] = len(graph.tensors) - 1
                operators.append(schema.OperatorT(code, inputs=[index], outputs=[restored[index]]))
            operator.inputs = [operator.inputs[0], restored.get(index, index), *operator.inputs[2:]]
        operators.append(operator)
    graph.operators = operators


def _round_to_int8(weights, model) -> None:
    """Store float32 weights in int8, with one scale for each entry of their first axis, if no other tensor shares them."""
    buffer = model.buffers[weights.buffer]
    sharing = sum(tensor.buffer == weights.buffer for graph in model.subgraphs for tensor in graph.tensors)
    small = np.prod(weights.shape) < _MIN_VALUES
    if weights.type != schema.TensorType.FLOAT32 or buffer.data is None or sharing > 1 or small:
        return
    values = np.frombuffer(bytes(buffer.data), "<f4").reshape(weights.shape)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.round(values / scales.reshape(-1, *[1] * (values.ndim - 1)))
    buffer.data = rounded.astype(np.int8).tobytes()
    weights.type = schema.TensorType.INT8
    weights.quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))


def _is_product(operator, graph, model, scopes: tuple[str, ...]) -> bool:
    """Whether `operator` multiplies by weights of a layer in `scopes`, as the name of the weights or of the result says.

    The result of the model's last operator has the name of the output.
    """
    product = model.operatorCodes[operator.opcodeIndex].builtinCode in _PRODUCTS
    ends = (operator.inputs[1], operator.outputs[0]) if product else ()
    return any(_is_within(graph.tensors[index].name.decode(), scopes) for index in ends)


def _is_within(name: str, scopes: tuple[str, ...]) -> bool:
    return any(f"/{scope}/" in name for scope in scopes)


class _AlignedBuffer(schema.BufferT):
    """A buffer that is written at an address which TFLite can compute from, as the converter's are."""

    def Pack(self, builder):
        if self.data is None:
            return super().Pack(builder)
        data = bytes(self.data)
        builder.Prep(_ALIGNMENT, len(data))
        start = builder.CreateByteVector(data)
        schema.BufferStart(builder)
        schema.BufferAddData(builder, start)
        return schema.BufferEnd(builder)


def _parsed(content: bytes):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))


def _packed(model) -> bytes:
    model.buffers = [_AlignedBuffer(data=buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
