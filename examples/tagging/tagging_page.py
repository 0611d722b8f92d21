"""Write the tables of docs/tagging.md and the plots beside it from the results of experiment.py.

    python examples/tagging/tagging_page.py [FOLDER] [--page docs/tagging.md]

FOLDER holds the JSON files, by default docs/tagging: TASK.json of the recipe "cpu", and TASK-paper.json of the recipe "paper",
whose files are measured untrained. In the page, a table stands between the lines
`<!-- TABLE TASK -->` and `<!-- end -->`. Everything else in the page stays as it is. A kind whose runs are not all done is left
out of the tables.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import page_tables
from tagged_sentences import SETS
from tagger import BUTTERFLY, DENSE, KINDS, LOW_RANK, LOW_RANK_FINAL, NARROW, PAPER, PRUNED

from keras_butterfly.export import files
from keras_butterfly.export.measurement import plots

DOCS = Path(__file__).parent.parent.parent / "docs"
NAMES = {"pos": "parts of speech", "ner": "named entities"}
SEEDS = 3
# Number of tokens of the sentences on which files were scored.
SCORED = "32"
NOT_MEASURED = "Not measured."
# The colors that these kinds have in every plot of the documentation.
COLORS = {
    DENSE: plots.KINDS["dense"],
    PAPER: plots.KINDS["J2^T W' J1"],
    LOW_RANK_FINAL: plots.KINDS["low rank"],
    BUTTERFLY: plots.KINDS["butterfly"],
    NARROW: plots.KINDS["narrow dense"],
    PRUNED: plots.KINDS["dense, pruned"],
    LOW_RANK: "#999999",
}
# The kinds that a replacement is compared with: the claim about it holds only if it beats them.
RIVALS = {PAPER: (DENSE, LOW_RANK_FINAL), BUTTERFLY: (DENSE, NARROW, LOW_RANK, PRUNED)}
# A difference of means that is smaller than the larger standard deviation of the two is noise, and so is half a point.
POINTS = 0.5


def runs_of(tree: dict, kind: str) -> tuple[float, list[dict]] | None:
    """Return the best rate of a kind and its runs, one for each seed, or None if its runs are not all done."""
    found = tree.get(kind, {})
    rates = [rate for rate, seeds in found.items() if "seed 0" in seeds]
    if not rates:
        return None
    best = max(rates, key=lambda rate: found[rate]["seed 0"]["dev"][-1])
    seeds = [found[best].get(f"seed {seed}") for seed in range(SEEDS)]
    return None if None in seeds else (float(best.split()[-1]), seeds)


def finished(tree: dict) -> dict[str, list[dict]]:
    """Return the kinds whose runs are all done, each with its runs at its best rate."""
    return {kind: runs[1] for kind in KINDS if (runs := runs_of(tree, kind))}


def tests_of(runs: list[dict]) -> np.ndarray:
    """Return the test scores of some runs in percent."""
    return 100 * np.array([run["test"] for run in runs])


def epochs_to(runs: list[dict], goal: float) -> str:
    """Return the mean number of epochs until the score on the development sentences reaches `goal`, as a text."""
    reached = [next((epoch for epoch, dev in enumerate(run["dev"], 1) if dev >= goal), None) for run in runs]
    return "not reached" if None in reached else f"{np.mean(reached):.1f}"


def goal_of(tree: dict) -> float:
    """Return the score on the development sentences by which convergence is measured: half a point below the dense tagger's."""
    return float(np.mean([run["dev"][-1] for run in finished(tree)[DENSE]])) - POINTS / 100


def score_table(tree: dict) -> str:
    """Return the table of weights and test scores in Markdown."""
    metric = SETS[tree["task"]].metric
    lines = [
        f"| tagger | weights | test {metric}, %, mean ± deviation (range) | against dense | epochs | rate |",
        "|---|---|---|---|---|---|",
    ]
    done = finished(tree)
    for kind, runs in done.items():
        tests, rate = tests_of(runs), runs_of(tree, kind)[0]
        gap = f"{tests.mean() - tests_of(done[DENSE]).mean():+.2f}" if DENSE in done and kind != DENSE else ""
        shown = f"{tests.mean():.2f} ± {tests.std(ddof=1):.2f} ({tests.min():.2f} to {tests.max():.2f})"
        epochs = epochs_to(runs, goal_of(tree)) if DENSE in done else ""
        lines.append(f"| {kind} | {runs[0]['weights']:,} | {shown} | {gap} | {epochs} | {rate:g} |")
    return "\n".join(lines)


