"""Write the tables of docs/dense-heavy.md and the plots beside it from the results of the experiments of this folder.

    python examples/dense_heavy/dense_heavy_page.py [FOLDER] [--page docs/dense-heavy.md]

FOLDER, by default docs/dense_heavy, holds speech.json, and the results of the wide networks: latency.json, and wide.json and
wide_gpu.json of the recipes "cpu" and "gpu". In the page, a table stands between the lines `<!-- table NAME -->` and
`<!-- end -->`. Everything else in the page stays as it is.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import page_tables
import wide_tables

from keras_butterfly.export import files
from keras_butterfly.export.measurement.plots import COLORS

DOCS = Path(__file__).parent.parent.parent / "docs"
SPEAKERS, OFFICIAL = "speakers", "official"
REFERENCE = "butterfly"
PAIRS = 3  # of speakers that are held out. The seeds 0, 3, 6, ... hold out the same two, see speech.py.
ROWS = (
    "fixed log-mel",
    "dense",
    REFERENCE,
    "butterfly, random start",
    "butterfly, all frequencies",
    "narrow dense",
    "pruned dense",
    "low rank",
    "low rank, nearest on data",
)


@dataclass(frozen=True)
class Best:
    """The runs of one front end at its best rate: an accuracy, from 0 to 1, for each seed."""

    rate: float
    accuracies: tuple[float, ...]
    weights: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ({100 * min(self.accuracies):.1f} to {100 * max(self.accuracies):.1f})"


def runs(tree: dict, split: str, kind: str) -> list[Best]:
    """Return the runs of a front end with each learning rate that was tried with all seeds."""
    found = [
        Best(float(rate.split()[-1]), tuple(run["accuracy"] for run in seeds.values()), seeds["seed 0"]["weights"]["front end"])
        for rate, seeds in tree.get(split, {}).get(kind, {}).items()
    ]
    most = max((len(each.accuracies) for each in found), default=0)
    return [each for each in found if len(each.accuracies) == most]


def best(tree: dict, kind: str) -> Best:
    """Return the runs of a front end at the rate that is best on new speakers."""
    return max(runs(tree, SPEAKERS, kind), key=lambda each: each.mean)


def speech_kinds(tree: dict) -> list[str]:
    """Return the front ends that were trained, in the order of the table."""
    return [kind for kind in ROWS if kind in tree[SPEAKERS]]


def accuracy_table(tree: dict) -> str:
    """Return the table of accuracies in Markdown. The differences to the butterfly are those of the same seeds."""
    known = OFFICIAL in tree
    lines = [
        "| front end | its weights | rate | new speakers, % "
        + "| difference to the butterfly ± standard error (by pair of speakers) |"
        + " known speakers, % |" * known,
        "|---" * (5 + known) + "|",
    ]
    reference = best(tree, REFERENCE)
    for kind in speech_kinds(tree):
        row = best(tree, kind)
        shown = difference(100 * np.subtract(row.accuracies, reference.accuracies))
        rate = f"{row.rate:g}" if row.rate else "not trained"
        cells = [kind, f"{row.weights:,}", rate, str(row), "" if kind == REFERENCE else shown]
        if known:
            cells.append(next((str(each) for each in runs(tree, OFFICIAL, kind) if each.rate == row.rate), ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(points: np.ndarray) -> str:
    """Return differences, one for each seed, as a text: their mean, its standard error, and the mean for each pair of speakers.

    The standard error is that of the pairs, because two seeds with the same new speakers are not independent.
    """
    pairs = np.array([points[pair::PAIRS].mean() for pair in range(PAIRS)])
    error = pairs.std(ddof=1) / np.sqrt(PAIRS)
    return f"{pairs.mean():+.1f} ± {error:.1f} ({', '.join(f'{each:+.1f}' for each in pairs)})"


def export_table(tree: dict) -> str:
    """Return the table of the exported networks in Markdown: KiB, microseconds and accuracy in each precision."""
    precisions = list(tree["exports"])
    columns = [f"{precision}: KiB, us, %" for precision in precisions]
    lines = [f"| front end | {' | '.join(columns)} |", "|---" * (len(precisions) + 1) + "|"]
    for kind in ROWS:
        exported = [tree["exports"][precision].get(kind) for precision in precisions]
        if all(exported):
            cells = [f"{one['bytes'] / 1024:,.0f}, {one['seconds'] * 1e6:.0f}, {100 * one['accuracy']:.1f}" for one in exported]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


# name -> a function of all results, by file
TABLES: dict[str, Callable[[dict[str, dict]], str]] = {
    "speech": lambda trees: accuracy_table(trees["speech"]),
    "speech-exports": lambda trees: export_table(trees["speech"]),
    "latency": lambda trees: wide_tables.latency_table(trees["latency"]),
    "wide": lambda trees: wide_tables.accuracy_table(trees["wide"]),
    "wide-gpu": lambda trees: wide_tables.accuracy_table(trees["wide_gpu"]),
    "wide-claims": lambda trees: wide_tables.claim_table(trees["wide"], trees["latency"]),
    "wide-gpu-claims": lambda trees: wide_tables.claim_table(trees["wide_gpu"], trees["latency"]),
}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`.

    Raises:
        ValueError: if the page names an unknown table.
    """

    def table(title: str) -> str:
        name = title.split()[-1]
        if name not in TABLES:
            raise ValueError(f"Expected a table of {list(TABLES)}. Received: '<!-- {title} -->'")
        return TABLES[name](trees)

    return page_tables.replaced(page, r"table \S+", table)


def plot_speech(tree: dict) -> Figure:
    """Return a plot of the accuracy on new speakers of each front end: the mean, and a point for each seed."""
    kinds = speech_kinds(tree)[::-1]
    figure = Figure(figsize=(7, 0.45 * len(kinds) + 1), layout="constrained")
    axis = figure.subplots()
    for row, kind in enumerate(kinds):
        found = best(tree, kind)
        color = COLORS[0] if kind == REFERENCE else COLORS[1]
        axis.barh(row, 100 * found.mean, color=color, alpha=0.5)
        axis.plot(
            [100 * accuracy for accuracy in found.accuracies], [row] * len(found.accuracies), "o", color=color, markersize=4
        )
    axis.set_yticks(range(len(kinds)), [f"{kind}, {best(tree, kind).weights:,} weights" for kind in kinds])
    axis.set(xlabel="accuracy on new speakers, %", xlim=(0, 100))
    axis.grid(axis="x", alpha=0.3)
    return figure


@click.command()
@click.argument("folder", default=DOCS / "dense_heavy", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "dense-heavy.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    trees = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    files.write(page, with_tables(page.read_text(), trees).encode(), overwrite=True)
    plots = {"speech.png": plot_speech(trees["speech"]), "wide.png": wide_tables.plot(trees["wide"])}
    for name, figure in plots.items():
        files.write(page.parent / name, partial(figure.savefig, dpi=110, format="png"), overwrite=True)
    click.echo(f"wrote {page}, {' and '.join(plots)}")


if __name__ == "__main__":
    main()
