"""Write the tables of docs/vision.md and the plots beside it from the results of experiment.py.

    python examples/vision/vision_page.py [FOLDER] [--page docs/vision.md]

FOLDER holds the JSON files MODEL-RECIPE.json, by default docs/vision. In the page, a table stands between the lines
`<!-- TABLE MODEL-RECIPE -->` and `<!-- end -->`. Everything else in the page stays as it is.

If a GPU ran other trainings at the same time, add `"shared": true` to the file. Its durations are then left out.
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
from classifier import BUTTERFLY, DENSE, KINDS, LOW_RANK, PAPER, PAPER_LARGER, PRUNED

from keras_butterfly.export import files
from keras_butterfly.export.measurement import plots

DOCS = Path(__file__).parent.parent.parent / "docs"
NAMES = {"preact_resnet18": "PreActResNet18", "efficientnet_b0": "EfficientNet-B0", "se_resnet152": "SE-ResNet152"}
NOT_MEASURED, NOT_RUN = "Not measured.", "Not run."
# The kinds that a final layer is compared with: the claim about it holds only if it beats them.
RIVALS = dict.fromkeys((PAPER, PAPER_LARGER, BUTTERFLY), (LOW_RANK, PRUNED))
COLORS = {**plots.KINDS, PAPER_LARGER: plots.KINDS["several kinds"]}
# A difference of means that is smaller than the larger standard deviation of the two is noise, and so is half a point.
POINTS = 0.5
# By such a part two durations of one network differ: of training steps, timed while other programs ran, and of files.
STEP_NOISE, FILE_NOISE = 0.2, 0.05


def rate_of(tree: dict, kind: str) -> str:
    """Return the name of the rate at which a kind was best with seed 0 on the held-out images."""
    rates = {rate: runs["seed 0"]["dev"][-1] for rate, runs in tree.get(kind, {}).items() if "seed 0" in runs}
    return max(rates, key=rates.get, default="")


def finished(tree: dict) -> dict[str, list[dict]]:
    """Return the kinds that were trained, each with its runs at its best rate, one for each seed."""
    return {kind: [*tree[kind][rate].values()] for kind in KINDS if (rate := rate_of(tree, kind))}


def tests_of(runs: list[dict]) -> np.ndarray:
    """Return the accuracy of some runs on the test images in percent."""
    return 100 * np.array([run["test"] for run in runs])


def diverged(runs: list[dict]) -> int:
    """Return how many of `runs` ended with a loss that is not a number."""
    return sum(not np.isfinite(run["loss"][-1]) for run in runs)


def deviation(values: np.ndarray) -> float:
    """Return the standard deviation of some values, and not a number for a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def epochs_to(runs: list[dict], goal: float) -> int | None:
    """Return after how many epochs the accuracy on the held-out images, the mean of all seeds, reaches `goal`, if it does."""
    means = np.mean([run["dev"] for run in runs], axis=0)
    return next((epoch for epoch, mean in enumerate(means, 1) if mean >= goal), None)


def goal_of(tree: dict) -> float:
    """Return the accuracy by which convergence is measured: half a point below the dense network's on the held-out images."""
    return float(np.mean([run["dev"][-1] for run in finished(tree)[DENSE]])) - POINTS / 100


def step_of(tree: dict, runs: list[dict]) -> float | None:
    """Return the seconds of a training step: the median over all epochs but the first of each run, which compiles the network.

    On CPUs, which other programs use too, they are those of the processors. On a GPU that was shared there are none.
    """
    if tree.get("shared"):
        return None
    clock = "processor seconds" if tree["settings"]["recipe"] in ("cpu", "quick") else "seconds"
    return float(np.median([seconds / run["steps"] for run in runs for seconds in run[clock][1:]]))


