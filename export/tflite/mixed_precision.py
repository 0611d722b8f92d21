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
# Sums of more weights have them in int8, so that the file does not grow much. Bands of a spectrum have fewer.
_MOST_EXACT = 2**18
# Operators with an exponential, which the logarithm undoes. What is before them need not be exact.
_EXPONENTIALS = (_CODES.SOFTMAX, _CODES.LOGISTIC, _CODES.EXP)
# Operators of several results, which TensorFlow does not leave in float32 on demand.
_SPLITS = (_CODES.SPLIT, _CODES.SPLIT_V, _CODES.UNPACK)


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
        sums = [each for logarithm in logarithms for each in logarithm.sums if _has_few_weights(each, graph)]
        if exact is not None:
            _restore_weights(model, graph, sums, read_model(exact))
        before = [each for logarithm in logarithms for each in logarithm.operators]
        _split_in_float32(model, graph, before)
        outside = [
            each for each in before if not (_is_one_of(each, sums) or _is_product(each, graph, model, (SCOPES["weights"],)))
        ]
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


def _quantize_other_layers(calibrated: bytes, precision: Precision) -> bytes:
    """Return a calibrated model in int8, except for its parts and layers that compute in float32."""
    scopes = SCOPES["arithmetic"], SCOPES["weights"]
    kept = [name for name in tensor_names(calibrated) if _is_within(name, scopes)]
    model = read_model(calibrated)
    for graph in model.subgraphs:
        operators = [operator for operator in graph.operators or [] if _is_product(operator, graph, model, scopes)]
        operators += _wide_heads(graph, model, precision)
        operators += [each for logarithm in _logarithms(graph, model) for each in logarithm.operators]
        kept += [graph.tensors[operator.outputs[0]].name.decode() for operator in operators]
    return quantize_calibrated(calibrated, precision.integer_io, kept)


def _heads(graph, model) -> Iterator[tuple]:
    """Yield the product and the softmax of each output of `graph` that is made by these two operators."""
    makers = _makers(graph)
    for index in graph.outputs:
        softmax = makers.get(index)
        product = makers.get(softmax.inputs[0]) if softmax is not None and _code(softmax, model) == _CODES.SOFTMAX else None
        if product is not None and _code(product, model) in _PRODUCTS:
            yield product, softmax


def _wide_heads(graph, model, precision: Precision) -> list:
    """Return the operators of each head whose sums have too wide a range for int8. If the outputs are int8, there are none."""
    if precision.name != "int8" or precision.integer_io:
        return []
    return [operator for head in _heads(graph, model) if _step(head[0].outputs[0], graph) > MAX_STEP for operator in head]


def _logarithms(graph, model) -> list[_Logarithm]:
    """Return the logarithms of sums of which some are too small for a step of int8. Without ranges it is all logarithms."""
    makers = _makers(graph)
    logarithms = [operator for operator in graph.operators or [] if _code(operator, model) == _CODES.LOG]
    wide = [each for each in logarithms if _step(each.inputs[0], graph) > MAX_STEP * _range(each.inputs[0], graph)[0]]
    found = [_before(logarithm, makers, model) for logarithm in wide]
    return [logarithm for logarithm in found if logarithm.sums]


def _makers(graph) -> dict:
    """Return the operator that makes each tensor, by the index of the tensor."""
    return {index: operator for operator in graph.operators or [] for index in operator.outputs}


def _before(logarithm, makers: dict, model) -> _Logarithm:
    """Return what a logarithm is computed from, with `makers`, the operator that makes each tensor, by its index."""
    reached = {id(logarithm): (logarithm, 0)}  # operators, and behind how few products each is
    waiting = [logarithm]
    while waiting:
        operator = waiting.pop()
        products = reached[id(operator)][1] + (_code(operator, model) in _PRODUCTS)
        makers_of_inputs = [makers[index] for index in operator.inputs if index in makers]
        for each in makers_of_inputs if products < _PRODUCTS_BEFORE_LOGARITHM else []:
            is_nearer = id(each) not in reached or products < reached[id(each)][1]
            if is_nearer and _code(each, model) not in _EXPONENTIALS:
                reached[id(each)] = each, products
                waiting.append(each)
    found = list(reached.values())
    sums = [each for each, products in found if products == 0 and _code(each, model) in _PRODUCTS]
    return _Logarithm([each for each, _ in found], sums)


def _has_few_weights(product, graph) -> bool:
    """Return whether the weights of a product may stay in float32."""
    return bool(np.prod(graph.tensors[product.inputs[1]].shape) <= _MOST_EXACT)


def _split_in_float32(model, graph, operators: list) -> None:
    """Let those of `operators` that split a tensor do so in float32, if they split a float32 tensor that was quantized.

    The operators around it that quantize and dequantize are removed.
    """
    makers, float32 = _makers(graph), schema.TensorType.FLOAT32
    for operator in operators:
        if _code(operator, model) not in _SPLITS:
            continue
        place = 1 if _code(operator, model) == _CODES.SPLIT else 0  # the first input of SPLIT is the axis
        quantize = makers.get(operator.inputs[place])
        dequantize = [each for each in graph.operators if each.inputs[0] in operator.outputs]
        if quantize is None or any(_code(each, model) != _CODES.DEQUANTIZE for each in dequantize):
            continue
        if _code(quantize, model) != _CODES.QUANTIZE or graph.tensors[quantize.inputs[0]].type != float32:
            continue
        results = {each.inputs[0]: each.outputs[0] for each in dequantize}
        if len(results) == len(operator.outputs) == len(dequantize):
            inputs = list(operator.inputs)
            inputs[place] = quantize.inputs[0]
            operator.inputs, operator.outputs = inputs, [results[index] for index in operator.outputs]
            removed = [*dequantize, *([quantize] if _uses(quantize.outputs[0], graph) == 0 else [])]
            graph.operators = [each for each in graph.operators if not _is_one_of(each, removed)]


def _uses(index: int, graph) -> int:
    """Return how many operators take a tensor."""
    return sum(index in operator.inputs for operator in graph.operators)


def _is_one_of(operator, operators: list) -> bool:
    """Return whether `operator` itself is in a list, not one that is equal to it."""
    return any(operator is each for each in operators)


def _step(index: int, graph) -> float:
    """Return one step of int8 for the values of a tensor in a calibrated model. Without a range it is infinite."""
    least, largest = _range(index, graph)
    return (max(largest, 0) - min(least, 0)) / 255


def _range(index: int, graph) -> tuple[float, float]:
    """Return the least and the largest value of a tensor in a calibrated model. Without a range they are 0 and infinity."""
    ranges = graph.tensors[index].quantization
    known = ranges is not None and ranges.max is not None and len(ranges.max)
    return (min(ranges.min), max(ranges.max)) if known else (0.0, np.inf)


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
    for operator in graph.operators or []:
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
        if maker is None or _uses(index, graph) > 1 or _is_shared(weights, model):
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
