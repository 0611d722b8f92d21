"""Write the tables and the plot of docs/fronts.md from the results of benchmarks/fronts.py.

    python benchmarks/fronts_page.py [FOLDER] [--page docs/fronts.md]

FOLDER holds a JSON file for each task and precision, by default docs/compress. In the page, a table stands between the lines
`<!-- TABLE PRECISION -->` and `<!-- end -->`. TABLE is "winners", "size" or "latency", and PRECISION is "float32" or "any". The
plots, fronts_float32.png and fronts_any.png, stand beside the page.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import page_tables

from keras_butterfly.export import files
from keras_butterfly.export.compression.blueprint import KIND_OF, MIXED
from keras_butterfly.export.measurement import plots

PRECISIONS = ("float32", "any")
DOCS = Path(__file__).parent.parent / "docs"
NAMES = {
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "isolet": "ISOLET",
    "hapt": "HAPT",
    "hapt_transformer": "HAPT with a transformer",
    "cifar10_vgg": "CIFAR-10 with convolutions",
}
# The groups of families that are compared. All but the butterflies are rivals.
BUTTERFLIES = "butterfly"
INT4 = "int4"
GROUPS = ("narrow dense", INT4, "low rank", BUTTERFLIES)
COLORS = plots.colors(GROUPS)
KEYS = {"size": "size_bytes", "latency": "median_seconds"}
# For each cost, what turns bytes or seconds into the unit, the unit, and the digits that are shown.
UNITS = {"size": (1 / 1024, "KiB", 0), "latency": (1e6, "us", 1)}


@dataclass(frozen=True)
class Found:
    """The accuracy and the cost of models that keep one limit, one model for each seed.

    Attributes:
        accuracies: seed -> accuracy on the examples that the search has not seen, from 0 to 1.
        cost: the mean cost, in bytes or seconds.
    """

    accuracies: Mapping[str, float]
    cost: float

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.accuracies.values())))

    @property
    def error(self) -> float:
        """The standard error of the mean, or 0 for a single seed."""
        return standard_error(list(self.accuracies.values()))

    def __str__(self) -> str:
        seeds = len(self.accuracies)
        spread = f" ± {100 * self.error:.2f}" if seeds > 1 else ""
        return f"{100 * self.mean:.2f}{spread}, {seeds} seed{'s' * (seeds > 1)}"


@dataclass(frozen=True)
class Limit:
    """What was found for one limit of one task.

    Attributes:
        task, cost, part: the task, "size" or "latency", and the part of the original's cost, such as "1/40".
        limit: the limit, in bytes or seconds, the mean of the seeds.
        picks: what `compress` picked.
        picked: how often a group of families was picked.
        groups: the most accurate models of each group, by the score that the search knows.
        has_int4: whether models in int4 were made.
    """

    task: str
    cost: str
    part: str
    limit: float
    picks: Found | None
    picked: Counter
    groups: Mapping[str, Found]
    has_int4: bool = False

    @property
    def winner(self) -> str | None:
        """The group that was picked most often."""
        return self.picked.most_common(1)[0][0] if self.picked else None

    @property
    def beaten_by(self) -> str | None:
        """The rival that costs no more than the picks and is more accurate by more than one standard error, or None.

        With a single seed, any lead counts. If no pick keeps the limit, it is any rival that does.
        """
        if self.picks is None:
            return next((group for group in self.groups if group != BUTTERFLIES), None)
        for group, rival in self.groups.items():
            seeds = self.picks.accuracies.keys() & rival.accuracies.keys()
            ahead = [rival.accuracies[seed] - self.picks.accuracies[seed] for seed in seeds]
            if group != BUTTERFLIES and rival.cost <= self.picks.cost and np.mean(ahead) > standard_error(ahead):
                return group
        return None


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard error of the mean of some values, or 0 for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def group_of(family: str) -> str:
    """Return the group that a family of models belongs to. The original's is "dense". Every mix holds butterflies."""
    return {MIXED: BUTTERFLIES, INT4: INT4}.get(family) or KIND_OF[family]


