"""The weights of products that compute in float32 in a quantized model: rounded to int8 in the file, or exact."""

from collections.abc import Iterable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .graph import Graph, graphs

# The first version of the operator DEQUANTIZE that takes one scale per channel.
_PER_CHANNEL_VERSION = 5
# Weights of fewer values stay in float32, as in the converter.
_MIN_VALUES = 1024
_DEQUANTIZE, _FLOAT32 = schema.BuiltinOperator.DEQUANTIZE, schema.TensorType.FLOAT32


def store_in_int8(graph: Graph, products: Iterable) -> None:
    """Store the weights of float32 products in int8, and insert a DEQUANTIZE operator before each, which restores them.

    The runtime runs this operator once, when it loads the model.

    Args:
        graph: the graph, which is changed.
        products: some of its operators. Those that do not compute in float32 stay as they are.
    """
    restored: dict[int, int] = {}  # index of the int8 tensor -> index of the float32 tensor
    for product in products:
        if graph.tensors[product.inputs[0]].type != _FLOAT32:
            continue
        index = product.inputs[1]
        weights = graph.tensors[index]
        _round_to_int8(weights, graph)
        if index not in restored and weights.type == schema.TensorType.INT8:
            restored[index] = _insert_dequantize(graph, index, product)
        product.inputs = [product.inputs[0], restored.get(index, index), *product.inputs[2:]]


def _insert_dequantize(graph: Graph, index: int, product) -> int:
    """Insert a DEQUANTIZE operator of the tensor `index` before a product. Return the index of its result."""
    weights, operators = graph.tensors[index], list(graph.operators)
    graph.tensors.append(schema.TensorT(shape=list(weights.shape), type=_FLOAT32, name=weights.name + b"/float32"))
    result = len(graph.tensors) - 1
    place = next(place for place, operator in enumerate(operators) if operator is product)
    operators.insert(place, schema.OperatorT(_dequantize_code(graph.model), inputs=[index], outputs=[result]))
    graph.content.operators = operators
    return result


def _dequantize_code(model: schema.ModelT) -> int:
    """Return the index of the operator DEQUANTIZE with scales per channel among the codes of a model. It is added once."""
    codes = model.operatorCodes
    for index, code in enumerate(codes):
        if code.builtinCode == _DEQUANTIZE and code.version >= _PER_CHANNEL_VERSION:
            return index
    codes.append(schema.OperatorCodeT(_DEQUANTIZE, version=_PER_CHANNEL_VERSION, builtinCode=_DEQUANTIZE))
    return len(codes) - 1


def _round_to_int8(weights: schema.TensorT, graph: Graph) -> None:
    """Store a float32 tensor of weights in int8, with one scale for each entry of its first axis.

    Small tensors, and tensors that share their buffer with others, stay as they are.
    """
    buffer = graph.model.buffers[weights.buffer]
    small = np.prod(weights.shape) < _MIN_VALUES
    if weights.type != _FLOAT32 or buffer.data is None or graph.is_shared(weights) or small:
        return
    values = np.frombuffer(bytes(buffer.data), "<f4").reshape(weights.shape)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.round(values / scales.reshape(-1, *[1] * (values.ndim - 1)))
    buffer.data = rounded.astype(np.int8).tobytes()
    weights.type = schema.TensorType.INT8
    weights.quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))


def restore(graph: Graph, products: Iterable, exact: schema.ModelT) -> None:
    """Give products of a quantized model their weights of float32 back.

    A product is found by the name of its result. Weights that other operators use too stay as they are.

    Args:
        graph: the graph, which is changed.
        products: some of its operators.
        exact: the same model in float32.
    """
    exact_graph = graphs(exact)[graph.model.subgraphs.index(graph.content)]
    makers = {exact_graph.name(index): operator for index, operator in exact_graph.makers().items()}
    for product in products:
        index = product.inputs[1]
        weights, maker = graph.tensors[index], makers.get(graph.name(product.outputs[0]))
        if maker is None or graph.uses(index) > 1 or graph.is_shared(weights):
            continue
        restored = exact_graph.tensors[maker.inputs[1]]
        data = exact.buffers[restored.buffer].data
        if data is not None and list(restored.shape) == list(weights.shape):
            graph.model.buffers[weights.buffer].data = data
            weights.type, weights.quantization = restored.type, restored.quantization
