"""Compressing one model in several ways, and measuring the accuracy, size and latency of each, to choose one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import keras
import numpy as np
from rich.text import Text

from keras_butterfly.compression.distillation import check_training_labels, distill
from keras_butterfly.compression.fitting import STEPS
from keras_butterfly.compression.replace import replace_dense
from keras_butterfly.compression.report import ReplacementReport
from keras_butterfly.layers.sizes import check_stacks
from keras_butterfly.structure.wiring import Radix
from keras_butterfly.utils.labels import check_labels
from keras_butterfly.utils.model_checks import check_model
from keras_butterfly.utils.model_inputs import check_data, first_outputs
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable
from keras_butterfly.utils.validation import positive_integer

from . import files
from .convert import to_tflite
from .measurement import devices
from .measurement.comparison import compare
from .measurement.latency import Latency
from .measurement.plots import check_picture
from .measurement.timing import check_extent
from .model import TFLiteModel
from .planning.planner import Objective
from .planning.wisdom import Wisdom
from .tflite.quantize import Quantize

# Number of examples of the training data that the new layers are fitted to.
MAX_FITTED = 4096


class TargetError(ValueError):
    """The error that no model of a sweep meets the targets."""

    exit_code = 1


@dataclass(frozen=True)
class Point:
    """A compressed model, exported and measured.

    Attributes:
        name: "original", "k = 64", "full" or "full, 2 stacks".
        model: the Keras model.
        report: which layers were replaced. None for the original.
        exported: the exported model, whose score and latency are given.
        score: accuracy, or the caller's metric, of the exported model on the evaluation data. Higher is better.
        latency: seconds per invocation.
    """

    name: str
    model: keras.Model
    report: ReplacementReport | None
    exported: TFLiteModel
    score: float
    latency: Latency

    @property
    def weights(self) -> int:
        """The number of weights of the Keras model."""
        return self.model.count_params()

    @property
    def size_bytes(self) -> int:
        """The size of the exported file, in bytes."""
        return self.exported.size_bytes

    def to_dict(self) -> dict:
        """Return the figures as a dict of plain values, which JSON can hold. Times are in seconds, sizes in bytes."""
        return {
            "name": self.name,
            "score": self.score,
            "weights": self.weights,
            "size_bytes": self.size_bytes,
            "median_seconds": self.latency.median,
            "replacements": [asdict(each) for each in self.report.replacements] if self.report else [],
        }


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`: a model compressed in several ways.

    Attributes:
        points: the models. The first is the original.
        skipped: maps the name of each variant that fits no layer of the model, cannot be exported, or is off by more than the
            tolerance, to the reason.
    """

    points: tuple[Point, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def pareto_points(self, cost: str = "latency") -> list[Point]:
        """Return the points that no other point beats in both score and cost, the cheapest first.

        Args:
            cost: "latency" or "size".

        Raises:
            ValueError: if `cost` is another word.
        """
        if cost not in ("latency", "size"):
            raise ValueError(f'`cost` must be "latency" or "size". Received: cost={cost!r}')
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (_cost(p, cost), -p.score)):
            if not best or point.score > best[-1].score:
                best.append(point)
        return best

    def pick(
        self,
        *,
        target_latency: float | None = None,
        target_size: int | None = None,
        max_accuracy_drop: float | None = None,
    ) -> Point:
        """Return the best compressed model that meets all targets.

        It is the one with the highest score if latency or size are limited, and else the fastest.

        Args:
            target_latency: largest median latency, in seconds.
            target_size: largest file, in bytes.
            max_accuracy_drop: largest difference of the original's score and the model's, in the unit of the score; of an
                accuracy, 0.01 is one percentage point.

        Raises:
            TargetError: if no model meets the targets. The message names the figures of each.
            ValueError: if no target is given.
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
        if self.skipped:
            table.caption = Text("\n".join(f"{name} is left out: {reason}" for name, reason in self.skipped.items()))
            table.caption_justify = "left"
        return table

    def to_dict(self) -> dict:
        """Return the sweep as a dict of plain values, which JSON can hold. Times are in seconds, sizes in bytes."""
        return {"points": [point.to_dict() for point in self.points], "skipped": self.skipped}

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
        check_picture(path)
        figure = self.figure()
        return files.write(path, lambda temporary: figure.savefig(temporary, dpi=150), overwrite)

    def figure(self):
        """Return a matplotlib Figure: the scores over latency and over file size, with the Pareto fronts as lines."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        scales = {"latency": (1e6, "median latency, microseconds"), "size": (1 / 1024, "file size, KiB")}
        for axes, (cost, (scale, label)) in zip(figure.subplots(1, 2, sharey=True), scales.items(), strict=True):
            for point in self.points:
                axes.scatter(_cost(point, cost) * scale, point.score)
                axes.annotate(f" {point.name}", (_cost(point, cost) * scale, point.score), fontsize=8)
            best = self.pareto_points(cost)
            axes.plot([_cost(p, cost) * scale for p in best], [p.score for p in best], color="gray", zorder=0)
            axes.set(xscale="log", xlabel=label)
        figure.axes[0].set(ylabel="score of the exported file")
        return figure