def shown_groups(limits: Iterable[Limit]) -> list[str]:
    """Return the groups of which any model keeps any limit, in the order of `GROUPS`."""
    found = set[str]().union(*(each.groups for each in limits))
    return [group for group in GROUPS if group in found]


def found(points: Mapping[str, dict], key: str) -> Found | None:
    """Return the models of several seeds, by seed, or None if there are none."""
    if not points:
        return None
    accuracies = {seed: point["unseen"] for seed, point in points.items()}
    return Found(accuracies, float(np.mean([point[key] for point in points.values()])))


def limit_of(task: str, cost: str, part: str, results: Mapping[str, dict]) -> Limit:
    """Return what was found for one limit, from the results of each seed."""
    key = KEYS[cost]
    within = {seed: [p for p in result["points"] if p[key] <= result["limit"]] for seed, result in results.items()}
    picks = {seed: p for seed, points in within.items() for p in points if p["name"] == results[seed]["pick"]}
    groups = {}
    for group in GROUPS:
        usable = {seed: [p for p in points if group_of(p["family"]) == group] for seed, points in within.items()}
        best = {seed: max(points, key=lambda p: p["score"]) for seed, points in usable.items() if points}
        if (models := found(best, key)) is not None:
            groups[group] = models
    limit = float(np.mean([result["limit"] for result in results.values()]))
    picked = Counter(group_of(point["family"]) for point in picks.values())
    has_int4 = any(group_of(point["family"]) == INT4 for result in results.values() for point in result["points"])
    return Limit(task, cost, part, limit, found(picks, key), picked, groups, has_int4)


def with_all_int4(branch: dict) -> dict:
    """Return the results of one seed, in which each limit has all models in int4 that were made for any limit."""
    results = [result for cost in KEYS for result in branch.get(cost, {}).values()]
    points = [point for result in results for point in result["points"] if point["family"] == INT4]
    made = {(point["name"], point["size_bytes"]): point for point in points}

    def whole(result: dict) -> dict:
        others = [point for point in result["points"] if point["family"] != INT4]
        return {**result, "points": [*others, *made.values()]}

    return {cost: {part: whole(result) for part, result in branch.get(cost, {}).items()} for cost in KEYS}


def limits_of(trees: Mapping[str, dict], cost: str) -> Iterator[Limit]:
    """Yield what was found for each limit of one cost, for one task after the other, the tightest limit first.

    The models in int4 that were made for one limit are candidates for all limits of their seed.
    """
    for task, tree in trees.items():
        seeds = {name: with_all_int4(branch) for name, branch in tree.items() if name.startswith("seed ")}
        for part in dict.fromkeys(part for branch in seeds.values() for part in branch.get(cost, {})):
            yield limit_of(
                task, cost, part, {seed: branch[cost][part] for seed, branch in seeds.items() if part in branch.get(cost, {})}
            )


def limits_table(limits: Iterable[Limit]) -> str:
    """Return a table in Markdown with a row for each limit: what was picked, and how accurate each group is."""
    limits = list(limits)
    groups = shown_groups(limits)
    rows = []
    for each in limits:
        factor, unit, digits = UNITS[each.cost]
        cells = [f"{NAMES[each.task]}, {each.part}: {each.limit * factor:,.{digits}f} {unit}"]
        cells.append(", ".join(f"{group} ({count})" for group, count in each.picked.most_common()) or "nothing fits")
        cells.append(str(each.picks or ""))
        cells += [
            str(each.groups.get(group, "not run" if group == INT4 and not each.has_int4 else "nothing fits"))
            for group in groups
        ]
        rows.append([*cells, f"**{each.beaten_by}**" if each.beaten_by else "no"])
    return page_tables.in_markdown(["data, limit", "picked", "accuracy of the picks", *groups, "a rival beats the picks"], rows)


