"""Which of the models that were tried is picked, and why."""

from collections.abc import Sequence

from .blueprint import ORIGINAL
from .compression import Point, described
from .targets import Targets

UNSEEN = (
    "Models were scored on a part of the data that they did not train on. If the original was trained on it, its score is too "
    "high and the drops look larger than they are. Then give `validation_data`, or x_test and y_test in --data."
)
STOPPED = "The time limit ended the search early. More time may find a better model."


def picked(points: Sequence[Point], original: Point, targets: Targets) -> tuple[Point, bool]:
    """Return the best point that meets the targets, or else the nearest, and whether it meets them.

    The best is the one with the highest score if latency or size are limited, and else the fastest. Drops of the score are
    counted from the original.
    """
    excess = {id(point): _excess(point, original, targets) for point in points}
    meeting = [point for point in points if excess[id(point)] <= 0]
    if not meeting:
        return min(points, key=lambda point: excess[id(point)]), False
    if targets.limits_cost:
        return max(meeting, key=lambda point: (point.score, -point.latency.median)), True
    return min(meeting, key=lambda point: point.latency.median), True


def reasons(points: Sequence[Point], pick: Point, meets: bool, targets: Targets) -> list[str]:
    """Return sentences that say why `pick` was picked, and how the best models of other kinds compare with it.

    Args:
        points: all models, the original first.
        pick, meets: the pick, and whether it meets the targets, as `picked` returns them.
        targets: the targets.
    """
    original = points[0]
    sentences = [_choice(points, pick, meets, targets), f"'{pick.name}': {described(pick, original)}."]
    families = dict.fromkeys(point.family for point in points if point.family not in (ORIGINAL, pick.family))
    for family in families:
        alike = [point for point in points if point.family == family]
        best, _ = picked(alike, original, targets)
        sentences.append(f"The best of the kind {family} is '{best.name}': {described(best, original)}.")
    return sentences


def _choice(points: Sequence[Point], pick: Point, meets: bool, targets: Targets) -> str:
    """Return a sentence that says what was picked, and among how many models."""
    trained = len({tuple(point.layers.items()) for point in points if point.layers})
    if not trained and meets:
        return f"'{pick.name}' meets the targets ({targets}), so no smaller model was trained."
    if not trained:
        return f"No model meets the targets ({targets}), and no smaller model could be trained."
    precisions = len({point.precision for point in points})
    among = f"of {trained} trained models and the original" + (f", in up to {precisions} precisions" if precisions > 1 else "")
    if not meets:
        return f"No model meets the targets ({targets}). '{pick.name}' is the nearest {among}."
    wanted = "most accurate" if targets.limits_cost else "fastest"
    return f"'{pick.name}' is the {wanted} that meets the targets ({targets}), {among}."


def _excess(point: Point, original: Point, targets: Targets) -> float:
    return targets.excess(point.latency.median, point.size_bytes, original.score - point.score)
