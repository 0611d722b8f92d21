"""The planner: it chooses a lowering for each butterfly layer, by measurements made now or before, or by estimates."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.structure.matrix import Matrix
from keras_butterfly.structure.wiring import Wiring
from keras_butterfly.utils.progress import Progress

from ..lowering import KINDS, Dense, Layer, Lowering, Part, lower
from ..measurement.devices import Device, unit
from ..tflite import runtime
from ..tflite.converter import convert
from ..tflite.parity import ParityError, compare_outputs
from ..tflite.quantize import Precision, dense_error
from .candidates import QUICK, THOROUGH, shortlist
from .cost import estimate, estimated_bytes
from .observe import LayerInputs, Shape
from .plan import NOT_RUN, LayerPlan, measured_pairs
from .wisdom import Candidate, Measurement, Wisdom, WisdomKey

LoweringKind = Literal["auto", "gather", "slice", "fused", "folded", "dense"]
Effort = Literal["measure", "quick", "estimate"]
Objective = Literal["latency", "size"]
RUNS, WARMUP = 40, 50
# Latencies up to this many times the fastest count as equal, so that the noise of the machine does not choose the file's size.
MAX_OVER_FASTEST = 1.05
# An int8 butterfly may have this many times the error of an int8 Dense of its size. One with a larger error stays in float32.
MAX_OVER_DENSE_ERROR = 1.4


def default_effort() -> str:
    """Return the effort that the environment variable KERAS_BUTTERFLY_EFFORT asks for, or else "measure"."""
    return os.environ.get("KERAS_BUTTERFLY_EFFORT", "measure")


@dataclass(frozen=True)
class Planner:
    """The settings by which lowerings are chosen.

    Attributes:
        lowering: "auto", or the kind that every layer gets.
        effort: "measure", "quick" or "estimate".
        objective: "latency" or "size".
        precision: the precision in which candidates are converted, measured and compared.
        tolerance: the largest permitted relative error of a layer. Where all candidates exceed it, the most exact is chosen.
        device: the device that measures.
        wisdom: the measurements made before, to which new ones are added.
        progress: shows what is being done.
    """

    lowering: str
    effort: str
    objective: str
    precision: Precision
    tolerance: float
    device: Device
    wisdom: Wisdom
    progress: Progress

    def __post_init__(self):
        known = {"lowering": ("auto", *KINDS), "effort": get_args(Effort), "objective": get_args(Objective)}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={getattr(self, name)!r}")
        if not isinstance(self.wisdom, Wisdom):
            raise ValueError(f"`wisdom` must be an export.Wisdom. Received: {type(self.wisdom).__name__}")

    def plan(self, layers: Mapping[Layer, LayerInputs]) -> dict[Layer, LayerPlan]:
        """Return a plan for each layer, with the error of its lowering. The values of `layers` are what `observe` returned.

        Raises:
            ParityError: if the lowering that the caller gave is off beyond the tolerance. The message names the layers.
        """
        plans = {layer: self._choice(layer, seen) for layer, seen in self.progress.each(layers.items(), "plan")}
        plans = self.with_errors(plans, layers)
        # The weights of this layer may not keep what wisdom or an estimate promised. Then its candidates are measured anew.
        broken = [layer for layer, plan in plans.items() if plan.error > _promised(plan)]
        again = {layer: self._by_measurement(layer, layers[layer], fresh=True) for layer in broken}
        off = [f"'{p.layer}' {p.error:.3g}" for p in plans.values() if p.source == "given" and not p.within_limit]
        if off:
            raise ParityError(
                f"Lowered to {self.lowering!r}, layers are off from Keras by more than {self.tolerance:g} of their largest "
                f'output: {", ".join(off)}. Take lowering="auto", or a larger `tolerance`. Nothing was returned.'
            )
        return {**plans, **again}

    def with_errors(self, plans: dict[Layer, LayerPlan], layers: Mapping[Layer, LayerInputs]) -> dict[Layer, LayerPlan]:
        """Return `plans` with each missing error filled in, by converting and running the lowering with the layer's weights."""
        unknown = {layer: plan for layer, plan in plans.items() if np.isnan(plan.error)}
        errors = self._errors(unknown, layers)
        return {layer: replace(plan, error=errors.get(layer, plan.error)) for layer, plan in plans.items()}

    def _choice(self, layer: Layer, seen: LayerInputs) -> LayerPlan:
        if self.lowering != "auto":
            return LayerPlan(layer.name, seen.shape, KINDS[self.lowering](), "given", NOT_RUN, self.tolerance)
        return (self._by_estimate if self.effort == "estimate" else self._by_measurement)(layer, seen)

    def _by_estimate(self, layer: Layer, seen: LayerInputs) -> LayerPlan:
        considered = tuple(self._considered(layer, lowering, seen.shape) for lowering in self._shortlist(layer, seen.shape))
        small = self.objective == "size"
        best = min(considered, key=lambda c: (c.estimated_bytes, c.estimate) if small else (c.estimate,))
        limit = self._permitted(best.lowering, self._limit(layer, seen))
        return LayerPlan(layer.name, seen.shape, best.lowering, "estimated", NOT_RUN, limit, considered)

    def _by_measurement(self, layer: Layer, seen: LayerInputs, fresh: bool = False) -> LayerPlan:
        key = self._wisdom_key(layer, seen.shape)
        known, source = () if fresh else self.wisdom.recall(key), "wisdom"
        if not known:
            known, source = self._measure(layer, seen), "measured"
            self.wisdom.learn(key, known)
        pairs, limit = measured_pairs(known), self._limit(layer, seen)
        exact = [(c, m) for c, m in pairs if m.error <= self._permitted(c.lowering, limit)]
        best, measured = self._best(exact or [min(pairs, key=lambda pair: pair[1].error)])
        error = measured.error if source == "measured" else NOT_RUN
        limit = self._permitted(best.lowering, limit)
        baseline = self._considered(layer, Dense(), seen.shape)
        return LayerPlan(layer.name, seen.shape, best.lowering, source, error, limit, known, baseline, self.device.name)

    def _best(self, pairs: list[tuple[Candidate, Measurement]]) -> tuple[Candidate, Measurement]:
        """Return the smallest candidate, or for latency the smallest of those that are about as fast as the fastest."""
        # Counts have no noise, so the lowest is taken.
        lowest = min(measured.cost for _, measured in pairs)
        if self.objective == "latency":
            pairs = [(c, m) for c, m in pairs if m.cost <= lowest * (MAX_OVER_FASTEST if m.unit == "seconds" else 1)]
        return min(pairs, key=lambda pair: (pair[1].size_bytes, pair[1].cost))

    def _limit(self, layer: Layer, seen: LayerInputs) -> float:
        """Return the largest permitted error of any lowering of `layer` but the dense kernel."""
        if self.precision.name != "int8":
            return self.tolerance
        units = layer.compute_output_shape(seen.shape)[-1]
        return min(self.tolerance, MAX_OVER_DENSE_ERROR * dense_error(seen.inputs, units))

    def _permitted(self, lowering: Lowering, limit: float) -> float:
        """Return the error limit of `lowering`.

        The dense kernel may use the full tolerance, so that no export is slower than Dense.
        """
        return self.tolerance if lowering == Dense() else limit

    def _considered(self, layer: Layer, lowering: Lowering, shape: Shape, measured: Measurement | None = None) -> Candidate:
        """Return the candidate with its estimates, and with its measurement where there is one."""
        name = self.precision.name
        seconds, size = estimate(layer, lowering, _row_count(shape), name), estimated_bytes(layer, lowering, name)
        return Candidate(lowering, seconds, size, measured, tuple(lowering.grouped_channels(layer.parts())))

    def _shortlist(self, layer: Layer, shape: Shape) -> list[Lowering]:
        limits = QUICK if self.effort == "quick" else THOROUGH
        return shortlist(layer, _row_count(shape), self.precision.name, self.objective == "size", limits)

    def _measure(self, layer: Layer, seen: LayerInputs) -> tuple[Candidate, ...]:
        precision, shape, inputs = self._layer_precision, seen.shape, seen.inputs
        lowerings = self._shortlist(layer, shape)
        if unit(self.device) == "counts" and Dense() not in lowerings:
            lowerings.append(Dense())  # The baseline, which is estimated in seconds, has no estimate in counts.
        spec = [tf.TensorSpec(shape, layer.compute_dtype, name="x")]
        batches = [{"x": x} for x in inputs]
        expected = ops.convert_to_numpy(layer.affine(np.concatenate(inputs)))
        with self.progress.task(f"plan {layer.name}", 2 * len(lowerings)) as step:
            contents = {}
            for lowering in lowerings:
                keep_float32 = bool(lowering.keep_float32)
                contents[str(lowering)] = convert(lower(layer, lowering), spec, precision, batches, keep_float32=keep_float32)
                step(1)
            share = len(lowerings) / RUNS
            figures = self.device.measure(contents, threads=1, warmup=WARMUP, runs=RUNS, on_round=lambda _: step(share))
        candidates = []
        for lowering in lowerings:
            content, figure = contents[str(lowering)], figures[str(lowering)]
            measured = Measurement(figure.cost, len(content), _error(content, batches, expected), figure.unit)
            candidates.append(self._considered(layer, lowering, shape, measured))
        return tuple(candidates)

    def _errors(self, plans: dict[Layer, LayerPlan], layers: Mapping[Layer, LayerInputs]) -> dict[Layer, float]:
        """Return the error of each layer's lowering by itself. All layers are converted in one file, side by side."""
        if not plans:
            return {}
        affines = [lower(layer, plan.lowering) for layer, plan in plans.items()]
        specs = [
            tf.TensorSpec(plan.input_shape, layer.compute_dtype, name=f"x{i}") for i, (layer, plan) in enumerate(plans.items())
        ]
        inputs = [layers[layer].inputs for layer in plans]
        count = min(map(len, inputs))
        batches = [{f"x{i}": values[batch] for i, values in enumerate(inputs)} for batch in range(count)]

        def side_by_side(*values):
            return {f"y{i}": affine(value) for i, (affine, value) in enumerate(zip(affines, values, strict=True))}

        keep_float32 = any(plan.lowering.keep_float32 for plan in plans.values())
        content = convert(side_by_side, specs, self._layer_precision, batches, keep_float32=keep_float32)
        actual = runtime.run_all(runtime.load(content), batches)
        errors = {}
        for i, layer in enumerate(plans):
            expected = ops.convert_to_numpy(layer.affine(np.concatenate(inputs[i][:count])))
            errors[layer] = compare_outputs([expected], [actual[f"y{i}"]]).relative_error
        return errors

    @property
    def _layer_precision(self) -> Precision:
        """Return the precision in which a single layer is measured.

        Inside an int8 model its inputs and outputs are int8, so a layer kept in float32 is charged for the QUANTIZE and
        DEQUANTIZE around it.
        """
        return Precision("int8", integer_io=True) if self.precision.name == "int8" else self.precision

    def _wisdom_key(self, layer: Layer, shape: Shape) -> WisdomKey:
        precision, device = self.precision.label, self.device
        place = (device.name, device.machine, device.runtime)
        return WisdomKey(structure(layer), shape, precision, self.objective, self.effort, *place)


