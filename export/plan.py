"""Which lowering each butterfly layer of a model gets, and the measurements behind the choice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.execution import executions

from . import verify
from .lowering import KINDS, Layer, Lowering, candidates, lower
from .measure import measure_all
from .quantize import Precision


@dataclass(frozen=True)
class Candidate:
    """A lowering of one layer alone, as measured.

    Attributes:
        lowering: which.
        seconds: median per invocation.
        error: largest difference from the layer's linear map in Keras, relative to its largest output, on the layer's inputs.
    """

    lowering: Lowering
    seconds: float
    error: float


@dataclass(frozen=True)
class LayerPlan:
    """The lowering chosen for one layer.

    Attributes:
        layer: the layer's name.
        input_shape: of the layer's input at export.
        lowering: what it is lowered to.
        candidates: all that were measured; empty where the caller chose.
    """

    layer: str
    input_shape: tuple[int, ...]
    lowering: Lowering
    candidates: tuple[Candidate, ...] = ()


def butterfly_layers(model: keras.Model, specs: list[tf.TensorSpec], call: Callable) -> dict[Layer, list[tuple[int, ...]]]:
    """The outermost butterfly layers in the order of execution, with the input shapes each is called on. Traces `call` once."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, Butterfly | ButterflyDense)]
    inner = {id(part) for layer in layers if isinstance(layer, ButterflyDense) for part in (layer.j1, layer.j2_t)}
    shapes: dict[Layer, list[tuple[int, ...]]] = {}

    def recorder(layer):
        def linear(x):
            shapes.setdefault(layer, []).append(tuple(x.shape))
            return layer.linear(x)

        return linear

    with executions({layer: recorder(layer) for layer in layers if id(layer) not in inner}):
        tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
    return shapes


def choose(
    layers: dict[Layer, list[tuple[int, ...]]],
    lowering: str,
    precision: Precision,
    tolerance: float,
    run: Callable[[], Any],
    convert: Callable[..., bytes],
) -> dict[Layer, LayerPlan]:
    """A plan per layer: what `lowering` says, or for "auto" the fastest candidate on the layer alone that is exact enough.

    Args:
        layers: from `butterfly_layers`.
        lowering: "auto", "gather", "fused", "folded" or "dense".
        precision: in which candidates are converted and measured.
        tolerance: largest permitted relative error of a candidate; where all exceed it, the most exact one is taken.
        run: runs the model in Keras on the representative data.
        convert: `convert.convert`.
    """
    if lowering != "auto":
        return {layer: LayerPlan(layer.name, shapes[0], Lowering(lowering)) for layer, shapes in layers.items()}
    inputs = _inputs(layers, run)
    measured: dict[Any, tuple[Candidate, ...]] = {}
    plans = {}
    for layer, shapes in layers.items():
        # Speed depends on structure and shape, not on the weights' values: equal layers are measured once. Not so int8's error.
        key = (_structure(layer), shapes[0], layer.name if precision.name == "int8" else None)
        if key not in measured:
            measured[key] = _measure_candidates(layer, shapes[0], precision, inputs[layer], convert)
        plans[layer] = LayerPlan(layer.name, shapes[0], _best(measured[key], tolerance).lowering, measured[key])
    return plans


def _best(candidates: tuple[Candidate, ...], tolerance: float) -> Candidate:
    exact = [candidate for candidate in candidates if candidate.error <= tolerance]
    if not exact:
        return min(candidates, key=lambda candidate: candidate.error)
    return min(exact, key=lambda candidate: candidate.seconds)


def _inputs(layers: dict[Layer, list[tuple[int, ...]]], run: Callable[[], Any]) -> dict[Layer, list[np.ndarray]]:
    """What each layer is given while the model runs on the representative data, of the shape it is planned for."""
    seen: dict[Layer, list[np.ndarray]] = {layer: [] for layer in layers}

    def recorder(layer):
        def linear(x):
            if tf.TensorShape(layers[layer][0]).is_compatible_with(x.shape):
                seen[layer].append(ops.convert_to_numpy(x))
            return layer.linear(x)

        return linear

    with executions({layer: recorder(layer) for layer in layers}):
        run()
    return seen


def check_lowering(lowering: str) -> str:
    if lowering not in ("auto", *KINDS):
        raise ValueError(f"`lowering` must be one of {('auto', *KINDS)}. Received: lowering={lowering!r}")
    return lowering


def _measure_candidates(
    layer: Layer, shape: tuple[int, ...], precision: Precision, inputs: list[np.ndarray], convert
) -> tuple[Candidate, ...]:
    spec = [tf.TensorSpec(shape, layer.compute_dtype, name="x")]
    batches = [{"x": x} for x in inputs]
    models = {lowering: convert(lower(layer, lowering), spec, precision, batches) for lowering in candidates(layer)}
    expected = [ops.convert_to_numpy(layer.linear(x)) for x in inputs]
    latencies = measure_all({str(lowering): content for lowering, content in models.items()}, runs=40)
    return tuple(
        Candidate(lowering, latencies[str(lowering)].median, _error(content, batches, expected))
        for lowering, content in models.items()
    )


def _error(content: bytes, batches: list[dict[str, np.ndarray]], expected: list[np.ndarray]) -> float:
    interpreter = verify.load(content)
    actual = [next(iter(verify.run(interpreter, batch).values())) for batch in batches]
    return verify.compare_outputs([np.concatenate(expected)], [np.concatenate(actual)]).relative_error


def _structure(layer: Layer):
    if isinstance(layer, ButterflyDense):
        return layer.j1.wiring, layer.middle_kernel.shape, layer.j2_t.wiring
    return layer.wiring, layer.stacks
