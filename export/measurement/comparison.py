"""Comparing the latency, or the counts, and the size of several TFLite models, as a table, a plot or a JSON file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable

from .. import files
from ..tflite.operators import count_operators, operator_names
from . import devices, plots
from .counts import Counts
from .figures import check_one_unit
from .latency import Latency
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
        plots.check_picture(path)
        return plots.save(self.figure(), path, overwrite)

    @plots.style()
    def figure(self):
        """Return a matplotlib Figure with bars of each model's median latency, its interquartile range, and its file size."""
        figure, axes = plots.panels(2, height=0.8 + 0.32 * len(self.latencies))
        self.draw(*axes)
        axes[1].tick_params(labelleft=False)
        return figure

    def draw(self, time_axes, size_axes) -> None:
        """Draw the bars of `figure` on two matplotlib axes. Each model has one color."""
        names = list(self.latencies)[::-1]  # A bar chart starts at the bottom.
        color = [plots.colors(self.latencies)[name] for name in names]
        first = self.latencies[self.baseline]
        costs, spreads = zip(*(self.latencies[name].bar for name in names), strict=True)
        sizes = [self.sizes[name] / 1024 for name in names]
        labels = [f"{cost:,.1f} ({self.speedup(name):.1f}x)" for name, cost in zip(names, costs, strict=True)]
        error = {"ecolor": "gray", "capsize": 2}
        bars = time_axes.barh(range(len(names)), costs, xerr=spreads, color=color, height=0.65, error_kw=error)
        time_axes.bar_label(bars, labels, padding=3, fontsize=8)
        time_axes.set(xlabel=f"{first.axis} ({first.ratio})", xlim=(0, max(np.add(costs, spreads)) * 1.4))
        bars = size_axes.barh(range(len(names)), sizes, color=color, height=0.65)
        size_axes.bar_label(bars, [f"{size:,.0f}" for size in sizes], padding=3, fontsize=8)
        size_axes.set(xlabel="file size, KiB", xlim=(0, max(sizes) * 1.2))
        for axes in (time_axes, size_axes):
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.set_yticks(range(len(names)), [plots.literal(name) for name in names])
            axes.grid(visible=False, axis="y")


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
