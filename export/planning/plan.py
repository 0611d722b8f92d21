"""The lowering chosen for one layer, and the plans of a whole model that trade latency for size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..lowering import Dense, Layer, Lowering
from .observe import Shape
from .wisdom import Candidate, Measurement

T = TypeVar("T")

# The error of a plan before its lowering is run.
NOT_RUN = float("nan")


@dataclass(frozen=True)
class LayerPlan:
    """The lowering chosen for one layer.

    Attributes:
        layer: the layer's name, or its path in the model if several layers have this name.
        input_shape: the shape of the layer's input at its first call in the export. An axis is None where it is not fixed.
        lowering: the lowering that was chosen.
        source: "measured", "wisdom" (measured before), "estimated" or "given" (by the caller).
        error: the error of this lowering alone in the exported precision: the largest difference from Keras before the
            activation, divided by the largest value there. The inputs are those of the layer while the model runs on the
            representative data.
        limit: the largest error permitted.
        candidates: all lowerings that were considered.
        baseline: the dense kernel, estimated. In seconds it is measured only where it may be the fastest.
        device: the name of the device for which the layer is planned.
    """

    layer: str
    input_shape: Shape
    lowering: Lowering
    source: str
    error: float
    limit: float
    candidates: tuple[Candidate, ...] = ()
    baseline: Candidate | None = None
    device: str = "host"

    @property
    def within_limit(self) -> bool:
        """Whether the error is at most the limit. Where no candidate is that exact, the most exact one is chosen."""
        return self.error <= self.limit

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that was chosen, or None if the caller gave the lowering."""
        return next((candidate for candidate in self.candidates if candidate.lowering == self.lowering), None)

    @property
    def dense(self) -> Candidate | None:
        """The candidate that writes the whole kernel as `keras.layers.Dense` does: measured if it was, else estimated."""
        return next((candidate for candidate in self.candidates if candidate.lowering == Dense()), self.baseline)

    @property
    def pareto_candidates(self) -> tuple[Candidate, ...]:
        """The measured candidates within the limit that no other beats in both cost and bytes, the fastest first.

        Where none is within the limit, this is the chosen candidate alone.
        """
        exact = [(c, m) for c, m in measured_pairs(self.candidates) if m.error <= self.limit or c is self.chosen]
        return tuple(candidate for _, _, candidate in _pareto_points([(m.cost, m.size_bytes, c) for c, m in exact]))

    def more_exact(self) -> "LayerPlan":
        """Return the plan with the cheapest lowering of at most half of the error, or this plan if none was measured."""
        chosen = self.chosen.measured if self.chosen else None
        pairs = [pair for pair in measured_pairs(self.candidates) if chosen and pair[1].error <= chosen.error / 2]
        if not pairs:
            return self
        best, measured = min(pairs, key=lambda pair: pair[1].cost)
        error = measured.error if self.source == "measured" else NOT_RUN
        return replace(self, lowering=best.lowering, error=error)

    def passed_over(self, candidate: Candidate) -> str:
        """Return in words why `candidate` was not chosen; empty for the chosen one."""
        chosen, measured = self.chosen, candidate.measured
        if chosen is None or candidate is chosen:
            return ""
        if measured is None or chosen.measured is None:
            return "estimated to be slower" if candidate.estimate > chosen.estimate else "estimated to be larger"
        slower = "slower" if measured.unit == "seconds" else "more counts"
        if measured.error > self.limit and candidate.lowering != Dense():
            return f"error above {self.limit:.2g}"
        if measured.size_bytes >= chosen.measured.size_bytes:
            return slower if measured.cost > chosen.measured.cost else "larger, and hardly faster"
        return slower if measured.cost > chosen.measured.cost else "not exact enough"


def pareto_plans(plans: Mapping[Layer, LayerPlan]) -> list[dict[Layer, LayerPlan]]:
    """Return the plans for a whole model that no other beats in both cost and bytes, the fastest first.

    Costs and bytes are added up over the butterfly layers. The plans are combined from the candidates of each layer that no
    other candidate beats.
    """
    combined: list[tuple[float, int, dict[Layer, LayerPlan]]] = [(0.0, 0, {})]
    for layer, plan in plans.items():
        fresh = plan.source == "measured"  # errors from wisdom are of other weights
        choices = [
            (measured, replace(plan, lowering=candidate.lowering, error=measured.error if fresh else NOT_RUN))
            for candidate, measured in measured_pairs(plan.pareto_candidates)
        ]
        combined = _pareto_points(
            [(t + m.cost, b + m.size_bytes, {**chosen, layer: choice}) for t, b, chosen in combined for m, choice in choices]
        )
    return [chosen for _, _, chosen in combined]


def measured_pairs(candidates: Sequence[Candidate]) -> list[tuple[Candidate, Measurement]]:
    """Return the candidates that were measured, each with its measurement."""
    return [(candidate, candidate.measured) for candidate in candidates if candidate.measured is not None]


def _pareto_points(points: list[tuple[float, int, T]]) -> list[tuple[float, int, T]]:
    """Return the points (cost, bytes, ...) that no other beats in both, by rising cost."""
    kept: list[tuple[float, int, T]] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
