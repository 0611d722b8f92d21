"""Letting some layers of a quantized model compute in float32.

A butterfly computes in float32 where the planner has chosen so. The lowering of such a layer has `keep_float32` set. The
layer's operators are in one of `SCOPES`, by which they are recognized here. For "weights" the weights stay in float32 as well.
For "arithmetic" they are stored in int8, and a DEQUANTIZE operator converts them to float32. The runtime runs this operator
once, when it loads the model.

This saves quantizing the activations at every invocation, which for the small blocks of a butterfly can take longer than all
its multiplications. It is also more exact, because only the weights are rounded.

In int8 the head of a classifier, the product whose sums a softmax turns into the outputs, computes in float32 where these sums
have a wide range. One step of int8 would change the odds of two classes too much.

What a logarithm is computed from is in float32 too, in both precisions: the two products before it, and what lies between them
and the logarithm. These are the transform of a waveform and the sums of its energies in bands, which span many powers of ten.
The logarithm needs the small energies, for which one step of int8 is too large. The weights of the sums stay in float32 as
well, because a small weight counts where it multiplies a large energy.
"""

from collections.abc import Iterator
from typing import NamedTuple

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
# How many products before a logarithm compute in float32.
_PRODUCTS_BEFORE_LOGARITHM = 2
# Operators with an exponential, which the logarithm undoes. What is before them need not be exact.
_EXPONENTIALS = (_CODES.SOFTMAX, _CODES.LOGISTIC, _CODES.EXP)


class _Logarithm(NamedTuple):
    """What a logarithm is computed from.

    Attributes:
        operators: the logarithm, the two products before it, and what is between them.
        sums: the products that the logarithm is taken of.
    """

    operators: list
    sums: list


def with_float32_layers(content: bytes, precision: Precision, exact: bytes | None = None) -> bytes:
    """Return the quantized file, in which the layers whose lowering has `keep_float32` compute in float32.

    Args:
        content: the bytes that the converter returned after `Precision.configure`: a calibrated model in float32 for "int8", a
            quantized model for "dynamic".
        precision: "int8" or "dynamic".
        exact: the same model in float32. Without it, the sums before a logarithm have rounded weights in "dynamic".
    """
    model = read_model(_quantize_other_layers(content, precision) if precision.name == "int8" else content)
    dequantize = schema.OperatorCodeT(_CODES.DEQUANTIZE, version=_PER_CHANNEL_VERSION, builtinCode=_CODES.DEQUANTIZE)
    model.operatorCodes.append(dequantize)
    for graph in model.subgraphs:
        # In "dynamic" the sums of a head are in float32 anyway.
        heads = [product for product, _ in _heads(graph, model)] if precision.name == "int8" else []
        logarithms = _logarithms(graph, model)
        sums = [each for logarithm in logarithms for each in logarithm.sums]
        if exact is not None:
            _restore_weights(model, graph, sums, read_model(exact))
        outside = [each for logarithm in logarithms for each in logarithm.operators if not _is_one_of(each, sums)]
        _dequantize_weights(model, graph, [*heads, *outside], code=len(model.operatorCodes) - 1)
    return _packed(model)


def has_float32_parts(content: bytes, precision: Precision) -> bool:
    """Return whether `with_float32_layers` keeps more than layers in float32: wide heads, or what is before a logarithm.

    Args:
        content: the bytes that the converter returned, as for `with_float32_layers`.
        precision: "int8" or "dynamic".
    """
    model = read_model(content)
    return any(_wide_heads(graph, model, precision) or _logarithms(graph, model) for graph in model.subgraphs)


def has_logarithms(content: bytes) -> bool:
    """Return whether `with_float32_layers` keeps what is before a logarithm in float32."""
    model = read_model(content)
    return any(_logarithms(graph, model) for graph in model.subgraphs)


def _quantize_other_layers(calibrated: bytes, precision: Precision) -> bytes:
    """Quantize a calibrated model to int8, but leave its float32 parts and layers with `keep_float32` in float32."""
    scopes = SCOPES["arithmetic"], SCOPES["weights"]
    kept = [name for name in tensor_names(calibrated) if _is_within(name, scopes)]
    model = read_model(calibrated)
    for graph in model.subgraphs:
        operators = [operator for operator in graph.operators if _is_product(operator, graph, model, scopes)]
        operators += _wide_heads(graph, model, precision)
        operators += [each for logarithm in _logarithms(graph, model) for each in logarithm.operators]
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


def _wide_heads(graph, model, precision: Precision) -> list:
    """Return the operators of the heads for whose sums one step of int8 is too large. With int8 outputs there are none."""
    if precision.name != "int8" or precision.integer_io:
        return []
    return [operator for head in _heads(graph, model) if _step(head[0].outputs[0], graph) > MAX_STEP for operator in head]