def sweep(
    model: keras.Model,
    data,
    *,
    ks: Sequence[int] = (),
    stacks: Sequence[int] = (1,),
    radix: Radix | None = None,
    train=None,
    epochs: int = 0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    loss=None,
    metric: Callable | None = None,
    where=None,
    min_weights: int | None = None,
    initialize: Literal["auto", "fit", "fresh"] = "auto",
    steps: int = STEPS,
    seed: int | None = None,
    quantize: Quantize | None = None,
    objective: Objective = "latency",
    wisdom: Wisdom | None = None,
    runs: int = 100,
    device: str | devices.Device = "host",
    progress: bool | None = None,
) -> Sweep:
    """Compress a model in several ways, and measure the accuracy, size and latency of each.

    Each compressed model is made by `replace_dense`, trained by `distill` if `epochs` is not 0, and exported by `to_tflite`.
    The latencies of all exported models are then measured in turns.

    Args:
        model: a built model.
        data: (x, y), on which every exported model is scored. x is in the form that the model takes.
        ks: for each k, the model is compressed by `ButterflyDense` layers of that rank.
        stacks: for each number, the model is compressed by `Butterfly` layers of that many stacks. (): by none.
        radix: as in `replace_dense`, for all butterflies.
        train: (x, y), or (x, None) without labels, for `epochs` of distillation from the original. Layers that are fitted are
            fitted to a part of x. None (default): nothing is trained, and the layers are fitted to x of `data`.
        epochs, batch_size, learning_rate, loss: as in `distill`.
        metric: function of (y, outputs) that returns a number, higher is better. None (default): accuracy, for integer labels.
        where, min_weights, steps, seed: as in `replace_dense`.
        initialize: as in `replace_dense`. "auto" (default) means "fit" if `epochs` is 0, because nothing is trained.
        quantize: precision of the exported models. "int8" is calibrated on x of `train`, or else of `data`.
        objective, wisdom: as in `to_tflite`.
        runs: number of timed blocks of each model.
        device: where latency is measured, as in `measure`.
        progress: True: show progress bars on stderr. False: show none. None (default): show them if stderr is a terminal.

    Returns:
        A `Sweep`, whose points are the original, then the models of `stacks`, then those of `ks`.

    Raises:
        ValueError: as `replace_dense`, `distill` and `to_tflite`. Also if `ks` and `stacks` are both empty, if `epochs` is
            given without `train`, or if labels do not fit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(32, 64)).astype("float32"), rng.integers(0, 2, 32)
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2)])
        >>> result = export.sweep(model, (x, y), ks=(4,), stacks=(), initialize="fresh", runs=10)
        >>> [point.name for point in result.points]
        ['original', 'k = 4']
    """
    check_model(model)
    check_extent(runs=runs)
    if devices.unit(devices.find(device)) != "seconds":
        raise ValueError(
            f"Expected a device that measures seconds, because targets are in seconds. Received: device={device!r}"
        )
    variants = _variants(ks, stacks)
    x, y = _inputs_and_labels(model, data, "data")
    if y is None:
        raise ValueError("Expected labels to score with: `data` as (x, y). Received: y=None")
    if train is None and epochs:
        raise ValueError(
            f"Expected `train`, other examples than `data` to train on, with `epochs`. Received: epochs={epochs}, train=None"
        )
    train_x, train_y = (x, None) if train is None else _inputs_and_labels(model, train, "train")
    if metric is None:
        check_scorable(y, first_outputs(model, x, 1), len(y))
    if epochs and train_y is not None:
        check_training_labels(model, train_x, train_y, loss)
    fitted = sample(train_x, MAX_FITTED)
    compress = partial(
        replace_dense,
        model,
        where=where,
        min_weights=min_weights,
        initialize="fit" if initialize == "auto" and not epochs else initialize,
        data=fitted,
        radix=radix,
        steps=steps,
        seed=seed,
        progress=False,
    )
    recover = partial(
        distill,
        teacher=model,
        x=train_x,
        y=train_y,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        loss=loss,
        progress=False,
    )
    export = partial(
        to_tflite,
        quantize=quantize,
        representative_data=fitted if quantize == "int8" else None,
        objective=objective,
        wisdom=wisdom,
        device=device,
        progress=False,
    )
    scored: list[_ScoredModel] = []
    skipped: dict[str, ValueError] = {}
    with Progress(progress) as bars:
        # The original comes first, so that a metric that does not fit is found before the long work.
        for variant in bars.each([_ORIGINAL, *variants], "compress, recover and export"):
            new, report = model, None
            try:
                if variant is not _ORIGINAL:
                    new, report = compress(k=variant.k, stacks=variant.stacks)
            except ValueError as error:
                skipped[variant.name] = error
                continue
            if epochs and variant is not _ORIGINAL:
                recover(student=new)
            try:
                exported = export(new)
            except ValueError as error:
                if variant is _ORIGINAL:
                    raise
                skipped[variant.name] = error
                continue
            score = (accuracy if metric is None else metric)(y, exported.predict(_as_exported(x)))
            scored.append(_ScoredModel(variant.name, new, report, exported, float(score)))
    if len(scored) == 1:
        raise next(iter(skipped.values()))
    exports = {each.name: each.exported for each in scored}
    latencies = compare(exports, runs=runs, device=device, progress=progress).latencies
    return Sweep(
        tuple(Point(*each, latencies[each.name]) for each in scored),  # type: ignore[arg-type]
        {name: str(error) for name, error in skipped.items()},
    )


