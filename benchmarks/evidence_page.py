"""Write the tables of docs/evidence.md and the plots beside it from the results of benchmarks/evidence.py.

    python benchmarks/evidence_page.py [FOLDER] [--page docs/evidence.md]

FOLDER holds a JSON file for each data set, by default docs/evidence. In the page, a table stands between the lines
`<!-- TABLE DATASET -->` and `<!-- end -->`. That of exports begins with `<!-- exports DATASET ORIGIN -->`. Everything else in
the page stays as it is.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from keras_butterfly.export import files
from keras_butterfly.export.measurement.plots import COLORS

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
COLOR_OF = dict(zip(dict.fromkeys(FAMILIES.values()), COLORS, strict=False))
MARKERS = {"float32": "o", "dynamic": "^", "int8": "s"}
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
    "radix 4 + rank 10",
    "three stages",
    "two stages",
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
    few = "" if len(setting.accuracies) > 1 else ", one seed"
    return f"{setting.mean:.4f} ({min(setting.accuracies):.4f} to {max(setting.accuracies):.4f}), {where}{few}"


def accuracy_table(tree: dict) -> str:
    """Return the table of accuracies of a data set in Markdown."""
    dense = best(tree, "scratch", "dense")
    lines = [
        "| hidden layers | weights | part | from scratch | with its best dropout | distilled |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ROWS:
        scratch, distilled = best(tree, "scratch", kind), best(tree, "distilled", kind)
        setting = scratch or distilled
        if setting is None:
            continue
        width = tree.get("widths", {}).get(kind)
        part = f"1/{dense.weights / setting.weights:.0f}" if dense and setting.weights < dense.weights else ""
        cells = [f"{kind} ({width} units)" if width else kind, f"{setting.weights:,}", part]
        cells += [shown(scratch), shown(best(tree, "scratch", kind, True), True), shown(distilled)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def export_table(tree: dict, origin: str) -> str:
    """Return the table of exported files of a data set in Markdown: KiB, microseconds, and accuracy in int8."""
    lines = [
        "| hidden layers | float32: KiB, us | dynamic: KiB, us | int8: KiB, us | accuracy float32, dynamic, int8 |",
        "|---|---|---|---|---|",
    ]
    exports = tree.get("exports", {}).get(origin, {})
    for kind in ROWS:
        files_of = {precision: kinds[kind] for precision, kinds in exports.items() if kind in kinds}
        if files_of:
            cells = [f"{file['bytes'] / 1024:,.0f}, {file['seconds'] * 1e6:.1f}" for file in files_of.values()]
            cells.append(", ".join(f"{file['accuracy']:.4f}" for file in files_of.values()))
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def start_table(tree: dict) -> str:
    """Return the table in Markdown that compares a start from a fit with a start from random weights."""
    lines = [
        "| hidden layers | after the fit, untrained | distilled from the fit | distilled from random weights | "
        "effective rank of the second layer: fit, trained; random, trained |",
        "|---|---|---|---|---|",
    ]
    for kind in ROWS:
        fitted, fresh = best(tree, "fitted", kind), best(tree, "distilled", kind)
        if fitted is None or fresh is None:
            continue
        runs = [run_of(tree, "fitted", kind, fitted), run_of(tree, "distilled", kind, fresh)]
        ranks = [
            ", ".join(f"{each['effective ranks'][1]:.0f}" for each in (run["before"], run)) for run in runs if "before" in run
        ]
        cells = [kind, f"{runs[0]['before']['accuracy']:.4f}", shown(fitted), shown(fresh), "; ".join(ranks)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run_of(tree: dict, origin: str, kind: str, setting: Setting) -> dict:
    """Return the run of seed 0 with a setting."""
    return tree[origin][kind][f"dropout {setting.dropout:g}"][f"rate {setting.rate:g}"]["seed 0"]


TABLES = {"accuracy": accuracy_table, "exports": export_table, "starts": start_table}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`.

    Raises:
        ValueError: if the page names an unknown table or data set.
    """

    def table(match: re.Match) -> str:
        kind, name, *arguments = match.group(1).split()
        if kind not in TABLES or name not in trees:
            raise ValueError(f"Expected a table of {list(TABLES)} and of {list(trees)}. Received: '<!-- {match.group(1)} -->'")
        return f"<!-- {match.group(1)} -->\n{TABLES[kind](trees[name], *arguments)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+ \w+[ \w]*) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point beats in both cost and accuracy, by cost."""
    return [point for point in sorted(points) if all(y < point[1] for x, y in points if x < point[0])]


