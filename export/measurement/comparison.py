"""Models side by side: measured in one run, as a table, a plot, a JSON file."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from rich.console import Console

from keras_butterfly.utils.text_table import TextTable

from .. import files
from ..tflite.operators import counted, operator_names
from .latency import Latency
from .plots import check_picture, literal
from .timing import content_of, measure_all

# The palette of Okabe and Ito, which colour-blind readers can tell apart, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return the colour in which plots show each of `names`."""
    return dict(zip(names, cycle(COLOURS), strict=False))


@dataclass(frozen=True)
class Comparison:
    """Latencies of several models, measured in turn. The first model is the baseline of the speed-ups.

    Attributes:
        latencies: per name, in seconds.
        sizes: per name, in bytes.
        operators: per name, the operators in the order of execution.
    """

    latencies: Mapping[str, Latency]
    sizes: Mapping[str, int]
    operators: Mapping[str, tuple[str, ...]]

    @property
    def baseline(self) -> str:
        return next(iter(self.latencies))

    def speedup(self, name: str) -> float:
        """Median of the baseline over median of `name`."""
        if name not in self.latencies:
            raise ValueError(f"Expected one of {list(self.latencies)}. Received: {name!r}")
        return self.latencies[self.baseline].median / self.latencies[name].median

    def table(self) -> TextTable:
        """Return a table, which `print` and `rich.print` show."""
        facts = self.latencies[self.baseline]
        table = TextTable(title=f"{facts.runtime}, threads {facts.threads}, {facts.machine}", title_justify="left")
        table.add_column("model")
        for column in ("median us", "p95 us", "IQR us", "speed-up", "size KiB"):
            table.add_column(column, justify="right")
        table.add_column("operators")
        for name, latency in self.latencies.items():
            times = [f"{seconds * 1e6:,.2f}" for seconds in (latency.median, latency.p95, latency.iqr)]
            size = f"{self.sizes[name] / 1024:,.1f}"
            table.add_row(name, *times, f"{self.speedup(name):.1f}x", size, counted(self.operators[name]))
        return table

    def to_dict(self) -> dict:
        """Times in seconds, sizes in bytes."""
        return {
            "baseline": self.baseline,
            "models": {
                name: {
                    "latency": latency.to_dict(),
                    "speedup": self.speedup(name),
                    "size_bytes": self.sizes[name],
                    "operators": list(self.operators[name]),
                }
                for name, latency in self.latencies.items()
            },
        }

    def to_json(self, path, overwrite: bool = False) -> Path:
        """Writes `to_dict` as JSON.

        Raises:
            ValueError: if the file exists and `overwrite` is False.
        """
        return files.write(path, json.dumps(self.to_dict(), indent=2).encode(), overwrite)

    def plot(self, path, overwrite: bool = False) -> Path:
        """Writes a picture: median latency with the quartiles, and file size, of each model. Needs matplotlib.

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

        figure = Figure(figsize=(9, 1.6 + 0.5 * len(self.latencies)), layout="constrained")
        self.draw(*figure.subplots(1, 2, sharey=True))
        return figure

    def draw(self, time_axes, size_axes) -> None:
        """Draw the bars of `figure` on two matplotlib axes, in one colour per model."""
        names = list(self.latencies)[::-1]  # a bar chart's axis runs upwards
        color = [colours(self.latencies)[name] for name in names]
        medians = [self.latencies[name].median * 1e6 for name in names]
        spreads = [self.latencies[name].iqr / 2 * 1e6 for name in names]
        shown = [literal(name) for name in names]
        bars = time_axes.barh(shown, medians, xerr=spreads, color=color)
        labels = [f" {us:,.1f} us ({self.speedup(name):.1f}x)" for name, us in zip(names, medians, strict=True)]
        time_axes.bar_label(bars, labels)
        time_axes.set(xlabel="median latency, microseconds", xlim=(0, max(medians) * 1.7))
        sizes = [self.sizes[name] / 1024 for name in names]
        bars = size_axes.barh(shown, sizes, color=color)
        size_axes.bar_label(bars, [f" {size:,.0f} KiB" for size in sizes])
        size_axes.set(xlabel="file size, KiB", xlim=(0, max(sizes) * 1.4))


def summary_lines(model) -> list[str]:
    """Return what an export is, in a few lines: `print(exported)` shows them."""
    precision, parity = model.precision.name or "float32", model.parity
    decisions = "" if parity.agreement is None else f", {parity.agreement:.1%} equal decisions"
    lines = [
        f"{precision}, {model.size_bytes / 1024:,.1f} KiB, {len(model.operators)} operators in {model.partitions} XNNPACK "
        "partition(s)",
        f"against Keras, on {parity.examples} examples ({parity.inputs}): off by {parity.relative_error:.2g} of the largest "
        f"output{decisions}",
    ]
    gain = model.gain
    if gain is not None:
        estimated = " (estimated)" if gain.estimated else ""
        lines.append(
            f"butterfly layers: {gain.seconds * 1e6:,.2f} us, as dense kernels {gain.dense_seconds * 1e6:,.2f} us{estimated}, "
            f"{gain.dense_seconds / gain.seconds:.1f}x; with dense kernels the file would have about "
            f"{gain.dense_size_bytes / 1024:,.1f} KiB"
        )
    if model.original_parity is not None:
        lines.append(f"against the model in its own precision: off by {model.original_parity.relative_error:.2g}")
    return [*lines, *model.notes]


def print_explanation(model) -> None:
    """Print the evidence that a `TFLiteModel` carries; `TFLiteModel.explain` calls it."""
    console = Console()
    console.print(*summary_lines(model), f"operators: {counted(model.operators)}", sep="\n", highlight=False)
    for plan in model.plan:
        error = f"relative error {plan.error:.2g}"
        console.print(f"{plan.layer} {plan.input_shape}: {plan.lowering}, {plan.source}, {error}", highlight=False)
        if plan.candidates:
            console.print(_considered(plan))


def _considered(plan) -> TextTable:
    """What was considered for one layer, the fastest first; the chosen one is marked."""
    table = TextTable("lowering")
    for column in ("estimate us", "measured us", "size KiB", "error"):
        table.add_column(column, justify="right")
    table.add_column("passed over because")
    for each in sorted(plan.candidates, key=lambda c: c.measured.seconds if c.measured else c.estimate):
        cells = ["", "", ""]
        if each.measured:
            done = each.measured
            cells = [f"{done.seconds * 1e6:,.2f}", f"{done.size_bytes / 1024:,.1f}", f"{done.error:.2g}"]
        name = f"[bold]{each.lowering} <-[/bold]" if each.lowering == plan.lowering else str(each.lowering)
        table.add_row(name, f"{each.estimate * 1e6:,.2f}", *cells, plan.passed_over(each))
    return table


def compare(
    models: Mapping[str, object],
    *,
    threads: int = 1,
    warmup: int = 50,
    runs: int = 100,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Measures several TFLite models, interleaved in one run.

    Args:
        models: name -> `TFLiteModel`, bytes of a .tflite file, or a path to one. The first is the baseline.
        threads, warmup, runs: as in `measure`.
        progress: called with the number of rounds done after each.

    Raises:
        ValueError: for no models, or one that cannot be loaded.
    """
    if not isinstance(models, Mapping):
        raise ValueError(f"Expected a mapping from names to models. Received: {type(models).__name__}")
    if not models:
        raise ValueError("Expected at least one model to measure. Received: none")
    contents = {name: content_of(model) for name, model in models.items()}
    latencies = measure_all(contents, threads=threads, warmup=warmup, runs=runs, progress=progress)
    sizes = {name: len(content) for name, content in contents.items()}
    return Comparison(latencies, sizes, {name: operator_names(content) for name, content in contents.items()})
