"""Write the tables of docs/evidence.md and the plots beside it from the results of benchmarks/evidence.py.

    python benchmarks/evidence_page.py [FOLDER] [--page docs/evidence.md]

FOLDER holds a JSON file for each data set, by default docs/evidence. In the page, a table stands between the lines
`<!-- TABLE DATASET -->` and `<!-- end -->`. That of exports begins with `<!-- exports DATASET ORIGIN -->`. Everything else in
the page stays as it is.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import page_tables

from keras_butterfly.export import files
from keras_butterfly.export.measurement import plots

DOCS = Path(__file__).parent.parent / "docs"
NAMES = {"fashion_mnist": "Fashion-MNIST", "hapt": "HAPT", "isolet": "ISOLET", "cifar10": "CIFAR-10"}
# The first words of a kind tell its family.
FAMILIES = {
    "radi": "butterfly",
    "three": "butterfly",
    "two": "butterfly",
    "J2": "J2^T W' J1",
    "low rank": "low rank",
    "dense, pruned": "dense, pruned",
    "dense": "dense",
}
PRECISIONS = ("float32", "dynamic", "int8")
ROWS = (
    "dense",
    "dense, equal weights",
    "dense, equal latency",
    "dense, pruned",
    "low rank 10",
    "low rank 20",
    "low rank 40",
    "J2^T W' J1, k = 64",
    "radix 2",
    "radix 4",
    "radix 4, a quarter of the width",
    "radix 4 + rank 10",
    "three stages",
    "two stages",
    "two stages, a quarter of the width",
)


@dataclass(frozen=True)
class Setting:
    """The runs of one kind with one learning rate and one dropout: an accuracy, from 0 to 1, for each seed."""

    dropout: float
    rate: float
    accuracies: tuple[float, ...]
    weights: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))


def settings_of(tree: dict) -> Iterator[Setting]:
    """Yield each setting of a kind that was trained with several seeds, or, if there is none, with one."""
    found = [
        Setting(number(dropout), number(rate), tuple(run["accuracy"] for run in seeds.values()), seeds["seed 0"]["weights"])
        for dropout, rates in tree.items()
        for rate, seeds in rates.items()
    ]
    most = max(len(setting.accuracies) for setting in found)
    yield from (setting for setting in found if len(setting.accuracies) == most)


def number(name: str) -> float:
    """Return the number in a name such as "rate 0.001"."""
    return float(name.split()[-1])


def family(kind: str) -> str:
    """Return the family of a kind of hidden layers."""
    return next(name for start, name in FAMILIES.items() if kind.startswith(start))


def best(tree: dict, origin: str, kind: str, with_dropout: bool = False) -> Setting | None:
    """Return the setting of a kind with the best mean, or None if it was not trained.

    Args:
        tree: results of a data set.
        origin: "scratch" or "distilled".
        kind: kind of hidden layers.
        with_dropout: whether settings with dropout count too.
    """
    if kind not in tree.get(origin, {}):
        return None
    found = [setting for setting in settings_of(tree[origin][kind]) if with_dropout or not setting.dropout]
    return max(found, key=lambda setting: setting.mean, default=None)


def shown(setting: Setting | None, with_dropout: bool = False) -> str:
    """Return the mean accuracy, its range over the seeds and where it was found."""
    if setting is None:
        return ""
    where = f"dropout {setting.dropout:g}" if with_dropout else f"at {setting.rate:g}"
    seeds = len(setting.accuracies)
    few = "" if seeds == 3 else f", {seeds} seed{'s' * (seeds > 1)}"
    return f"{setting.mean:.4f} ({min(setting.accuracies):.4f} to {max(setting.accuracies):.4f}), {where}{few}"


def accuracy_table(tree: dict) -> str:
    """Return the table of accuracies of a data set in Markdown."""
    dense = best(tree, "scratch", "dense")
    rows = []
    for kind in ROWS:
        scratch, distilled = best(tree, "scratch", kind), best(tree, "distilled", kind)
        setting = scratch or distilled
        if setting is None:
            continue
        width = tree.get("widths", {}).get(kind)
        part = f"1/{dense.weights / setting.weights:.0f}" if dense and setting.weights < dense.weights else ""
        cells = [f"{kind} ({width} units)" if width else kind, f"{setting.weights:,}", part]
        rows.append([*cells, shown(scratch), shown(best(tree, "scratch", kind, True), True), shown(distilled)])
    heads = ["hidden layers", "weights", "part", "from scratch", "with its best dropout", "distilled"]
    return page_tables.in_markdown(heads, rows)


def export_table(tree: dict, origin: str) -> str:
    """Return the table of exported files of a data set in Markdown: KiB, microseconds, and the accuracy in each precision.

    If a kind was not exported in a precision, that cell is empty, and a dash stands for the accuracy.
    """
    rows, exports = [], tree.get("exports", {}).get(origin, {})
    for kind in ROWS:
        found = [exports.get(precision, {}).get(kind) for precision in PRECISIONS]
        if any(found):
            cells = [f"{file['bytes'] / 1024:,.0f}, {file['seconds'] * 1e6:.1f}" if file else "" for file in found]
            rows.append([kind, *cells, ", ".join(f"{file['accuracy']:.4f}" if file else "-" for file in found)])
    costs = [f"{precision}: KiB, us" for precision in PRECISIONS]
    return page_tables.in_markdown(["hidden layers", *costs, f"accuracy {', '.join(PRECISIONS)}"], rows)


def start_table(tree: dict) -> str:
    """Return the table in Markdown that compares a start from a fit with a start from random weights."""
    rows = []
    for kind in ROWS:
        fitted, fresh = best(tree, "fitted", kind), best(tree, "distilled", kind)
        if fitted is None or fresh is None:
            continue
        runs = [run_of(tree, "fitted", kind, fitted), run_of(tree, "distilled", kind, fresh)]
        ranks = [
            ", ".join(f"{each['effective ranks'][1]:.0f}" for each in (run["before"], run)) for run in runs if "before" in run
        ]
        rows.append([kind, f"{runs[0]['before']['accuracy']:.4f}", shown(fitted), shown(fresh), "; ".join(ranks)])
    heads = ["hidden layers", "after the fit, untrained", "distilled from the fit", "distilled from random weights"]
    return page_tables.in_markdown([*heads, "effective rank of the second layer: fit, trained; random, trained"], rows)


def run_of(tree: dict, origin: str, kind: str, setting: Setting) -> dict:
    """Return the run of seed 0 with a setting."""
    return tree[origin][kind][f"dropout {setting.dropout:g}"][f"rate {setting.rate:g}"]["seed 0"]


TABLES = {"accuracy": accuracy_table, "exports": export_table, "starts": start_table}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`.

    Raises:
        ValueError: if the page names an unknown table or data set.
    """

    def table(title: str) -> str:
        kind, name, *arguments = title.split()
        if kind not in TABLES or name not in trees:
            raise ValueError(f"Expected a table of {list(TABLES)} and of {list(trees)}. Received: '<!-- {title} -->'")
        return TABLES[kind](trees[name], *arguments)

    return page_tables.replaced(page, r"\w+ \w+[ \w]*", table)