def plot_points(axis: Axes, points: dict[str, list[tuple[float, float, str]]]) -> None:
    """Draw the points (cost, accuracy, marker) of each family, and join those of its front."""
    for name, found in points.items():
        color = COLOR_OF[name]
        for marker in MARKERS.values():
            x_y = [(x, y) for x, y, shape in found if shape == marker]
            if x_y:
                axis.scatter(*zip(*x_y, strict=True), marker=marker, color=color, s=36, edgecolor="white", linewidth=0.5)
        axis.plot(*zip(*front([(x, y) for x, y, _ in found]), strict=True), color=color, linewidth=1, label=name, zorder=0)
    axis.set(xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)


def plot_weights(trees: dict[str, dict]) -> Figure:
    """Return a plot of accuracy over weights for each data set: of the training in which the most kinds have several seeds."""
    figure = Figure(figsize=(4.6 * len(trees), 4.4), layout="constrained")
    shown_once: dict[str, object] = {}
    for axis, (name, tree) in zip(np.atleast_1d(figure.subplots(1, len(trees))), trees.items(), strict=True):
        found = {origin: points_of(tree, origin) for origin in ("scratch", "distilled")}
        origin = max(found, key=lambda origin: sum(map(len, found[origin].values())))
        dense = found["scratch"].get("dense", [])[:1] if origin == "distilled" else []
        plot_points(axis, {"dense": dense, **found[origin]} if dense else found[origin])
        training = "from scratch" if origin == "scratch" else "distilled from the dense network"
        axis.set(title=f"{NAMES[name]}, {training}", xlabel="weights of the network", ylabel="test accuracy, %")
        shown_once |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown_once.values(), shown_once, loc="outside lower center", ncols=len(FAMILIES), fontsize=9)
    return figure


def points_of(tree: dict, origin: str) -> dict[str, list[tuple[float, float, str]]]:
    """Return for each family the weights and the accuracy in percent of its kinds that have several seeds."""
    points: dict[str, list] = {}
    for kind in ROWS:
        setting = best(tree, origin, kind, with_dropout=True)
        if setting and len(setting.accuracies) > 1:
            points.setdefault(family(kind), []).append((setting.weights, 100 * setting.mean, "o"))
    return points


def plot_exports(tree: dict) -> Figure | None:
    """Return a plot of accuracy over file size and over latency of distilled networks, or None if none was exported."""
    exports = tree.get("exports", {}).get("distilled")
    if not exports:
        return None
    figure = Figure(figsize=(11, 5), layout="constrained")
    costs = {"file size, KiB": lambda file: file["bytes"] / 1024, "median latency, us": lambda file: file["seconds"] * 1e6}
    for axis, (label, cost) in zip(figure.subplots(1, 2, sharey=True), costs.items(), strict=True):
        points: dict[str, list] = {}
        for kind in ROWS:
            for precision, kinds in exports.items():
                if kind in kinds:
                    point = (cost(kinds[kind]), 100 * kinds[kind]["accuracy"], MARKERS[precision])
                    points.setdefault(family(kind), []).append(point)
        plot_points(axis, points)
        axis.set(xlabel=label)
    axis.figure.axes[0].set(ylabel="test accuracy of the file, %")
    handles, labels = axis.get_legend_handles_labels()
    shapes = [axis.scatter([], [], marker=marker, color="gray") for marker in MARKERS.values()]
    figure.legend([*handles, *shapes], [*labels, *MARKERS], loc="outside lower center", ncols=8, fontsize=9)
    return figure


@click.command()
@click.argument("folder", default=DOCS / "evidence", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "evidence.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    trees = {name: json.loads(path.read_text()) for name in NAMES if (path := folder / f"{name}.json").exists()}
    files.write(page, with_tables(page.read_text(), trees).encode(), overwrite=True)
    plots = {"evidence_weights.png": plot_weights(trees), "compression.png": plot_exports(trees["fashion_mnist"])}
    for name, figure in plots.items():
        if figure is not None:
            files.write(page.parent / name, lambda path, figure=figure: figure.savefig(path, dpi=150), overwrite=True)


if __name__ == "__main__":
    main()
