"""The style that all plots share: sizes, colors, markers, ticks, and labels that do not overlap."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np

from .. import files

FORMATS = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp", ".eps", ".ps")
WIDTH = 7.4  # inches: the width of a page of the documentation, so that it shows a plot of this width at its own size
DPI = 150
# The palette of Okabe and Ito, which color-blind readers can tell apart. Its yellow is left out, because it is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# These kinds of layers have the same color in every plot.
KINDS = {
    "dense": "#000000",
    "butterfly": "#0072B2",
    "low rank": "#D55E00",
    "J2^T W' J1": "#009E73",
    "dense, pruned": "#CC79A7",
    "narrow dense": "#E69F00",
    "several kinds": "#56B4E9",
}
MARKERS = {"float32": "o", "float16": "D", "dynamic": "^", "int8": "s"}
# Parameters of matplotlib.
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {[color[1:] for color in COLORS]})",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
}
# Where a label can stand: the direction from its point, and the distance in points of 1/72 inch.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (6, 10, 16, 24, 34)
_FAR = 12  # From this distance on a line leads from the label to its point.
_MARKER = 4  # Half the size of a marker.


@contextmanager
def style() -> Iterator[None]:
    """Give what is drawn in this context, or in a function behind `@style()`, the style of all plots."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def panels(count: int, columns: int = 2, height: float = 2.7):
    """Return a matplotlib Figure as wide as a page, and a list of its axes.

    Args:
        count: number of axes.
        columns: number of axes in a row.
        height: height of a row, in inches.
    """
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def save(figure, path, overwrite: bool = False) -> Path:
    """Write a matplotlib Figure to a file, and return its path.

    Raises:
        ValueError: if the file exists and `overwrite` is False, its folder does not exist, or `path` does not end in a picture
            format.
    """
    check_picture(path)
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=DPI), overwrite)


def colors(names: Iterable[str]) -> dict[str, str]:
    """Return the color of each name: of `KINDS`, or else the next free one. If there are too many names, the colors repeat."""
    distinct = dict.fromkeys(names)
    known = {name: KINDS[name] for name in distinct if name in KINDS}
    free = cycle([color for color in COLORS if color not in known.values()])
    return {name: known.get(name) or next(free) for name in distinct}


def log_scale(axes, which: str) -> None:
    """Make an axis logarithmic, with ticks at round numbers. Call it when everything is drawn.

    Args:
        axes: matplotlib axes.
        which: "x" or "y".
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    if decades < 0.6:
        axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    else:
        axis.set_major_locator(LogLocator(subs=(1,) if decades > 2.5 else (1, 2, 5)))
    axis.set_major_formatter(lambda value, position: short_number(value))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """Return a number as a short text: "0.05", "800", "49.6k" or "2M"."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def label_points(axes, points: Sequence[tuple[float, float]], texts: Sequence[str], avoid: Sequence = ()) -> None:
    """Write each text beside its point, where it covers no point and no other text. Call it when everything is drawn.

    Args:
        axes: matplotlib axes.
        points: (x, y) of each text, in the units of the axes.
        texts: one for each point.
        avoid: further points (x, y) that no text may cover, such as those that `along` returns.
    """
    axes.figure.draw_without_rendering()  # Only then are the places of the axes known.
    pixel = axes.figure.dpi / 72
    frame = axes.get_window_extent().padded(-3 * pixel).extents
    centers = axes.transData.transform(np.reshape([*points, *avoid], (-1, 2)))
    taken = [_box(center, 2 * _MARKER * pixel, 2 * _MARKER * pixel) for center in centers]
    for point, center, text in zip(points, centers, texts, strict=False):
        probe = axes.annotate(literal(text), point, fontsize=8)
        extent = probe.get_window_extent()
        probe.remove()
        places = [
            (np.multiply(direction, (extent.width / 2 + distance * pixel, extent.height / 2 + distance * pixel)), distance)
            for distance, direction in product(_DISTANCES, _DIRECTIONS)
        ]
        boxes = [_box(center + offset, extent.width, extent.height) for offset, _ in places]
        best = int(np.argmin([_covered(box, taken, frame) for box in boxes]))
        offset, distance = places[best]
        taken.append(boxes[best])
        label = axes.annotate(
            literal(text),
            point,
            offset / pixel,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.6, "shrinkB": _MARKER} if distance > _FAR else None,
        )
        label.set_in_layout(False)


def along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return 20 points of each line between one point and the next, if x is drawn logarithmically and is positive."""
    x, y = np.transpose(points)
    corners = np.arange(len(points))
    places = np.linspace(0, corners[-1], 1 + 20 * corners[-1])
    return list(zip(np.exp(np.interp(places, corners, np.log(x))), np.interp(places, corners, y), strict=True))


def _box(center, width: float, height: float) -> np.ndarray:
    """Return the box around a center as (left, bottom, right, top), in pixels."""
    half = np.array([width, height]) / 2
    return np.concatenate([center - half, center + half])


def _covered(box: np.ndarray, taken: list[np.ndarray], frame) -> int:
    """Return the area of `box` that lies on boxes which are taken, plus the area outside of the frame, in whole pixels."""
    return round(sum(_overlap(box, other) for other in taken) + _overlap(box, box) - _overlap(box, frame))


def _overlap(one, other) -> float:
    """Return the area that two boxes share."""
    return float(np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)))


def check_picture(path) -> None:
    """Check that `path` ends in one of the picture formats.

    Raises:
        ValueError: if it does not. The message lists the formats.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"Expected a path that ends in a picture format: {', '.join(FORMATS)}. Received: '{path}'")


def literal(text: str) -> str:
    """Return `text` so changed that matplotlib shows it: dollar signs escaped, question marks for what is no UTF-8."""
    return text.encode(errors="replace").decode().replace("$", r"\$")