def _promised(plan: LayerPlan) -> float:
    """Return the largest error that a plan may turn out to have before its layer is measured anew."""
    if plan.source not in ("wisdom", "estimated"):
        return float("inf")
    known = plan.chosen.measured if plan.chosen else None
    # Where no known candidate is within the limit, measuring again would find none either.
    return max(plan.limit, known.error if known else 0.0)


def structure(layer: Layer) -> str:
    """Return in words what a layer's speed depends on: its structure, without name and weights."""
    return "; ".join(map(_described, layer.parts()))


def _described(part: Part) -> str:
    if isinstance(part, Matrix):
        return f"matrix {part.shape[0]} x {part.shape[1]}"
    thin = f" and rank {part.rank}" if part.rank else ""
    return f"butterfly of {part.stacks}{thin}: {_wired(part.wiring)}"


def _wired(wiring: Wiring) -> str:
    order = "increasing" if wiring.increasing else "decreasing"
    radices = "x".join(map(str, wiring.radices)) or "1"
    text = f"{len(wiring.inputs)} to {len(wiring.outputs)} of {radices} nodes, {order}"
    if wiring.full:
        return text
    return f"{text}, {hashlib.sha256(repr((wiring.inputs, wiring.outputs)).encode()).hexdigest()[:12]}"


def _error(content: bytes, batches: list[dict[str, np.ndarray]], expected: np.ndarray) -> float:
    (actual,) = runtime.run_all(runtime.load(content), batches).values()
    return compare_outputs([expected], [actual]).relative_error


def _row_count(shape: Shape) -> int:
    """Return the number of rows of the last axis. An unknown axis counts as one."""
    return int(np.prod([1 if axis is None else axis for axis in shape[:-1]]))