class _Variant(NamedTuple):
    """A way to compress the model: the arguments `k` and `stacks` of `replace_dense`."""

    name: str
    k: int | None = None
    stacks: int = 1


_ORIGINAL = _Variant("original")


class _ScoredModel(NamedTuple):
    """The attributes of a `Point` that are known before latency is measured."""

    name: str
    model: keras.Model
    report: ReplacementReport | None
    exported: TFLiteModel
    score: float


def _variants(ks: Sequence[int], stacks: Sequence[int]) -> list[_Variant]:
    """Return the ways to compress a model that a sweep tries.

    Raises:
        ValueError: if there is none, or a number is not a positive integer.
    """
    full = [_Variant("full" if n == 1 else f"full, {n} stacks", stacks=check_stacks(n)) for n in stacks]
    variants = full + [_Variant(f"k = {k}", k=positive_integer(k, "k")) for k in ks]
    if not variants:
        raise ValueError("Expected at least one way to compress the model: `ks`, `stacks` or both. Received: neither")
    return variants


def sample(x, count: int):
    """Return `count` random examples of the inputs `x`, or all if there are no more.

    They are random because the examples may be sorted by class.
    """
    total = len(keras.tree.flatten(x)[0])
    chosen = np.sort(np.random.default_rng(0).choice(total, min(count, total), replace=False))
    return keras.tree.map_structure(lambda array: array[chosen], x)


def _as_exported(x):
    """Return inputs as an exported model takes them: a list, or for one input an array."""
    flat = keras.tree.flatten(x)
    return flat if len(flat) > 1 else flat[0]


def _inputs_and_labels(model, data, name: str):
    """Return `data` as inputs in the structure that `model` takes, and labels as an array, or None if there are none.

    Raises:
        ValueError: if `data` is not a pair, or its parts do not fit. The message calls it `name`.
    """
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(f"Expected `{name}` as a pair (x, y). Received: {type(data).__name__}")
    x = check_data(model, data[0])
    if data[1] is None:
        return x, None
    y = np.asarray(data[1])
    if y.ndim == 0 or len(y) != len(keras.tree.flatten(x)[0]):
        raise ValueError(f"Expected as many labels as examples in `{name}`. Received: {y.shape}")
    return x, y


def check_scorable(labels, outputs: list, examples: int) -> None:
    """Check that `accuracy` can score `labels`, given each output on the first of the examples.

    Raises:
        ValueError: as `accuracy`.
    """
    accuracy(labels, outputs if len(outputs) > 1 else np.broadcast_to(outputs[0][:1], (examples, *outputs[0].shape[1:])))


def accuracy(labels, outputs) -> float:
    """Return the part of the examples that the outputs classify correctly.

    The guess is the class of the largest output. A model with a single output guesses class 1 if the output is above 1/2.

    Raises:
        ValueError: if the labels are not one integer for each example, or beyond the classes, or if the model has several
            outputs.
    """
    if isinstance(outputs, list):
        raise ValueError(f"Expected a model of one output, or the argument `metric`. Received: {len(outputs)} outputs")
    guesses = outputs[..., 0] > 0.5 if outputs.shape[-1] == 1 else outputs.argmax(-1)
    flat = np.asarray(labels).reshape(-1) if np.size(labels) == guesses.size and np.ndim(labels) else labels
    return float(np.mean(guesses.reshape(-1) == check_labels(flat, guesses.size, max(outputs.shape[-1], 2))))


def _cost(point: Point, cost: str) -> float:
    return point.latency.median if cost == "latency" else float(point.size_bytes)
