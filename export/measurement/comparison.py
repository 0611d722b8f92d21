"""Comparing the latency, or the counts, and the size of several TFLite models, as a table, a plot or a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable

from .. import files
from ..tflite.operators import count_operators, operator_names
from . import devices
from .counts import Counts
from .figures import check_one_unit
from .latency import Latency
from .plots import check_picture, colors, literal
from .timing import check_extent, content_of, measure_all


@dataclass(frozen=True)
class Comparison:
    """The latencies and sizes of several models that were measured in turn. The first model is the baseline of the speed-ups.

    From a device that counts, each model has `Counts` instead of a `Latency`. The speed-ups are then ratios of weighted sums.

    Attributes:
        latencies: name of the model -> its `Latency`, in seconds per invocation, or its `Counts`.
        sizes: name of the model -> bytes of its file.
        operators: name of the model -> the names of its operators in the order of execution.

    Example:
        >>> def latency(seconds):
        ...     return export.Latency((seconds,), invocations=100, warmup=50, threads=1, runtime="litert", machine="a board")
        >>> latencies = {"dense": latency(6e-6), "butterfly": latency(2e-6)}
        >>> sizes, operators = {"dense": 4096, "butterfly": 1024}, {"dense": (), "butterfly": ()}
        >>> round(export.Comparison(latencies, sizes, operators).speedup("butterfly"), 6)
        3.0
    """

    latencies: Mapping[str, Latency | Counts]
    sizes: Mapping[str, int]
    operators: Mapping[str, tuple[str, ...]]

    def __post_init__(self):
        check_one_unit(self.latencies)

    @property
    def baseline(self) -> str:
        """The name of the first model."""
        return next(iter(self.latencies))

    def speedup(self, name: str) -> float:
        """Return how many times as fast as the baseline the model `name` is, by the medians, or by weighted sums of counts.

        Raises:
            ValueError: if no model has this name.
        """
        if name not in self.latencies:
            raise ValueError(f"`name` must be one of {list(self.latencies)}. Received: name={name!r}")
        return self.latencies[self.baseline].cost / self.latencies[name].cost

    def table(self) -> TextTable:
        """Return a table with one row for each model. `print` and `rich.print` show it."""
        conditions = self.latencies[self.baseline]
        table = TextTable(title=conditions.title, title_justify="left")
        table.add_column("model")
        for column in (*conditions.columns, conditions.ratio, "size KiB"):
            table.add_column(column, justify="right")
        table.add_column("operators")
        for name, latency in self.latencies.items():
            size = f"{self.sizes[name] / 1024:,.1f}"
            table.add_row(name, *latency.cells(), f"{self.speedup(name):.1f}x", size, count_operators(self.operators[name]))
        return table

    def to_dict(self) -> dict:
        """Return all figures, ready for JSON. Times are in seconds, sizes in bytes. Counts stand below "counts"."""
        return {
            "baseline": self.baseline,
            "models": {
                name: {
                    "latency" if isinstance(latency, Latency) else "counts": latency.to_dict(),
                    "speedup": self.speedup(name),
                    "size_bytes": self.sizes[name],
                    "operators": list(self.operators[name]),
                }
                for name, latency in self.latencies.items()
            },
        }

    def to_json(self, path, overwrite: bool = False) -> Path:
        """Write what `to_dict` returns to a JSON file, and return its path.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not exist.
        """
        return files.write(path, json.dumps(self.to_dict(), indent=2).encode(), overwrite)

    def plot(self, path, overwrite: bool = False) -> Path:
        """Write the picture that `figure` returns to a file, and return its path. This needs matplotlib.

        Raises:
            ValueError: if the file exists and `overwrite` is False, its folder does not exist, or `path` does not end in a
                picture format.
        """
        files.check_writable(path, overwrite)
        check_picture(path)
        figure = self.figure()
        return files.write(path, lambda temporary: figure.savefig(temporary, dpi=150), overwrite)

    def figure(self):
        """Return a matplotlib Figure with bars of each model's median latency and its interquartile range, and of its size."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 1.6 + 0.5 * len(self.latencies)), layout="constrained")
        self.draw(*figure.subplots(1, 2, sharey=True))
        return figure

    def draw(self, time_axes, size_axes) -> None:
        """Draw the bars of `figure` on two matplotlib axes. Each model has one color."""
        names = list(self.latencies)[::-1]  # A bar chart starts at the bottom.
        color = [colors(self.latencies)[name] for name in names]
        lengths, spreads = zip(*(self.latencies[name].bar for name in names), strict=True)
        shown = [literal(name) for name in names]
        bars = time_axes.barh(shown, lengths, xerr=spreads, color=color)
        labels = [f" {length:,.1f} ({self.speedup(name):.1f}x)" for name, length in zip(names, lengths, strict=True)]
        time_axes.bar_label(bars, labels)
        time_axes.set(xlabel=self.latencies[self.baseline].axis, xlim=(0, max(lengths) * 1.7))
        sizes = [self.sizes[name] / 1024 for name in names]
        bars = size_axes.barh(shown, sizes, color=color)
        size_axes.bar_label(bars, [f" {size:,.0f} KiB" for size in sizes])
        size_axes.set(xlabel="file size, KiB", xlim=(0, max(sizes) * 1.4))


def compare(
    models: Mapping[str, object],
    *,
    threads: int = 1,
    warmup: int = 50,
    runs: int = 100,
    device: str | devices.Device = "host",
    progress: bool | None = None,
) -> Comparison:
    """Measure several TFLite models, which take turns in one run.

    Args:
        models: name -> `TFLiteModel`, bytes of a .tflite file, or a path to such a file. The first model is the baseline.
        threads, warmup, runs, device: as for `measure`.
        progress: True: show a progress bar on stderr. False: show none. None (default): show one if stderr is a terminal.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: if `models` is not a mapping or is empty, a model cannot be loaded or run, or an argument is out of range.

    Example:
        >>> layers = {"dense": keras.layers.Dense(64), "butterfly": Butterfly(64, seed=0)}
        >>> models = {name: keras.Sequential([keras.Input((64,)), layer]) for name, layer in layers.items()}
        >>> exported = {name: export.to_tflite(model, effort="estimate") for name, model in models.items()}
        >>> comparison = export.compare(exported, runs=10)
        >>> comparison.baseline, comparison.sizes["butterfly"] < comparison.sizes["dense"]
        ('dense', True)
    """
    if not isinstance(models, Mapping):
        raise ValueError(f"Expected a mapping from names to models. Received: {type(models).__name__}")
    if not models:
        raise ValueError("Expected at least one model to measure. Received: none")
    check_extent(threads, warmup, runs)
    contents = {name: content_of(model) for name, model in models.items()}
    with Progress(progress) as bars, bars.task("measure", runs) as advance:
        latencies = measure_all(
            contents, threads=threads, warmup=warmup, runs=runs, device=device, on_round=lambda rounds_done: advance(1)
        )
    sizes = {name: len(content) for name, content in contents.items()}
    return Comparison(latencies, sizes, {name: operator_names(content) for name, content in contents.items()})