@plots.style()
def plot_weights(trees: dict[str, dict]) -> Figure:
    """Return a plot with the accuracy of each kind, from most weights to fewest, for each data set.

    Of the two trainings it shows the one in which the most kinds have several seeds.
    """
    rows = max(len(settings_shown(tree)[1]) for tree in trees.values())
    figure, axes = plots.panels(len(trees), height=0.9 + 0.21 * rows)
    for axis, (name, tree) in zip(axes, trees.items(), strict=True):
        plot_settings(axis, name, tree)
    drawn = dict.fromkeys(family(kind) for tree in trees.values() for kind in settings_shown(tree)[1])
    handles = [Line2D([], [], color=plots.KINDS[name], marker="o", linestyle="", label=name) for name in drawn]
    title = "Beside each kind is the network's number of weights. Bars: worst to best seed. Dotted: the dense network."
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=8)
    return figure


def plot_settings(axis: Axes, name: str, tree: dict) -> None:
    """Draw the accuracy of each kind: the mean, and a line from the worst to the best of the seeds."""
    training, settings = settings_shown(tree)
    ordered = sorted(settings.items(), key=lambda item: item[1].weights)
    for row, (kind, setting) in enumerate(ordered):
        mean, low, high = (100 * value for value in (setting.mean, min(setting.accuracies), max(setting.accuracies)))
        color = plots.KINDS[family(kind)]
        axis.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color=color, elinewidth=1.2, capsize=2.5)
    axis.set_yticks(
        range(len(ordered)), [f"{kind}: {plots.short_number(setting.weights)}" for kind, setting in ordered], fontsize=8
    )
    axis.locator_params(axis="x", nbins=5)
    axis.grid(visible=False, axis="y")
    axis.set_title(f"{NAMES[name]}, {training}", loc="right")  # over the labels, which take most of the width
    axis.set(xlabel="test accuracy, %", ylim=(-0.7, len(ordered) - 0.3))
    if "dense" in settings:
        axis.axvline(100 * settings["dense"].mean, color=plots.KINDS["dense"], linestyle=":", linewidth=1, zorder=0)