def export_table(tree: dict) -> str:
    """Return the table of exported files in Markdown: size, latency and, if it was trained, score in each precision."""
    exports = {precision: lengths[SCORED] for precision, lengths in tree.get("exports", {}).items() if lengths.get(SCORED)}
    if not exports:
        return NOT_MEASURED
    scored = any("score" in row for kinds in exports.values() for row in kinds.values())
    columns = "KiB, us" + (f", {SETS[tree['task']].metric} %" if scored else "")
    header = [f"{precision}: {columns}" for precision in exports]
    lines = [f"| tagger | {' | '.join(header)} |", "|---" * (1 + len(header)) + "|"]
    for kind in KINDS:
        rows = [kinds[kind] for kinds in exports.values() if kind in kinds]
        if len(rows) < len(exports) or (scored and "score" not in rows[0]):
            continue
        cells = [f"{row['bytes'] / 1024:,.0f}, {row['seconds'] * 1e6:,.0f}" for row in rows]
        if scored:
            cells = [f"{cell}, {100 * row['score']:.2f}" for cell, row in zip(cells, rows, strict=True)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def latency_table(tree: dict) -> str:
    """Return the table of latencies in Markdown, with the training step: microseconds, and how much faster than dense."""
    lengths = tree.get("exports", {}).get("float32", {})
    if not lengths:
        return NOT_MEASURED
    steps = tree.get("training step", {}).get("seconds", {})
    header = ["weights", *(f"{length} tokens, us" for length in lengths), *(["training step, ms"] if steps else [])]
    lines = [f"| tagger | {' | '.join(header)} |", "|---" * (1 + len(header)) + "|"]
    for kind in KINDS:
        if kind not in lengths[SCORED]:
            continue
        cells = [f"{lengths[SCORED][kind]['weights']:,}"]
        cells += [with_gain(kinds[kind]["seconds"], kinds[DENSE]["seconds"], 1e6) for kinds in lengths.values()]
        if steps:
            cells.append(with_gain(steps[kind], steps[DENSE], 1e3) if kind in steps else "")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_gain(seconds: float, dense: float, unit: float) -> str:
    """Return a time, and how many times as fast as the dense tagger it is."""
    return f"{seconds * unit:,.1f} ({dense / seconds:.2f}x)"


def claim_table(tree: dict) -> str:
    """Return the paper's claims beside what was seen, in Markdown."""
    done = finished(tree)
    kinds = [kind for kind in (PAPER, BUTTERFLY) if kind in done and DENSE in done]
    lines = [f"| the paper's claim | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    rows = {
        "as accurate as dense": [same_score(done, kind) for kind in kinds],
        "better than its rivals of equal weights": [against_rivals(done, kind) for kind in kinds],
        "fewer weights": [fewer_weights(done, kind) for kind in kinds],
        "fewer epochs": [fewer_epochs(tree, kind) for kind in kinds],
        "faster training step": [faster(tree.get("training step", {}).get("seconds", {}), kind) for kind in kinds],
        "faster inference": [faster(latencies_of(tree), kind) for kind in kinds],
    }
    return "\n".join([*lines, *(f"| {claim} | {' | '.join(cells)} |" for claim, cells in rows.items())])


def same_score(done: dict, kind: str) -> str:
    gap = tests_of(done[kind]).mean() - tests_of(done[DENSE]).mean()
    noise = max(tests_of(done[each]).std(ddof=1) for each in (kind, DENSE))
    answer = "**no**" if gap < -max(POINTS, noise) else "yes"
    if abs(gap) <= noise:
        answer = "yes, within the noise" if abs(gap) <= POINTS else "undecided, within the noise"
    return f"{answer}: {gap:+.2f} points, deviation {noise:.2f}"


def against_rivals(done: dict, kind: str) -> str:
    found = []
    for rival in RIVALS[kind][1:]:
        if rival in done:
            gap = tests_of(done[kind]).mean() - tests_of(done[rival]).mean()
            noise = max(tests_of(done[each]).std(ddof=1) for each in (kind, rival))
            answer = "no difference" if abs(gap) <= noise else ("yes" if gap > 0 else "**no**")
            found.append(f"{rival}: {answer}, {gap:+.2f}")
    return "; ".join(found) or "not run"


def fewer_weights(done: dict, kind: str) -> str:
    weights, dense = done[kind][0]["weights"], done[DENSE][0]["weights"]
    if weights >= dense:
        return f"**no**: {weights:,} of {dense:,}"
    return f"yes: {weights:,} of {dense:,}, {100 * (1 - weights / dense):.1f} % fewer"


def fewer_epochs(tree: dict, kind: str) -> str:
    epochs = [epochs_to(finished(tree)[each], goal_of(tree)) for each in (kind, DENSE)]
    reached = [float(each) if each != "not reached" else np.inf for each in epochs]
    return f"{'yes' if reached[0] < reached[1] else '**no**'}: {epochs[0]}, dense {epochs[1]}"


def latencies_of(tree: dict) -> dict[str, float]:
    """Return the seconds of each kind for a sentence of 32 tokens in float32, as far as they were measured."""
    return {kind: row["seconds"] for kind, row in tree.get("exports", {}).get("float32", {}).get(SCORED, {}).items()}


def faster(seconds: dict[str, float], kind: str) -> str:
    if kind not in seconds or DENSE not in seconds:
        return "not measured"
    gain = seconds[DENSE] / seconds[kind]
    # Two measurements of one network differ by a few percent.
    answer = "yes" if gain > 1.05 else ("no difference" if gain > 0.95 else "**no**")
    return f"{answer}: {gain:.2f}x"


def rate_table(tree: dict) -> str:
    """Return the table of the search for the best rate in Markdown: the scores of seed 0, of unfinished kinds too."""
    rates = [f"{rate:g}" for rate in tree["settings"]["rates"]]
    lines = [f"| tagger | {' | '.join(rates)} |", "|---" * (1 + len(rates)) + "|"]
    for kind in KINDS:
        runs = [tree.get(kind, {}).get(f"rate {rate}", {}).get("seed 0") for rate in rates]
        if any(runs):
            cells = [f"{100 * run['dev'][-1]:.2f}, {100 * run['test']:.2f}" if run else "" for run in runs]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"claims": claim_table, "scores": score_table, "rates": rate_table, "exports": export_table, "latency": latency_table}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`.

    Raises:
        ValueError: if the page names an unknown table or task.
    """

    def table(title: str) -> str:
        kind, name = title.split()
        if kind not in TABLES or name not in trees:
            raise ValueError(f"Expected a table of {list(TABLES)} and of {list(trees)}. Received: '<!-- {title} -->'")
        return TABLES[kind](trees[name])

    return page_tables.replaced(page, r"\w+ [\w-]+", table)


def color_of(kind: str) -> str:
    """Return the color of a kind in all plots."""
    return COLORS.get(kind, plots.KINDS["several kinds"])


def plot_curves(trees: dict[str, dict]) -> Figure:
    """Return a plot for each task: the mean score on the development sentences after each epoch, a line for each kind."""
    figure = Figure(figsize=(6 * len(trees), 4.2), layout="constrained")
    shown: dict[str, object] = {}
    for axis, tree in zip(np.atleast_1d(figure.subplots(1, len(trees))), trees.values(), strict=True):
        for kind, runs in finished(tree).items():
            curves = 100 * np.array([run["dev"] for run in runs])
            epochs, color = np.arange(1, curves.shape[1] + 1), color_of(kind)
            (shown[kind],) = axis.plot(epochs, curves.mean(0), marker="o", markersize=4, color=color, label=kind)
            axis.fill_between(epochs, curves.min(0), curves.max(0), alpha=0.12, color=color)
        axis.set(
            title=NAMES[tree["task"]], xlabel="epoch", ylabel=f"{SETS[tree['task']].metric} on the development sentences, %"
        )
        axis.set_xticks(epochs)
        axis.grid(alpha=0.3)
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def plot_scores(trees: dict[str, dict]) -> Figure:
    """Return a plot for each task: the test score of each seed, by kind, and their mean."""
    figure = Figure(figsize=(6 * len(trees), 3.6), layout="constrained")
    for axis, tree in zip(np.atleast_1d(figure.subplots(1, len(trees))), trees.values(), strict=True):
        done = finished(tree)
        for row, (kind, runs) in enumerate(reversed(done.items())):
            color, tests = color_of(kind), tests_of(runs)
            axis.scatter(tests, [row] * len(tests), color=color, s=18, alpha=0.6)
            axis.scatter([tests.mean()], [row], color=color, s=90, marker="|")
        axis.set_yticks(range(len(done)), [f"{kind}, {runs[0]['weights']:,} weights" for kind, runs in reversed(done.items())])
        axis.set(title=NAMES[tree["task"]], xlabel=f"test {SETS[tree['task']].metric}, %")
        axis.grid(alpha=0.3, axis="x")
    return figure


def read(folder: Path) -> dict[str, dict]:
    """Return the results of each task in `folder`.

    Raises:
        ValueError: if there are none.
    """
    trees = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not trees:
        raise ValueError(f"Expected results of experiment.py in '{folder}', such as pos.json. Found none. Copy them there.")
    for name, tree in trees.items():
        tree["task"] = name.partition("-")[0]
    return trees


@click.command()
@click.argument("folder", default=DOCS / "tagging", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "tagging.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    try:
        trees = read(folder)
        text = with_tables(page.read_text(), trees)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    files.write(page, text.encode(), overwrite=True)
    done = {task: tree for task, tree in trees.items() if finished(tree)}
    for name, plot in {"tagging_curves.png": plot_curves, "tagging_scores.png": plot_scores}.items():
        files.write(page.parent / name, lambda path, plot=plot: plot(done).savefig(path, dpi=110, format="png"), overwrite=True)


if __name__ == "__main__":
    main()
