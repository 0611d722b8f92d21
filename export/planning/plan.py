"""Which lowering each butterfly layer of a model gets, and the measurements behind the choice."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import tensorflow as tf
from keras import ops

from keras_butterfly.structure.matrix import Matrix
from keras_butterfly.structure.wiring import Wiring
from keras_butterfly.utils.progress import Progress

from ..lowering import KINDS, Dense, Layer, Lowering, Part, lower
from ..measurement.devices import Device
from ..tflite import runtime
from ..tflite.converter import convert
from ..tflite.parity import ParityError, compare_outputs
from ..tflite.quantize import Precision, dense_error
from .candidates import shortlist
from .cost import estimate, estimated_bytes
from .observe import Seen, Shape
from .wisdom import Candidate, Measurement, Problem, Wisdom

T = TypeVar("T")
Pair = tuple[Candidate, Measurement]

LoweringKind = Literal["auto", "gather", "slice", "fused", "folded", "dense"]
Effort = Literal["measure", "estimate"]
Objective = Literal["latency", "size"]
EFFORTS = ("measure", "estimate")
OBJECTIVES = ("latency", "size")
RUNS, WARMUP = 40, 50
# The error of a plan before its lowering is run.
NOT_RUN = float("nan")
# Latencies closer than this to the fastest count as equal, so that the noise of the machine does not choose the file's size.
NEAR_FASTEST = 1.05
# An int8 butterfly whose error is more than this many times that of an int8 Dense of its size stays in float32.
WORSE_THAN_DENSE = 1.4


@dataclass(frozen=True)
class LayerPlan:
    """The lowering chosen for one layer.

    Attributes:
        layer: the layer's name.
        input_shape: of the layer's input at export, at its first call; None where the batch is not fixed.
        lowering: what it is lowered to.
        source: "measured", "wisdom" (measured before), "estimated" or "given".
        error: of this lowering alone in the exported precision, on what the layer is given while the model runs on the
            representative data: largest difference from Keras relative to the largest value, before the activation.
        limit: the largest such error permitted.
        candidates: all that were considered.
        baseline: the dense kernel, estimated. It is measured only where it may be the fastest.
    """

    layer: str
    input_shape: Shape
    lowering: Lowering
    source: str
    error: float
    limit: float
    candidates: tuple[Candidate, ...] = ()
    baseline: Candidate | None = None

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that was taken, or None if the lowering was given."""
        return next((candidate for candidate in self.candidates if candidate.lowering == self.lowering), None)

    @property
    def dense(self) -> Candidate | None:
        """The candidate that writes the whole kernel, as Dense does: measured if it was, else estimated, else None."""
        return next((candidate for candidate in self.candidates if candidate.lowering == Dense()), self.baseline)

    def passed_over(self, candidate: Candidate) -> str:
        """Return in words why `candidate` was not taken; empty for the one that was."""
        chosen, measured = self.chosen, candidate.measured
        if chosen is None or candidate is chosen:
            return ""
        if measured is None or chosen.measured is None:
            return "estimated to be slower" if candidate.estimate > chosen.estimate else "estimated to be larger"
        if measured.error > self.limit and candidate.lowering != Dense():
            return f"error above {self.limit:.2g}"
        if measured.size_bytes >= chosen.measured.size_bytes:
            return "slower" if measured.seconds > chosen.measured.seconds else "larger, and hardly faster"
        return "slower" if measured.seconds > chosen.measured.seconds else "not exact enough"

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The measured candidates, exact enough, that no other one beats in both seconds and bytes, the fastest first."""
        exact = [(c, m) for c, m in _pairs(self.candidates) if m.error <= self.limit]
        return tuple(candidate for _, _, candidate in _unbeaten([(m.seconds, m.size_bytes, c) for c, m in exact]))


@dataclass(frozen=True)
class Planner:
    """How lowerings are chosen.

    Attributes:
        lowering: "auto", or the kind that every layer gets.
        effort: "measure" or "estimate".
        objective: "latency" or "size".
        precision: in which candidates are converted, measured and compared.
        tolerance: largest permitted relative error of a layer; where all candidates exceed it, the most exact one is taken.
        device: where to measure.
        wisdom: measurements to use and to add to.
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
        for name, choices in (("lowering", ("auto", *KINDS)), ("effort", EFFORTS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={getattr(self, name)!r}")
        if not isinstance(self.wisdom, Wisdom):
            raise ValueError(f"`wisdom` must be an export.Wisdom. Received: {type(self.wisdom).__name__}")

    def plan(self, layers: Mapping[Layer, Seen]) -> dict[Layer, LayerPlan]:
        """A plan for each of `layers`, as `observe` has seen them, with its error.

        Raises:
            ParityError: naming the layers for which the lowering that the caller gave is off beyond the tolerance.
        """
        plans = {layer: self._choice(layer, seen) for layer, seen in self.progress.each(layers.items(), "plan")}
        plans = self.with_errors(plans, layers)
        # What wisdom and estimates promised is not kept by these weights in this precision: see what is.
        broken = [layer for layer, plan in plans.items() if plan.error > plan.limit and plan.source in ("wisdom", "estimated")]
        again = {layer: self._by_measurement(layer, layers[layer], fresh=True) for layer in broken}
        off = [f"'{p.layer}' {p.error:.3g}" for p in plans.values() if p.error > p.limit and p.source == "given"]
        if off:
            raise ParityError(
                f"Lowered to {self.lowering!r}, layers are off from Keras by more than {self.tolerance:g} of their largest "
                f'output: {", ".join(off)}. Take lowering="auto", or a larger `tolerance`. Nothing was returned.'
            )
        return {**plans, **again}

    def with_errors(self, plans: dict[Layer, LayerPlan], layers: Mapping[Layer, Seen]) -> dict[Layer, LayerPlan]:
        """`plans`, with the errors of those whose lowering was not run on the layer's own weights yet."""
        unknown = {layer: plan for layer, plan in plans.items() if np.isnan(plan.error)}
        errors = self._errors(unknown, {layer: layers[layer].inputs for layer in unknown})
        return {layer: replace(plan, error=errors.get(layer, plan.error)) for layer, plan in plans.items()}

    def _choice(self, layer: Layer, seen: Seen) -> LayerPlan:
        if self.lowering != "auto":
            return LayerPlan(layer.name, seen.shape, KINDS[self.lowering](), "given", NOT_RUN, self.tolerance)
        return (self._by_estimate if self.effort == "estimate" else self._by_measurement)(layer, seen)

    def _by_estimate(self, layer: Layer, seen: Seen) -> LayerPlan:
        considered = tuple(self._considered(layer, lowering, seen.shape) for lowering in self._shortlist(layer, seen.shape))
        small = self.objective == "size"
        best = min(considered, key=lambda c: (c.estimated_bytes, c.estimate) if small else (c.estimate,))
        limit = self._permitted(best.lowering, self._limit(layer, seen))
        return LayerPlan(layer.name, seen.shape, best.lowering, "estimated", NOT_RUN, limit, considered)

    def _by_measurement(self, layer: Layer, seen: Seen, fresh: bool = False) -> LayerPlan:
        problem = self._problem(layer, seen.shape)
        known, source = () if fresh else self.wisdom.recall(problem), "wisdom"
        if not known:
            known, source = self._measure(layer, seen), "measured"
            self.wisdom.learn(problem, known)
        pairs, limit = _pairs(known), self._limit(layer, seen)
        exact = [(c, m) for c, m in pairs if m.error <= self._permitted(c.lowering, limit)]
        best, measured = self._best(exact or [min(pairs, key=lambda pair: pair[1].error)])
        error = measured.error if source == "measured" else NOT_RUN
        # Where nothing known is exact enough, the most exact one is; measuring again would find no other.
        limit = max(self._permitted(best.lowering, limit), measured.error)
        baseline = self._considered(layer, Dense(), seen.shape)
        return LayerPlan(layer.name, seen.shape, best.lowering, source, error, limit, known, baseline)

    def _best(self, pairs: list[Pair]) -> Pair:
        """Return the smallest candidate, or for latency the smallest of those that are about as fast as the fastest."""
        fastest = min(measured.seconds for _, measured in pairs)
        if self.objective == "latency":
            pairs = [pair for pair in pairs if pair[1].seconds <= NEAR_FASTEST * fastest]
        return min(pairs, key=lambda pair: (pair[1].size_bytes, pair[1].seconds))

    def _limit(self, layer: Layer, seen: Seen) -> float:
        """The largest permitted error."""
        if self.precision.name != "int8":
            return self.tolerance
        units = layer.compute_output_shape(seen.shape)[-1]
        return min(self.tolerance, WORSE_THAN_DENSE * dense_error(seen.inputs, units))

    def _permitted(self, lowering: Lowering, limit: float) -> float:
        """`limit`, but for a dense kernel, which is what Dense would be: without it something would be slower than Dense."""
        return self.tolerance if lowering == Dense() else limit

    def _considered(self, layer: Layer, lowering: Lowering, shape: Shape, measured: Measurement | None = None) -> Candidate:
        name = self.precision.name
        seconds, size = estimate(layer, lowering, _rows(shape), name), estimated_bytes(layer, lowering, name)
        return Candidate(lowering, seconds, size, measured)

    def _shortlist(self, layer: Layer, shape: Shape) -> list[Lowering]:
        return shortlist(layer, _rows(shape), self.precision.name, small=self.objective == "size")

    def _measure(self, layer: Layer, seen: Seen) -> tuple[Candidate, ...]:
        precision, shape, inputs = self._inside, seen.shape, seen.inputs
        lowerings = self._shortlist(layer, shape)
        spec = [tf.TensorSpec(shape, layer.compute_dtype, name="x")]
        batches = [{"x": x} for x in inputs]
        expected = ops.convert_to_numpy(layer.affine(np.concatenate(inputs)))
        with self.progress.task(f"plan {layer.name}", 2 * len(lowerings)) as step:
            models = {}
            for lowering in lowerings:
                models[lowering] = convert(
                    lower(layer, lowering), spec, precision, batches, keep_float32=bool(lowering.keep_float32)
                )
                step(1)
            contents = {str(lowering): content for lowering, content in models.items()}
            share = len(lowerings) / RUNS
            latencies = self.device.measure(contents, threads=1, warmup=WARMUP, runs=RUNS, progress=lambda _: step(share))
        return tuple(
            self._considered(
                layer,
                lowering,
                shape,
                Measurement(latencies[str(lowering)].median, len(content), _error(content, batches, expected)),
            )
            for lowering, content in models.items()
        )

    def _errors(self, plans: dict[Layer, LayerPlan], inputs: dict[Layer, list[np.ndarray]]) -> dict[Layer, float]:
        """The error of every layer's lowering by itself, all converted at once."""
        if not plans:
            return {}
        layers = list(plans)
        affines = [lower(layer, plans[layer].lowering) for layer in layers]
        specs = [tf.TensorSpec(plans[layer].input_shape, layer.compute_dtype, name=f"x{i}") for i, layer in enumerate(layers)]
        count = min(len(inputs[layer]) for layer in layers)
        batches = [{f"x{i}": inputs[layer][batch] for i, layer in enumerate(layers)} for batch in range(count)]

        def side_by_side(*values):
            return {f"y{i}": affine(value) for i, (affine, value) in enumerate(zip(affines, values, strict=True))}

        keep_float32 = any(plan.lowering.keep_float32 for plan in plans.values())
        content = convert(side_by_side, specs, self._inside, batches, keep_float32=keep_float32)
        actual = runtime.run_all(runtime.load(content), batches)
        errors = {}
        for i, layer in enumerate(layers):
            expected = ops.convert_to_numpy(layer.affine(np.concatenate(inputs[layer][:count])))
            errors[layer] = compare_outputs([expected], [actual[f"y{i}"]]).relative_error
        return errors

    @property
    def _inside(self) -> Precision:
        """The precision of a layer amid others: in int8 it takes and gives int8, and pays for the way to float32 and back."""
        return Precision("int8", integer_io=True) if self.precision.name == "int8" else self.precision

    def _problem(self, layer: Layer, shape: Shape) -> Problem:
        precision, device = self.precision.name or "float32", self.device
        return Problem(structure(layer), shape, precision, self.objective, device.name, device.machine, device.runtime)


def front(plans: Mapping[Layer, LayerPlan]) -> list[dict[Layer, LayerPlan]]:
    """The plans for the whole model that no other one beats in both the seconds and the bytes of its butterfly layers together,
    the fastest first; combined from the layers' own fronts."""
    combined: list[tuple[float, int, dict[Layer, LayerPlan]]] = [(0.0, 0, {})]
    for layer, plan in plans.items():
        own = plan.source == "measured"  # wisdom's errors are of other weights
        choices = [(m, replace(plan, lowering=c.lowering, error=m.error if own else NOT_RUN)) for c, m in _pairs(plan.front)]
        combined = _unbeaten(
            [(t + m.seconds, b + m.size_bytes, {**chosen, layer: choice}) for t, b, chosen in combined for m, choice in choices]
        )
    return [chosen for _, _, chosen in combined]


def _unbeaten(points: list[tuple[float, int, T]]) -> list[tuple[float, int, T]]:
    """The points (seconds, bytes, ...) that no other one beats in both, by rising seconds."""
    kept: list[tuple[float, int, T]] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def _pairs(candidates: Sequence[Candidate]) -> list[Pair]:
    return [(candidate, candidate.measured) for candidate in candidates if candidate.measured is not None]


def structure(layer: Layer) -> str:
    """Return in words what a layer's speed depends on: its structure, without name and weights."""
    return "; ".join(map(_described, layer.parts))


def _described(part: Part) -> str:
    if isinstance(part, Matrix):
        return f"matrix {part.shape[0]} x {part.shape[1]}"
    return f"butterfly of {part.stacks}: {_wired(part.wiring)}"


def _wired(wiring: Wiring) -> str:
    order = "increasing" if wiring.increasing else "decreasing"
    text = f"{len(wiring.inputs)} to {len(wiring.outputs)} of {wiring.size} nodes, {order}"
    if wiring.full:
        return text
    return f"{text}, {hashlib.sha256(repr((wiring.inputs, wiring.outputs)).encode()).hexdigest()[:12]}"


def _error(content: bytes, batches: list[dict[str, np.ndarray]], expected: np.ndarray) -> float:
    (actual,) = runtime.run_all(runtime.load(content), batches).values()
    return compare_outputs([expected], [actual]).relative_error


def _rows(shape: Shape) -> int:
    """Rows of the last axis; an unknown axis counts as one."""
    return int(np.prod([1 if axis is None else axis for axis in shape[:-1]]))
