"""The result of a search: all models that were tried, the one that was picked, and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
from rich.text import Text

from keras_butterfly.compression.report import ReplacementReport
from keras_butterfly.utils.text_table import TextTable

from .. import files
from ..measurement import plots
from ..measurement.latency import Latency
from ..model import TFLiteModel
from .blueprint import KIND_OF

COSTS = ("latency", "size")
# For each cost, what turns seconds or bytes into the unit of its axis in a plot, and the label of that axis.
AXES = {"latency": (1e6, "median latency, us"), "size": (1 / 1024, "file size, KiB")}


@dataclass(frozen=True)
class Point:
    """A model that was tried: exported, scored and measured.

    Attributes:
        name: "original", or the widths and the structures with their layers, such as "two stages: hidden_0, hidden_1". If the
            search chose the precision too, the name ends with it.
        layers: what each changed layer became, in words, by its path.
        family: "original", "narrower", "low rank", "butterfly", "narrower butterfly", "narrower low rank", or
            "mixed".
        model: the Keras model.
        report: which layers were replaced. None if none was.
        exported: the exported model, whose score and latency are given.
        score: accuracy, or the caller's metric, of the exported model on the examples that were held back. Higher is better.
        latency: the latency of the exported model. All points were measured in turns.
        learning_rate: the learning rate with which the model was trained. None for the original.
    """

    name: str
    layers: Mapping[str, str]
    family: str
    model: keras.Model
    report: ReplacementReport | None
    exported: TFLiteModel
    score: float
    latency: Latency
    learning_rate: float | None = None

    @property
    def weights(self) -> int:
        """The number of weights of the Keras model."""
        return self.model.count_params()

    @property
    def size_bytes(self) -> int:
        """The size of the exported file, in bytes."""
        return self.exported.size_bytes

    @property
    def precision(self) -> str:
        """The precision of the exported model: "float32", "float16", "dynamic" or "int8"."""
        return self.exported.precision.label

    def to_dict(self) -> dict:
        """Return the figures as a dict of plain values, which JSON can hold. Times are in seconds, sizes in bytes."""
        return {
            "name": self.name,
            "layers": dict(self.layers),
            "family": self.family,
            "precision": self.precision,
            "score": self.score,
            "weights": self.weights,
            "size_bytes": self.size_bytes,
            "median_seconds": self.latency.median,
            "learning_rate": self.learning_rate,
            "replacements": [asdict(each) for each in self.report.replacements] if self.report else [],
        }


@dataclass(frozen=True)
class Compression:
    """The result of `compress`: all small models that were tried, and the one that was picked.

    Attributes:
        points: the models. The first is the original.
        pick: the best point that meets the targets, or the nearest one if no point meets them.
        why: sentences that say why the pick was picked, and what limits its figures.
        score_name: what the scores are: "accuracy", "agreement with the original" or "score", that of the caller's metric.
        skipped: maps the name of each model that could not be exported, or is off by more than the tolerance, to the reason.
        seconds: how long the search took.
        meets: whether the pick meets the targets. Otherwise it is the nearest.
    """

    points: tuple[Point, ...]
    pick: Point
    why: tuple[str, ...]
    score_name: str = "accuracy"
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    meets: bool = True

    @property
    def model(self) -> keras.Model:
        """The Keras model of the pick."""
        return self.pick.model

    @property
    def exported(self) -> TFLiteModel:
        """The exported model of the pick."""
        return self.pick.exported

    def front(self, cost: str = "latency") -> list[Point]:
        """Return the points that no other point beats in both score and cost, the cheapest first.

        Args:
            cost: "latency" or "size".

        Raises:
            ValueError: if `cost` is another word.
        """
        if cost not in COSTS:
            raise ValueError(f'`cost` must be "latency" or "size". Received: cost={cost!r}')
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (cost_of(p, cost), -p.score)):
            if not best or point.score > best[-1].score:
                best.append(point)
        return best

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show. The pick is marked."""
        facts = self.points[0].latency
        table = TextTable(title=f"{facts.runtime}, threads {facts.threads}, {facts.machine}", title_justify="left")
        table.add_column("layers")
        for column in (self.score_name, "weights", "part", "KiB", "median us", "speed-up"):
            table.add_column(column, justify="right")
        base = self.points[0]
        for point in sorted(self.points, key=lambda point: -point.latency.median):
            part, speedup = base.weights / point.weights, base.latency.median / point.latency.median
            cells = (f"{point.score:.4f}", f"{point.weights:,}", f"1/{part:.1f}", f"{point.size_bytes / 1024:,.0f}")
            name = f"{point.name} ({'picked' if self.meets else 'nearest'})" if point is self.pick else point.name
            table.add_row(name, *cells, f"{point.latency.median * 1e6:,.1f}", f"{speedup:.1f}x")
        if self.skipped:
            table.caption = Text("\n".join(f"{name} is left out: {reason}" for name, reason in self.skipped.items()))
            table.caption_justify = "left"
        return table

    def to_dict(self) -> dict:
        """Return all figures as a dict of plain values, which JSON can hold. Times are in seconds, sizes in bytes."""
        return {
            "pick": self.pick.to_dict(),
            "why": list(self.why),
            "score": self.score_name,
            "points": [point.to_dict() for point in self.points],
            "fronts": {cost: [point.name for point in self.front(cost)] for cost in COSTS},
            "skipped": dict(self.skipped),
            "seconds": self.seconds,
        }

    def to_json(self, path, overwrite: bool = False) -> Path:
        """Write `to_dict` to a JSON file, and return its path.

        Raises:
            ValueError: if the file exists and `overwrite` is False.
        """
        return files.write(path, json.dumps(self.to_dict(), indent=2).encode(), overwrite)

    def plot(self, path, overwrite: bool = False) -> Path:
        """Write `figure` to a picture file, and return its path. Needs matplotlib.

        Raises:
            ValueError: if the file exists and `overwrite` is False.
        """
        files.check_writable(path, overwrite)
        plots.check_picture(path)
        return plots.save(self.figure(), path, overwrite)

    @plots.style()
    def figure(self):
        """Return a matplotlib Figure: the scores over latency and over file size, with the fronts as lines.

        The models are numbered. The legend has their names, by rising latency, and the colors of their kinds.
        """
        points = sorted(self.points, key=lambda point: point.latency.median)
        figure, axes = plots.panels(2, height=3.0 + 0.12 * len(points))
        axes[1].sharey(axes[0])
        axes[1].tick_params(labelleft=False)
        precisions = list(dict.fromkeys(point.precision for point in self.points))
        numbers = [str(number + 1) for number in range(len(points))]
        for axis, cost in zip(axes, COSTS, strict=True):
            front = self._places(cost, self.front(cost))
            axis.plot(*zip(*front, strict=True), color="gray", linewidth=1, zorder=0, label="front")
            for number, point, place in zip(numbers, points, self._places(cost, points), strict=True):
                color, label = plots.KINDS[KIND_OF[point.family]], plots.literal(f"{number}  {point.name}")
                axis.scatter(*place, marker=plots.MARKERS[point.precision], color=color, s=30, label=label)
            axis.scatter(*self._places(cost, [self.pick])[0], facecolors="none", edgecolors="black", s=110, label="picked")
            axis.set(xlabel=AXES[cost][1])
            axis.margins(x=0.1, y=0.1)
            plots.log_scale(axis, "x")
        axes[0].set(ylabel=f"{self.score_name}\nof the {' or '.join(precisions)} file")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        for axis, cost in zip(axes, COSTS, strict=True):
            plots.label_points(axis, self._places(cost, points), numbers, plots.along(self._places(cost, self.front(cost))))
        return figure

    def _places(self, cost: str, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Return the places of points in the plot: the cost in the unit of its axis, and the score."""
        return [(cost_of(point, cost) * AXES[cost][0], point.score) for point in points]


def cost_of(point: Point, cost: str) -> float:
    """Return the latency of a point in seconds, or its size in bytes."""
    return point.latency.median if cost == "latency" else float(point.size_bytes)


def described(point: Point, original: Point) -> str:
    """Return the figures of a point in words: its latency, its size, and its score relative to the original's."""
    difference = point.score - original.score
    side = "below" if difference < 0 else "above"
    relative = f", {abs(difference):.4f} {side} the original" if point is not original else ""
    speedup = original.latency.median / point.latency.median
    figures = f"{point.latency.median * 1e6:,.1f} us, {point.size_bytes / 1024:,.0f} KiB, score {point.score:.4f}"
    return f"{figures}{relative}, {speedup:.1f}x as fast"
