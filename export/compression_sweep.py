"""Which k? Accuracy, weights, file size and latency of one model compressed in several ways."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

from keras_butterfly.compression.distillation import distill
from keras_butterfly.compression.replace import check_model, replace_dense
from keras_butterfly.compression.report import ReplacementReport
from keras_butterfly.utils.labels import check_labels
from keras_butterfly.utils.model_inputs import check_data
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable
from keras_butterfly.utils.validation import positive_integer

from . import files
from .convert import to_tflite
from .measurement import devices
from .measurement.comparison import compare
from .measurement.latency import Latency
from .measurement.plots import check_picture
from .model import TFLiteModel
from .planning.planner import Objective
from .planning.wisdom import Wisdom
from .tflite.quantize import Quantize

ORIGINAL = "original"
# Examples of the training data that the new layers are fitted to.
MOST_FITTED = 4096


class TargetError(ValueError):
    """Nothing that was tried meets the targets."""

    exit_code = 1


@dataclass(frozen=True)
class Point:
    """One way to compress the model, exported and measured.

    Attributes:
        name: "original", "k = 64", "full" or "full, 2 stacks".
        model: the Keras model.
        record: what was replaced; None for the original.
        exported: the .tflite file that score and latency are those of.
        score: accuracy or the caller's metric of the exported file on the evaluation data; higher is better.
        latency: in seconds per invocation.
    """

    name: str
    model: keras.Model
    record: ReplacementReport | None
    exported: TFLiteModel
    score: float
    latency: Latency

    @property
    def weights(self) -> int:
        return self.model.count_params()

    @property
    def size_bytes(self) -> int:
        return self.exported.size_bytes

    def to_dict(self) -> dict:
        """Ready for JSON; seconds and bytes."""
        return {
            "name": self.name,
            "score": self.score,
            "weights": self.weights,
            "size_bytes": self.size_bytes,
            "median_seconds": self.latency.median,
            "changes": [asdict(change) for change in self.record.replacements] if self.record else [],
        }


@dataclass(frozen=True)
class Sweep:
    """What `sweep` found.

    Attributes:
        points: the first is the original model.
        skipped: name -> why, of what fits no layer.
    """

    points: tuple[Point, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def front(self, cost: str = "latency") -> list[Point]:
        """The points that no other beats in both score and `cost`, "latency" or "size"; the cheapest first.

        Raises:
            ValueError: for another `cost`.
        """
        if cost not in ("latency", "size"):
            raise ValueError(f'`cost` must be "latency" or "size". Received: cost={cost!r}')
        front: list[Point] = []
        for point in sorted(self.points, key=lambda p: (_cost(p, cost), -p.score)):
            if not front or point.score > front[-1].score:
                front.append(point)
        return front

    def pick(
        self,
        *,
        target_latency: float | None = None,
        target_size: int | None = None,
        max_accuracy_drop: float | None = None,
    ) -> Point:
        """The compressed point that meets all targets: the best score where latency or size are limited, else the fastest.

        Args:
            target_latency: largest median, in seconds.
            target_size: largest file, in bytes.
            max_accuracy_drop: how far the score may lie below the original's.

        Raises:
            TargetError: if none does; it names the nearest.
            ValueError: without a target.
        """
        if target_latency is None and target_size is None and max_accuracy_drop is None:
            raise ValueError("Expected at least one target: target_latency, target_size or max_accuracy_drop. Received: none")
        limits = {
            "latency": np.inf if target_latency is None else target_latency,
            "size": np.inf if target_size is None else target_size,
            "drop": np.inf if max_accuracy_drop is None else max_accuracy_drop,
        }
        meets = [point for point in self.points[1:] if all(self._figures(point)[name] <= limits[name] for name in limits)]
        if not meets:
            missed = "; ".join(f"{point.name}: {self._described(point)}" for point in self.points[1:])
            raise TargetError(f"Nothing tried meets the targets. {missed}. Try other ks or stacks, more epochs, or int8.")
        if target_latency is None and target_size is None:
            return min(meets, key=lambda point: point.latency.median)
        return max(meets, key=lambda point: point.score)

    def _figures(self, point: Point) -> dict[str, float]:
        drop = self.points[0].score - point.score
        return {"latency": point.latency.median, "size": point.size_bytes, "drop": drop}

    def _described(self, point: Point) -> str:
        figures = self._figures(point)
        return f"{figures['latency'] * 1e6:.1f} us, {figures['size'] / 1024:.0f} KiB, {figures['drop']:.4f} below the original"

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show."""
        facts = self.points[0].latency
        table = TextTable(title=f"{facts.runtime}, threads {facts.threads}, {facts.machine}", title_justify="left")
        table.add_column("hidden layers")
        for column in ("score", "weights", "part", "KiB", "median us", "speed-up"):
            table.add_column(column, justify="right")
        base = self.points[0]
        for point in self.points:
            part, speedup = base.weights / point.weights, base.latency.median / point.latency.median
            cells = (f"{point.score:.4f}", f"{point.weights:,}", f"1/{part:.1f}", f"{point.size_bytes / 1024:,.0f}")
            table.add_row(point.name, *cells, f"{point.latency.median * 1e6:,.1f}", f"{speedup:.1f}x")
        return table

    def to_dict(self) -> dict:
        return {"points": [point.to_dict() for point in self.points], "skipped": self.skipped}

    def to_json(self, path, overwrite: bool = False) -> Path:
        """Writes `to_dict` as JSON.

        Raises:
            ValueError: if the file exists and `overwrite` is False.
        """
        return files.write(path, json.dumps(self.to_dict(), indent=2).encode(), overwrite)

    def plot(self, path, overwrite: bool = False) -> Path:
        """Writes a picture: score over latency and over file size, the Pareto fronts as lines. Needs matplotlib.

        Raises:
            ValueError: if the file exists and `overwrite` is False.
        """
        files.check_writable(path, overwrite)
        check_picture(path)
        figure = self.figure()
        return files.write(path, lambda temporary: figure.savefig(temporary, dpi=150), overwrite)

    def figure(self):
        """The picture that `plot` writes, as a matplotlib Figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        scales = {"latency": (1e6, "median latency, microseconds"), "size": (1 / 1024, "file size, KiB")}
        for axes, (cost, (scale, label)) in zip(figure.subplots(1, 2, sharey=True), scales.items(), strict=True):
            for point in self.points:
                axes.scatter(_cost(point, cost) * scale, point.score)
                axes.annotate(f" {point.name}", (_cost(point, cost) * scale, point.score), fontsize=8)
            front = self.front(cost)
            axes.plot([_cost(p, cost) * scale for p in front], [p.score for p in front], color="gray", zorder=0)
            axes.set(xscale="log", xlabel=label)
        figure.axes[0].set(ylabel="score of the exported file")
        return figure


def sweep(
    model: keras.Model,
    data,
    *,
    ks: Sequence[int] = (),
    stacks: Sequence[int] = (1,),
    train=None,
    epochs: int = 0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    metric: Callable | None = None,
    where=None,
    initialize: str = "fit",
    steps: int | None = None,
    seed: int | None = None,
    loss=None,
    quantize: Quantize | None = None,
    objective: Objective = "latency",
    wisdom: Wisdom | None = None,
    runs: int = 100,
    device: str | devices.Device = "host",
    progress: bool | None = None,
) -> Sweep:
    """Compresses a model in several ways, recovers, exports, and measures all in turn.

    Args:
        model: a built model.
        data: (x, y) that every exported file is scored on; x as the model takes it.
        ks: of sandwiches J2^T W' J1, one point each.
        stacks: of full butterflies, one point each; () for none.
        train: (x, y), or (x, None) without labels: the layers are fitted to a part of x, and `epochs` of distillation from the
            original follow. Default: nothing is trained, and the layers are fitted to x of `data`.
        epochs, batch_size, learning_rate: of `distill`.
        metric: function of (y, outputs) to a number, higher is better. Default: accuracy, of integer labels y.
        where, initialize, steps, seed: as in `replace_dense`.
        loss: of the labels, as in `distill`.
        quantize: precision of the exports; for "int8" calibrated on x of `train`, else of `data`.
        objective: of the exports, "latency" or "size".
        wisdom: as in `to_tflite`.
        runs: timed blocks of each model.
        device: the device that measures, as for `to_tflite`.
        progress: show bars on stderr. Default: where it is a terminal.

    Returns:
        A `Sweep`: the original first, then full butterflies, then sandwiches.

    Raises:
        ValueError: as `replace_dense`, `distill` and `to_tflite`; for nothing to try, epochs without `train`, or labels that do
            not fit.
    """
    check_model(model)
    x, y = _pair(model, data, "data")
    if train is None and epochs:
        raise ValueError(f"Expected `train` to train on; scores on what was trained on say little. Received: epochs={epochs}")
    tried: list[tuple[str, dict]] = []
    tried += [("full" if n == 1 else f"full, {n} stacks", {"stacks": positive_integer(n, "stacks")}) for n in stacks]
    tried += [(f"k = {k}", {"k": positive_integer(k, "k")}) for k in ks]
    if not tried:
        raise ValueError("Expected something to try: `ks`, `stacks` or both. Received: neither")
    score = accuracy if metric is None else metric
    taught, labels = (x, None) if train is None else _pair(model, train, "train")
    some = sample(taught, MOST_FITTED)
    settings: dict = {"where": where, "initialize": initialize, "data": some, "seed": seed}
    settings |= {} if steps is None else {"steps": steps}
    training: dict = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "loss": loss}
    exporting: dict = {"quantize": quantize, "objective": objective, "wisdom": wisdom, "device": device}
    exporting |= {"representative_data": some} if quantize == "int8" else {}
    models: dict[str, tuple[keras.Model, ReplacementReport | None]] = {ORIGINAL: (model, None)}
    exported: dict[str, TFLiteModel] = {}
    scores, skipped = {}, {}
    with Progress(progress) as bars:
        # The original first: labels or a metric that do not fit are found before the long work.
        for name, how in bars.each([(ORIGINAL, {}), *tried], "compress, recover and export"):
            if name != ORIGINAL:
                try:
                    models[name] = replace_dense(model, progress=False, **settings, **how)
                except ValueError as error:
                    skipped[name] = str(error)
                    continue
                if epochs:
                    distill(models[name][0], model, taught, labels, progress=False, **training)
            exported[name] = to_tflite(models[name][0], progress=False, **exporting)
            scores[name] = float(score(y, exported[name].predict(_listed(x))))
        if len(models) == 1:
            raise ValueError(next(iter(skipped.values())))
    latencies = compare(exported, runs=runs, device=device, progress=progress).latencies
    points = (Point(name, *models[name], exported[name], scores[name], latencies[name]) for name in models)
    return Sweep(tuple(points), skipped)


def sample(x, count: int):
    """At most `count` examples, drawn at random: the first may be all of one kind."""
    total = len(keras.tree.flatten(x)[0])
    chosen = np.sort(np.random.default_rng(0).choice(total, min(count, total), replace=False))
    return keras.tree.map_structure(lambda array: array[chosen], x)


def _listed(x):
    """Inputs in the order in which the exported model takes them."""
    flat = keras.tree.flatten(x)
    return flat if len(flat) > 1 else flat[0]


def _pair(model, data, name: str):
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(f"Expected `{name}` as a pair (x, y). Received: {type(data).__name__}")
    x = check_data(model, data[0])
    if data[1] is None:
        if name == "data":
            raise ValueError("Expected labels to score with: `data` as (x, y). Received: y=None")
        return x, None
    y = np.asarray(data[1])
    if y.ndim == 0 or len(y) != len(keras.tree.flatten(x)[0]):
        raise ValueError(f"Expected as many labels as examples in `{name}`. Received: {y.shape}")
    return x, y


def accuracy(labels, outputs) -> float:
    """Return the part of the examples whose largest output is the label; of a single output whether it lies above 1/2.

    Raises:
        ValueError: for labels that are not one integer for each output, or beyond the classes, or for several outputs.
    """
    if isinstance(outputs, list):
        raise ValueError(f"Expected a model of one output, or a `metric` of your own. Received: {len(outputs)} outputs")
    guesses = outputs[..., 0] > 0.5 if outputs.shape[-1] == 1 else outputs.argmax(-1)
    flat = np.asarray(labels).reshape(-1) if np.size(labels) == guesses.size and np.ndim(labels) else labels
    return float(np.mean(guesses.reshape(-1) == check_labels(flat, guesses.size, max(outputs.shape[-1], 2))))


def _cost(point: Point, cost: str) -> float:
    return point.latency.median if cost == "latency" else float(point.size_bytes)
