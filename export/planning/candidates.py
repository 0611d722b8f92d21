"""Which lowerings of a layer are sensible, and which few of them are worth a measurement, by their estimates."""

from dataclasses import dataclass, replace

from ..lowering import KINDS, Dense, Layer, Lowering
from .cost import estimate, estimated_bytes

# A candidate estimated to take this many times the best one's time is not measured: the estimate is of another machine.
MAX_OVER_BEST = 3.0
# How many of the smallest are measured as well where size counts.
MAX_SMALLEST = 4


@dataclass(frozen=True)
class Limits:
    """How many lowerings of a layer are measured, beside the best of each family.

    Attributes:
        measured: those with the lowest estimates.
        in_float32: of the best in float32, those that are measured in float32 inside a quantized model too, from int8 weights.
        with_float32_weights: the same in an int8 model from weights in float32.
    """

    measured: int
    in_float32: int
    with_float32_weights: int


THOROUGH, QUICK = Limits(12, 6, 2), Limits(5, 1, 1)


def lowerings(layer: Layer) -> list[Lowering]:
    """Return all sensible lowerings of `layer`: at least `Dense`, and never `Gather`, which has to be asked for."""
    return [lowering for kind in KINDS.values() for lowering in kind.candidates(layer.parts())]


def shortlist(layer: Layer, rows: int, precision: str | None, small: bool = False, limits: Limits = THOROUGH) -> list[Lowering]:
    """Return the lowerings to measure, the one with the lowest estimate first; with `small` also those with the fewest weights.

    In int8 and in "dynamic" the best of them come once more with their arithmetic in float32, in int8 also with their weights.
    For more than one row `Dense` is among them there, so that no export is slower than Dense.
    """
    choices = lowerings(layer)
    estimates = {lowering: estimate(layer, lowering, rows, precision) for lowering in choices}
    ranked = sorted(choices, key=estimates.__getitem__)
    best = estimates[ranked[0]]
    kept = [lowering for lowering in ranked if estimates[lowering] <= MAX_OVER_BEST * best]
    # The best of each family is kept, however it is estimated.
    firsts = {lowering.family: lowering for lowering in reversed(kept)}.values()
    kept = kept[: limits.measured] + [lowering for lowering in kept[limits.measured :] if lowering in firsts]
    if precision in ("int8", "dynamic"):
        # For several rows some processors multiply int8 matrices many times as fast as the estimates know.
        kept += [Dense()] if rows > 1 and Dense() not in kept else []
        in_float = [lowering for lowering in shortlist(layer, rows, None, limits=limits) if lowering.worth_float32]
        kept += [replace(lowering, keep_float32="arithmetic") for lowering in in_float[: limits.in_float32]]
        exact = in_float[: limits.with_float32_weights] if precision == "int8" else []
        kept += [replace(lowering, keep_float32="weights") for lowering in exact]
    if small:
        sizes = {lowering: estimated_bytes(layer, lowering, precision) for lowering in choices}
        smallest = sorted(choices, key=lambda lowering: (sizes[lowering], estimates[lowering]))[:MAX_SMALLEST]
        kept += [lowering for lowering in smallest if lowering not in kept]
    return kept
