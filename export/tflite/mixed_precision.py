"""Letting some layers of a quantized model compute in float32.

A butterfly computes in float32 where the planner has chosen so. The lowering of such a layer has `keep_float32` set. The
layer's operators are in one of `SCOPES`, by which they are recognized here. For "weights" the weights stay in float32 as well.
For "arithmetic" they are stored in int8.

This saves quantizing the activations at every invocation, which for the small blocks of a butterfly can take longer than all
its multiplications. It is also more exact, because only the weights are rounded.

In int8 the head of a classifier, the product whose sums a softmax turns into the outputs, computes in float32 where these sums
have a wide range. One step of int8 would change the odds of two classes too much.

What a logarithm is computed from is in float32 too, in both precisions: see `logarithms.py`.
"""

from collections.abc import Iterator

from ..lowering import SCOPES
from .graph import CODES, Graph, graphs, ids, packed, read_model, schema
from .logarithms import Logarithm, exact_sums, logarithms
from .operators import tensor_names
from .quantize import Precision
from .stored_weights import restore, store_in_int8
from .tensorflow_internals import quantize_calibrated

# The largest step of int8 for the sums that enter the softmax of an output. It changes the odds of two classes by exp(0.25).
MAX_STEP = 0.25
# Operators of several results, which TensorFlow does not leave in float32 on demand.
_SPLITS = (CODES.SPLIT, CODES.SPLIT_V, CODES.UNPACK)


def with_float32_layers(content: bytes, precision: Precision, exact: bytes | None = None) -> bytes:
    """Return the quantized file, in which the layers whose lowering has `keep_float32` compute in float32.

    Args:
        content: the bytes that the converter returned after `Precision.configure`: a calibrated model in float32 for "int8", a
            quantized model for "dynamic".
        precision: "int8" or "dynamic".
        exact: the same model in float32. Without it, the sums before a logarithm have rounded weights in "dynamic".
    """
    model = read_model(_quantize_other_layers(content, precision) if precision.name == "int8" else content)
    exact_model = None if exact is None else read_model(exact)
    for graph in graphs(model):
        found = logarithms(graph)
        sums, before = exact_sums(found, graph), _operators_of(found)
        if exact_model is not None:
            restore(graph, sums, exact_model)
        _split_in_float32(graph, before)
        # In "dynamic" the sums of a head are in float32 anyway.
        heads = [product for product, _ in _heads(graph)] if precision.name == "int8" else []
        layers = [operator for operator in graph.operators if _is_in(operator, graph, SCOPES["arithmetic"])]
        exact_weights = [each for each in sums if graph.tensors[each.inputs[1]].type == schema.TensorType.FLOAT32]
        in_float32 = ids([*heads, *layers, *before]) - ids(exact_weights)
        store_in_int8(graph, [each for each in graph.operators if id(each) in in_float32 and _has_rounded_weights(each, graph)])
    return packed(model)


def has_float32_parts(content: bytes, precision: Precision) -> bool:
    """Return whether `with_float32_layers` keeps more than layers in float32: wide heads, or what is before a logarithm.

    Args:
        content: the bytes that the converter returned, as for `with_float32_layers`.
        precision: "int8" or "dynamic".
    """
    return any(_wide_heads(graph, precision) or logarithms(graph) for graph in graphs(read_model(content)))


def _quantize_other_layers(calibrated: bytes, precision: Precision) -> bytes:
    """Return a calibrated model in int8, except for its parts and layers that compute in float32."""
    scopes = SCOPES["arithmetic"], SCOPES["weights"]
    kept = [name for name in tensor_names(calibrated) if _is_within(name, scopes)]
    for graph in graphs(read_model(calibrated)):
        operators = [operator for operator in graph.operators if _is_in(operator, graph, *scopes)]
        operators += [*_wide_heads(graph, precision), *_operators_of(logarithms(graph))]
        kept += [graph.name(operator.outputs[0]) for operator in operators]
    return quantize_calibrated(calibrated, precision.integer_io, kept)


def _heads(graph: Graph) -> Iterator[tuple]:
    """Yield the product and the softmax of each output of a graph that is made by these two operators."""
    makers = graph.makers()
    ends = [makers[index] for index in graph.content.outputs if index in makers]
    for softmax in (operator for operator in ends if graph.code(operator) == CODES.SOFTMAX):
        product = makers.get(softmax.inputs[0])
        if product is not None and graph.is_product(product):
            yield product, softmax


def _wide_heads(graph: Graph, precision: Precision) -> list:
    """Return the operators of each head whose sums have too wide a range for int8. If the outputs are int8, there are none."""
    if precision.name != "int8" or precision.integer_io:
        return []
    return [operator for head in _heads(graph) if graph.step(head[0].outputs[0]) > MAX_STEP for operator in head]


def _operators_of(found: list[Logarithm]) -> list:
    """Return the operators of the logarithms `found` and those before them, which all compute in float32."""
    return [operator for logarithm in found for operator in logarithm.operators]


def _split_in_float32(graph: Graph, operators: list) -> None:
    """Let those of `operators` that split a tensor do so in float32, if they split a float32 tensor that was quantized."""
    for operator in operators:
        if graph.code(operator) in _SPLITS:
            _move_to_float32(graph, operator)


def _move_to_float32(graph: Graph, split) -> None:
    """Let one operator split the float32 tensor. The operators around it that quantize and dequantize are removed.

    If there are no such operators on all sides, nothing changes.
    """
    place = 1 if graph.code(split) == CODES.SPLIT else 0  # the first input of SPLIT is the axis
    quantize = graph.makers().get(split.inputs[place])
    if quantize is None or graph.code(quantize) != CODES.QUANTIZE:
        return
    dequantize = [each for each in graph.operators if each.inputs[0] in split.outputs]
    results = {each.inputs[0]: each.outputs[0] for each in dequantize if graph.code(each) == CODES.DEQUANTIZE}
    is_float32 = graph.tensors[quantize.inputs[0]].type == schema.TensorType.FLOAT32
    if is_float32 and len(results) == len(split.outputs) == len(dequantize):
        split.inputs = [*split.inputs[:place], quantize.inputs[0], *split.inputs[place + 1 :]]
        split.outputs = [results[index] for index in split.outputs]
        graph.remove([*dequantize, *([] if graph.uses(quantize.outputs[0]) else [quantize])])


def _has_rounded_weights(operator, graph: Graph) -> bool:
    """Return whether an operator is a product, but not that of a layer whose weights stay in float32."""
    return graph.is_product(operator) and not _is_in(operator, graph, SCOPES["weights"])


def _is_in(operator, graph: Graph, *scopes: str) -> bool:
    """Return whether `operator` multiplies by the weights of a layer in one of `scopes`.

    The name of the weights or of the result tells. The result alone is not enough: that of the model's last operator has the
    name of the output.
    """
    ends = (operator.inputs[1], operator.outputs[0]) if graph.is_product(operator) else ()
    return any(_is_within(graph.name(index), scopes) for index in ends)


def _is_within(name: str, scopes: tuple[str, ...]) -> bool:
    """Return whether the name of a tensor has one of `scopes` among its parts."""
    return any(f"/{scope}/" in name for scope in scopes)
