"""Which lowering each butterfly layer of a model gets, and the measurements behind the choice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.execution import executions

from .lowering import KINDS, Layer, Lowering, candidates, lower
from .measure import measure_all


@dataclass(frozen=True)
class Candidate:
    """A lowering of one layer alone, with its measured median in seconds."""

    lowering: Lowering
    seconds: float


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
    layers: dict[Layer, list[tuple[int, ...]]], lowering: str, convert: Callable[[Callable, list], bytes]
) -> dict[Layer, LayerPlan]:
    """A plan per layer: what `lowering` says, or for "auto" the fastest measured candidate on the layer alone.

    Args:
        layers: from `butterfly_layers`.
        lowering: "auto", "gather", "fused", "folded" or "dense".
        convert: turns a function and its input specs into the bytes of a TFLite model.
    """
    if lowering != "auto":
        return {layer: LayerPlan(layer.name, shapes[0], Lowering(lowering)) for layer, shapes in layers.items()}
    measured: dict[Any, tuple[Candidate, ...]] = {}
    plans = {}
    for layer, shapes in layers.items():
        # Speed depends on structure and shape, not on the weights' values: equal layers are measured once.
        key = (_structure(layer), shapes[0])
        if key not in measured:
            measured[key] = _measure_candidates(layer, shapes[0], convert)
        best = min(measured[key], key=lambda candidate: candidate.seconds)
        plans[layer] = LayerPlan(layer.name, shapes[0], best.lowering, measured[key])
    return plans


def check_lowering(lowering: str) -> str:
    if lowering not in ("auto", *KINDS):
        raise ValueError(f"`lowering` must be one of {('auto', *KINDS)}. Received: lowering={lowering!r}")
    return lowering


def _measure_candidates(layer: Layer, shape: tuple[int, ...], convert) -> tuple[Candidate, ...]:
    spec = [tf.TensorSpec(shape, layer.compute_dtype)]
    models = {lowering: convert(lower(layer, lowering), spec) for lowering in candidates(layer)}
    latencies = measure_all({str(lowering): content for lowering, content in models.items()}, runs=40)
    return tuple(Candidate(lowering, latencies[str(lowering)].median) for lowering in models)


def _structure(layer: Layer):
    if isinstance(layer, ButterflyDense):
        return layer.j1.wiring, layer.middle_kernel.shape, layer.j2_t.wiring
    return layer.wiring, layer.stacks
