"""Letting some layers of a quantized model compute in float32.

A butterfly computes in float32 where the planner has chosen so. The lowering of such a layer has `keep_float32` set. The
layer's operators are in one of `SCOPES`, by which they are recognized here. For "weights" the weights stay in float32 as well.
For "arithmetic" they are stored in int8, and a DEQUANTIZE operator converts them to float32. The runtime runs this operator
once, when it loads the model.

This saves quantizing the activations at every invocation, which for the small blocks of a butterfly can take longer than all
its multiplications. It is also more exact, because only the weights are rounded.

In int8 the head of a classifier, the product whose sums a softmax turns into the outputs, computes in float32 where these sums
have a wide range. One step of int8 would change the odds of two classes too much.
"""

from collections.abc import Iterator

import flatbuffers
import numpy as np

from ..lowering import SCOPES
from .operators import read_model, schema, tensor_names
from .quantize import Precision
from .tensorflow_internals import quantize_calibrated

# The runtime uses weights in place, where they lie in the file, and needs them at multiples of so many bytes.
_ALIGNMENT = 16
# The first version of the operator DEQUANTIZE that takes one scale per channel.
_PER_CHANNEL_VERSION = 5
# Weights of fewer values stay in float32, as in the converter.
_MIN_VALUES = 1024
_CODES = schema.BuiltinOperator
_PRODUCTS = (_CODES.CONV_2D, _CODES.FULLY_CONNECTED, _CODES.BATCH_MATMUL)
# The largest step of int8 for the sums that enter the softmax of an output. It changes the odds of two classes by exp(0.25).
MAX_STEP = 0.25


def with_float32_layers(content: bytes, precision: Precision) -> bytes:
    """Return the quantized file, in which the layers whose lowering has `keep_float32` compute in float32.

    Args:
        content: the bytes that the converter returned after `Precision.configure`: a calibrated model in float32 for "int8", a
            quantized model for "dynamic".
        precision: "int8" or "dynamic".
    """
    model = read_model(_quantize_other_layers(content, precision) if precision.name == "int8" else content)
    dequantize = schema.OperatorCodeT(_CODES.DEQUANTIZE, version=_PER_CHANNEL_VERSION, builtinCode=_CODES.DEQUANTIZE)
    model.operatorCodes.append(dequantize)
    for graph in model.subgraphs:
        # In "dynamic" the sums of a head are in float32 anyway.
        heads = [product for product, _ in _heads(graph, model)] if precision.name == "int8" else []
        _dequantize_weights(model, graph, heads, code=len(model.operatorCodes) - 1)
    return _packed(model)


def has_wide_heads(calibrated: bytes) -> bool:
    """Return whether a calibrated model has a head that `with_float32_layers` keeps in float32."""
    model = read_model(calibrated)
    return any(True for graph in model.subgraphs for head in _heads(graph, model) if _is_wide(head, graph))


def _quantize_other_layers(calibrated: bytes, precision: Precision) -> bytes:
    """Quantize a calibrated model to int8, but leave wide heads and layers with `keep_float32` in float32.

    If the outputs are int8, the heads are too.
    """
    scopes = SCOPES["arithmetic"], SCOPES["weights"]
    kept = [name for name in tensor_names(calibrated) if _is_within(name, scopes)]
    model = read_model(calibrated)
    for graph in model.subgraphs:
        operators = [operator for operator in graph.operators if _is_product(operator, graph, model, scopes)]
        if not precision.integer_io:
            operators += [operator for head in _heads(graph, model) if _is_wide(head, graph) for operator in head]
        kept += [graph.tensors[operator.outputs[0]].name.decode() for operator in operators]
    return quantize_calibrated(calibrated, precision.integer_io, kept)


def _heads(graph, model) -> Iterator[tuple]:
    """Yield the product and the softmax of each output of `graph` that is made by these two operators."""
    makers = {index: operator for operator in graph.operators for index in operator.outputs}
    for index in graph.outputs:
        softmax = makers.get(index)
        product = makers.get(softmax.inputs[0]) if softmax is not None and _code(softmax, model) == _CODES.SOFTMAX else None
        if product is not None and _code(product, model) in _PRODUCTS:
            yield product, softmax


def _is_wide(head: tuple, graph) -> bool:
    """Return whether one step of int8 is too large for the sums of a head in a calibrated model."""
    ranges = graph.tensors[head[0].outputs[0]].quantization
    return ranges is not None and ranges.max is not None and (max(*ranges.max, 0) - min(*ranges.min, 0)) / 255 > MAX_STEP


def _code(operator, model) -> int:
    """Return the code of an operator."""
    return model.operatorCodes[operator.opcodeIndex].builtinCode


def _dequantize_weights(model, graph, heads: list, code: int) -> None:
    """Store the weights of each product that computes in float32 in int8, and insert a DEQUANTIZE operator that restores them.

    Args:
        model: the model, a `ModelT`, which is changed.
        graph: one of its subgraphs.
        heads: the products of heads, of which those on float32 values count.
        code: the index of DEQUANTIZE in `model.operatorCodes`.
    """
    operators, restored = [], {}  # `restored`: index of the int8 tensor -> index of the float32 tensor
    for operator in graph.operators:
        in_float32 = graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32
        kept = any(operator is head for head in heads) or _is_product(operator, graph, model, (SCOPES["arithmetic"],))
        if in_float32 and kept:
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
    """Store a float32 tensor of weights in int8, with one scale for each entry of its first axis.

    Small tensors, and tensors that share their buffer with others, stay as they are.
    """
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
    """Return whether `operator` multiplies by the weights of a layer in one of `scopes`.

    The name of the weights or of the result tells. The result alone is not enough: that of the model's last operator has the
    name of the output.
    """
    product = _code(operator, model) in _PRODUCTS
    ends = (operator.inputs[1], operator.outputs[0]) if product else ()
    return any(_is_within(graph.tensors[index].name.decode(), scopes) for index in ends)


def _is_within(name: str, scopes: tuple[str, ...]) -> bool:
    """Return whether the name of a tensor has one of `scopes` among its parts."""
    return any(f"/{scope}/" in name for scope in scopes)


class _AlignedBuffer(schema.BufferT):
    """A buffer that is written at a multiple of 16 bytes, so that the runtime can use its weights in place."""

    def Pack(self, builder):
        if self.data is None:
            return super().Pack(builder)
        data = bytes(self.data)
        builder.Prep(_ALIGNMENT, len(data))
        start = builder.CreateByteVector(data)
        schema.BufferStart(builder)
        schema.BufferAddData(builder, start)
        return schema.BufferEnd(builder)


def _packed(model) -> bytes:
    """Return a `ModelT` as the bytes of a .tflite file."""
    model.buffers = [_AlignedBuffer(data=buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