def winners_table(trees: Mapping[str, dict]) -> str:
    """Return the table in Markdown of how many tasks each group wins, and on how many no rival beats the picks.

    Tasks on which no model keeps the limit are not counted.
    """
    of_costs = {cost: list(limits_of(trees, cost)) for cost in KEYS}
    # `compress` makes no models in int4.
    groups = [group for group in shown_groups(limit for limits in of_costs.values() for limit in limits) if group != INT4]
    rows = []
    for cost, limits in of_costs.items():
        for part in dict.fromkeys(each.part for each in limits):
            alike = [each for each in limits if each.part == part and each.groups]
            wins = Counter(each.winner for each in alike)
            cells = [f"{part} of the {cost}", *(f"{wins[group]} of {len(alike)}" for group in groups)]
            rows.append([*cells, f"{sum(each.beaten_by is None for each in alike)} of {len(alike)}"])
    return page_tables.in_markdown(["limit", *groups, "no rival beats the picks"], rows)


def with_tables(page: str, trees: Mapping[str, Mapping[str, dict]]) -> str:
    """Return `page`, a text in Markdown, with each of its tables made anew.

    Args:
        page: the text.
        trees: the results of each task, by precision.
    """
    tables = {}
    for precision, of_tasks in trees.items():
        tables[f"winners {precision}"] = partial(winners_table, of_tasks)
        for cost in KEYS:
            tables[f"{cost} {precision}"] = lambda of_tasks=of_tasks, cost=cost: limits_table(limits_of(of_tasks, cost))
    return page_tables.replaced(page, "|".join(tables), lambda name: tables[name]())


def results_in(folder: Path) -> dict[str, dict[str, dict]]:
    """Return the results of each task, by precision, as far as there are any."""
    return {
        precision: {
            name: json.loads(path.read_text()) for name in NAMES if (path := folder / f"{name}-{precision}.json").exists()
        }
        for precision in PRECISIONS
    }


@plots.style()
def plot_fronts(trees: Mapping[str, dict]) -> Figure:
    """Return a plot of accuracy over size and over latency for each task. Bars are standard errors over the seeds."""
    figure, axes = plots.panels(2 * len(trees))
    panels = [list(limits_of({task: tree}, cost)) for task, tree in trees.items() for cost in KEYS]
    for axis, limits in zip(axes, panels, strict=True):
        plot_limits(axis, limits)
    shown = shown_groups(limit for limits in panels for limit in limits)
    handles = [Line2D([], [], color=COLORS[group], marker="o", label=group) for group in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def plot_limits(axis: Axes, limits: list[Limit]) -> None:
    """Draw for each group the accuracy of its best model for each limit over its cost. Without a model the panel is hidden."""
    if not any(each.groups for each in limits):
        axis.set_visible(False)
        return
    factor, unit, _ = UNITS[limits[0].cost]
    for group in GROUPS:
        models = [each.groups[group] for each in limits if group in each.groups]
        costs, means, errors = (
            [get(m) for m in models] for get in (lambda m: factor * m.cost, lambda m: 100 * m.mean, lambda m: 100 * m.error)
        )
        axis.errorbar(costs, means, yerr=errors, fmt="o-", color=COLORS[group], capsize=2.5, elinewidth=1)
    label = {"size": "file size", "latency": "median latency"}[limits[0].cost]
    axis.set(title=NAMES[limits[0].task], xlabel=f"{label}, {unit}", ylabel="accuracy, %")
    plots.log_scale(axis, "x")


@click.command()
@click.argument("folder", default=DOCS / "compress", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "fronts.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder: Path, page: Path):
    trees = results_in(folder)
    files.write(page, with_tables(page.read_text(), trees).encode(), overwrite=True)
    for precision, of_tasks in trees.items():
        if of_tasks:
            plots.save(plot_fronts(of_tasks), page.parent / f"fronts_{precision}.png", overwrite=True)


if __name__ == "__main__":
    main()