def settings_shown(tree: dict) -> tuple[str, dict[str, Setting]]:
    """Return the training in which the most kinds have several seeds, and the best setting of each of them."""
    found = {origin: settings_with_seeds(tree, origin) for origin in ("scratch", "distilled")}
    if len(found["scratch"]) >= len(found["distilled"]):
        return "from scratch", found["scratch"]
    teacher = {kind: setting for kind, setting in found["scratch"].items() if kind == "dense"}
    return "distilled", {**teacher, **found["distilled"]}


def settings_with_seeds(tree: dict, origin: str) -> dict[str, Setting]:
    """Return the best setting of each kind that was trained with several seeds."""
    found = {kind: best(tree, origin, kind, with_dropout=True) for kind in ROWS}
    return {kind: setting for kind, setting in found.items() if setting and len(setting.accuracies) > 1}


@plots.style()
def plot_exports(tree: dict) -> Figure | None:
    """Return a plot of accuracy over file size and over latency of distilled networks, or None if none was exported.

    A thin line joins the files of one kind of layers.
    """
    exports = tree.get("exports", {}).get("distilled")
    if not exports:
        return None
    figure, axes = plots.panels(2, height=4.6)
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    costs = {"file size, KiB": lambda file: file["bytes"] / 1024, "median latency, us": lambda file: file["seconds"] * 1e6}
    by_kind = {kind: {name: found[kind] for name, found in exports.items() if kind in found} for kind in ROWS}
    by_kind = {kind: exported for kind, exported in by_kind.items() if exported}
    drawn = []
    for axis, (label, cost) in zip(axes, costs.items(), strict=True):
        drawn.append({})
        for kind, exported in by_kind.items():
            points = drawn[-1][kind] = [(cost(file), 100 * file["accuracy"]) for file in exported.values()]
            color = plots.KINDS[family(kind)]
            axis.plot(*zip(*points, strict=True), color=color, linewidth=0.7, alpha=0.6)
            for point, precision in zip(points, exported, strict=True):
                axis.scatter(*point, marker=plots.MARKERS[precision], s=30, facecolor="none", edgecolor=color, linewidth=1.4)
        axis.set(xlabel=label)
        axis.margins(x=0.12)
        plots.log_scale(axis, "x")
    axes[0].set(ylabel="test accuracy of the file, %")
    shapes = [
        Line2D([], [], color="gray", marker=plots.MARKERS[name], fillstyle="none", linestyle="", label=name) for name in exports
    ]
    colors = [Line2D([], [], color=plots.KINDS[name], label=name) for name in dict.fromkeys(map(family, by_kind))]
    figure.legend(handles=[*colors, *shapes], loc="outside lower center", ncols=len(colors) + len(shapes))
    for axis, found in zip(axes, drawn, strict=True):
        points = [points[0] for points in found.values()]
        plots.label_points(axis, points, list(by_kind), [point for points in found.values() for point in plots.along(points)])
    return figure


@click.command()
@click.argument("folder", default=DOCS / "evidence", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "evidence.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    trees = {name: json.loads(path.read_text()) for name in NAMES if (path := folder / f"{name}.json").exists()}
    files.write(page, with_tables(page.read_text(), trees).encode(), overwrite=True)
    pictures = {"evidence_weights.png": plot_weights(trees), "compression.png": plot_exports(trees["fashion_mnist"])}
    for name, figure in pictures.items():
        if figure is not None:
            plots.save(figure, page.parent / name, overwrite=True)


if __name__ == "__main__":
    main()