def _logarithms(graph, model) -> list[_Logarithm]:
    """Return the logarithms of sums of which some are too small for a step of int8. Without ranges it is all logarithms."""
    makers = {index: operator for operator in graph.operators for index in operator.outputs}
    logarithms = [operator for operator in graph.operators if _code(operator, model) == _CODES.LOG]
    wide = [each for each in logarithms if _step(each.inputs[0], graph) > MAX_STEP * _least(each.inputs[0], graph)]
    found = [_before(logarithm, makers, model) for logarithm in wide]
    return [logarithm for logarithm in found if logarithm.sums]


def _before(logarithm, makers: dict, model) -> _Logarithm:
    """Return what a logarithm is computed from, with `makers`, the operator that makes each tensor, by its index."""
    found: list = []
    sums: list = []

    def add(operator, products: int) -> None:
        if operator is None or not products or _is_one_of(operator, found) or _code(operator, model) in _EXPONENTIALS:
            return
        found.append(operator)
        is_product = _code(operator, model) in _PRODUCTS
        if is_product and products == _PRODUCTS_BEFORE_LOGARITHM:
            sums.append(operator)
        for index in operator.inputs:
            add(makers.get(index), products - is_product)

    add(logarithm, _PRODUCTS_BEFORE_LOGARITHM)
    return _Logarithm(found, sums)


def _is_one_of(operator, operators: list) -> bool:
    """Return whether `operator` itself is in a list, not one that is equal to it."""
    return any(operator is each for each in operators)


def _step(index: int, graph) -> float:
    """Return one step of int8 for a tensor of a calibrated model. Without a range it is infinite."""
    ranges = graph.tensors[index].quantization
    known = ranges is not None and ranges.max is not None and len(ranges.max)
    return (max(*ranges.max, 0) - min(*ranges.min, 0)) / 255 if known else np.inf


def _least(index: int, graph) -> float:
    """Return the least value of a tensor of a calibrated model. Without a range it is 0."""
    ranges = graph.tensors[index].quantization
    return min(ranges.min) if ranges is not None and ranges.min is not None and len(ranges.min) else 0.0


def _code(operator, model) -> int:
    """Return the code of an operator."""
    return model.operatorCodes[operator.opcodeIndex].builtinCode


def _dequantize_weights(model, graph, products: list, code: int) -> None:
    """Store the weights of each product that computes in float32 in int8, and insert a DEQUANTIZE operator that restores them.

    Args:
        model: the model, a `ModelT`, which is changed.
        graph: one of its subgraphs.
        products: operators outside layers, of which the products of float32 values count.
        code: the index of DEQUANTIZE in `model.operatorCodes`.
    """
    operators, restored = [], {}  # `restored`: index of the int8 tensor -> index of the float32 tensor
    for operator in graph.operators:
        in_float32 = graph.tensors[operator.inputs[0]].type == schema.TensorType.FLOAT32
        outside = _code(operator, model) in _PRODUCTS and _is_one_of(operator, products)
        kept = outside or _is_product(operator, graph, model, (SCOPES["arithmetic"],))
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


def _restore_weights(model, graph, products: list, exact) -> None:
    """Give some products of a quantized model their weights in `exact`, the same model in float32.

    A product is found by the name of its result. Weights that other operators use too stay as they are.
    """
    exact_graph = exact.subgraphs[model.subgraphs.index(graph)]
    names = [exact_graph.tensors[operator.outputs[0]].name for operator in exact_graph.operators]
    makers = dict(zip(names, exact_graph.operators, strict=True))
    for product in products:
        index = product.inputs[1]
        weights, maker = graph.tensors[index], makers.get(graph.tensors[product.outputs[0]].name)
        uses = sum(index in operator.inputs for operator in graph.operators)
        if maker is None or uses > 1 or _is_shared(weights, model):
            continue
        restored = exact_graph.tensors[maker.inputs[1]]
        if exact.buffers[restored.buffer].data is not None and list(restored.shape) == list(weights.shape):
            model.buffers[weights.buffer].data = exact.buffers[restored.buffer].data
            weights.type, weights.quantization = restored.type, restored.quantization


def _is_shared(tensor, model) -> bool:
    """Return whether other tensors have the data of `tensor`."""
    return sum(each.buffer == tensor.buffer for graph in model.subgraphs for each in graph.tensors) > 1


def _round_to_int8(weights, model) -> None:
    """Store a float32 tensor of weights in int8, with one scale for each entry of its first axis.

    Small tensors, and tensors that share their buffer with others, stay as they are.
    """
    buffer = model.buffers[weights.buffer]
    small = np.prod(weights.shape) < _MIN_VALUES
    if weights.type != schema.TensorType.FLOAT32 or buffer.data is None or _is_shared(weights, model) or small:
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