def score_table(tree: dict) -> str:
    """Return the table of weights, test accuracies and training steps in Markdown."""
    lines = [
        "| final layer | its weights | all weights | seeds | test accuracy, %, mean ± deviation (range) | against dense "
        "| epochs | training step, ms | rate |",
        "|---" * 9 + "|",
    ]
    done = finished(tree)
    for kind, runs in done.items():
        tests, gap = tests_of(runs), ""
        if kind != DENSE and DENSE in done:
            gap = f"{tests.mean() - tests_of(done[DENSE]).mean():+.2f}"
        shown = f"{tests.mean():.2f}"
        if len(tests) > 1:
            shown += f" ± {deviation(tests):.2f} ({tests.min():.2f} to {tests.max():.2f})"
        if failed := diverged(runs):
            shown += f", diverged: {failed}"
        epochs = (epochs_to(runs, goal_of(tree)) or "not reached") if DENSE in done else ""
        cells = [kind, f"{runs[0]['final weights']:,}", f"{runs[0]['weights']:,}", len(runs), shown, gap, epochs]
        step = step_of(tree, runs)
        cells += ["not measured" if step is None else f"{1e3 * step:,.1f}", rate_of(tree, kind).split()[-1]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def claim_table(tree: dict) -> str:
    """Return the paper's claims beside what was seen, in Markdown."""
    done = finished(tree)
    kinds = [kind for kind in RIVALS if kind in done and DENSE in done]
    if not kinds:
        return NOT_RUN
    lines = [f"| the paper's claim | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    steps = {kind: step for kind, runs in done.items() if (step := step_of(tree, runs)) is not None}
    rows = {
        "as accurate as dense": [same_accuracy(done, kind) for kind in kinds],
        "better than its rivals of equal weights": [against_rivals(done, kind) for kind in kinds],
        "fewer weights": [fewer_weights(done, kind) for kind in kinds],
        "fewer epochs": [fewer_epochs(tree, kind) for kind in kinds],
        "faster training step": [faster(steps, kind, STEP_NOISE) for kind in kinds],
        "faster inference": [faster(latencies_of(tree), kind, FILE_NOISE) for kind in kinds],
    }
    return "\n".join([*lines, *(f"| {claim} | {' | '.join(cells)} |" for claim, cells in rows.items())])


def gap_of(done: dict, kind: str, other: str) -> tuple[float, float]:
    """Return by how many points a kind is better than another, and the larger standard deviation of the two."""
    tests = [tests_of(done[each]) for each in (kind, other)]
    return tests[0].mean() - tests[1].mean(), max(deviation(each) for each in tests)


def same_accuracy(done: dict, kind: str) -> str:
    if failed := diverged(done[kind]):
        return f"**no**: diverged with {failed} of {len(done[kind])} seeds"
    gap, noise = gap_of(done, kind, DENSE)
    if np.isnan(noise):
        return f"one seed: {gap:+.2f} points"
    if abs(gap) <= noise:
        answer = "yes, within the noise" if abs(gap) <= POINTS else "undecided, within the noise"
    else:
        answer = "yes" if gap >= -POINTS else "**no**"
    return f"{answer}: {gap:+.2f} points, deviation {noise:.2f}"


def against_rivals(done: dict, kind: str) -> str:
    if diverged(done[kind]):
        return "**no**"
    found = []
    for rival in RIVALS[kind]:
        if rival in done:
            gap, noise = gap_of(done, kind, rival)
            answer = "yes" if gap > 0 else "**no**"
            if not abs(gap) > noise:
                answer = "one seed" if np.isnan(noise) else "no difference"
            found.append(f"{rival}: {answer}, {gap:+.2f}")
    return "; ".join(found) or "not run"


def fewer_weights(done: dict, kind: str) -> str:
    run, dense = done[kind][0], done[DENSE][0]
    saved = [100 * (1 - run[name] / dense[name]) for name in ("final weights", "weights")]
    return f"{'yes' if saved[0] > 0 else '**no**'}: {saved[0]:.1f} % of the final layer, {saved[1]:.3f} % of all"


def fewer_epochs(tree: dict, kind: str) -> str:
    own, dense = (epochs_to(finished(tree)[each], goal_of(tree)) for each in (kind, DENSE))
    if own is None:
        return f"**no**: not reached, dense {dense}"
    answer = "yes" if own < dense else ("no difference" if own == dense else "**no**")
    return f"{answer}: {own}, dense {dense}"


def latencies_of(tree: dict) -> dict[str, float]:
    """Return the seconds of the float32 file of each kind, as far as they were measured."""
    return {kind: row["seconds"] for kind, row in tree.get("exports", {}).get("float32", {}).items()}


def faster(seconds: dict[str, float], kind: str, noise: float) -> str:
    """Return whether a kind is faster than dense by more than the noise, a part of the duration."""
    if kind not in seconds or DENSE not in seconds:
        return "not measured"
    gain = seconds[DENSE] / seconds[kind]
    answer = "yes" if gain > 1 + noise else ("no difference" if gain > 1 - noise else "**no**")
    return f"{answer}: {gain:.2f}x"


def export_table(tree: dict) -> str:
    """Return the table of exported files in Markdown: size, latency and, if it was trained, accuracy in each precision."""
    exports = {precision: kinds for precision, kinds in tree.get("exports", {}).items() if kinds}
    if not exports:
        return NOT_MEASURED
    scored = any("accuracy" in row for kinds in exports.values() for row in kinds.values())
    header = [f"{precision}: KiB, ms" + (", accuracy %" if scored else "") for precision in exports]
    lines = [f"| final layer | {' | '.join(header)} |", "|---" * (1 + len(header)) + "|"]
    for kind in KINDS:
        rows = [kinds.get(kind) for kinds in exports.values()]
        if any(rows):
            lines.append(f"| {kind} | {' | '.join(_cell(row) if row else 'refused' for row in rows)} |")
    return "\n".join(lines)


def _cell(row: dict) -> str:
    shown = f"{row['bytes'] / 1024:,.0f}, {row['seconds'] * 1e3:,.2f}"
    return shown + (f", {100 * row['accuracy']:.1f}" if "accuracy" in row else "")


TABLES = {"claims": claim_table, "scores": score_table, "exports": export_table}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`.

    Raises:
        ValueError: if the page names an unknown table or unknown results.
    """

    def table(title: str) -> str:
        kind, name = title.split()
        if kind not in TABLES or name not in trees:
            raise ValueError(f"Expected a table of {list(TABLES)} and of {list(trees)}. Received: '<!-- {title} -->'")
        return TABLES[kind](trees[name])

    return page_tables.replaced(page, r"\w+ [\w-]+", table)


def title_of(tree: dict) -> str:
    """Return the name of the network and its recipe."""
    return f"{NAMES[tree['settings']['model']]}, recipe {tree['settings']['recipe']}"


def plot_curves(trees: list[dict]) -> Figure:
    """Return a plot for each network and recipe: the accuracy on the held-out images after each epoch, a line for each kind."""
    figure = Figure(figsize=(4.2 * len(trees), 3.8), layout="constrained")
    shown: dict[str, object] = {}
    for axis, tree in zip(np.atleast_1d(figure.subplots(1, len(trees))), trees, strict=True):
        for kind, runs in finished(tree).items():
            curves = 100 * np.array([run["dev"] for run in runs])
            epochs, color = np.arange(1, curves.shape[1] + 1), COLORS[kind]
            (shown[kind],) = axis.plot(epochs, curves.mean(0), marker="o", markersize=3, color=color, label=kind)
            axis.fill_between(epochs, curves.min(0), curves.max(0), alpha=0.12, color=color)
        axis.set(title=title_of(tree), xlabel="epoch", ylabel="accuracy on the held-out images, %")
        axis.grid(alpha=0.3)
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def plot_scores(trees: list[dict]) -> Figure:
    """Return a plot for each network and recipe: the test accuracy of each seed, by kind, and their mean."""
    figure = Figure(figsize=(4.2 * len(trees), 2.6), layout="constrained")
    for axis, tree in zip(np.atleast_1d(figure.subplots(1, len(trees))), trees, strict=True):
        done = finished(tree)
        for row, (kind, runs) in enumerate(reversed(done.items())):
            color, tests = COLORS[kind], tests_of(runs)
            axis.scatter(tests, [row] * len(tests), color=color, s=18, alpha=0.6)
            axis.scatter([tests.mean()], [row], color=color, s=90, marker="|")
        axis.set_yticks(range(len(done)), [*reversed(done)])
        axis.set(title=title_of(tree), xlabel="test accuracy, %", ylim=(-0.6, len(done) - 0.4))
        axis.grid(alpha=0.3, axis="x")
    return figure


def read(folder: Path) -> dict[str, dict]:
    """Return the results of each network and recipe in `folder`, by MODEL-RECIPE.

    Raises:
        ValueError: if there are none.
    """
    trees = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not trees:
        raise ValueError(
            f"Expected results of experiment.py in '{folder}', such as preact_resnet18-cpu.json. Found none. Copy them there."
        )
    return trees


@click.command()
@click.argument("folder", default=DOCS / "vision", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "vision.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    try:
        trees = read(folder)
        text = with_tables(page.read_text(), trees)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    files.write(page, text.encode(), overwrite=True)
    done = [tree for tree in trees.values() if finished(tree)]
    if not done:
        return
    for name, plot in {"vision_curves.png": plot_curves, "vision_scores.png": plot_scores}.items():
        files.write(page.parent / name, lambda path, plot=plot: plot(done).savefig(path, dpi=110, format="png"), overwrite=True)


if __name__ == "__main__":
    main()
