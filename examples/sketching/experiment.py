"""Section 6 of the paper: learned sketches for low-rank decomposition.

    python examples/sketching/experiment.py FOLDER [--data DATA] [--stack NAME ...] [--pair K ELL ...] [--quick]

A sketch B (ell x n) is trained on four in five of the matrices of a stack so that X is near B_k(X), its best approximation
of rank k in the row space of B X. The error on the others is Err = mean ||X - B_k(X)|| - mean ||X - X_k||, with the Frobenius
norm as it is (the paper's code) and squared (the paper's text). Compared are
    butterfly         trained, initially an FJLT                  FJLT        the same, not trained
    learned sparse    one non-zero in a column, values trained    sparse      the same, not trained (Clarkson and Woodruff)
    learned, N = ...  N non-zeros in a column, values trained     Gaussian
    randomized SVD    scikit-learn's, with as many random vectors, without and with power iterations; it reads X again and again
The seed draws which matrices are for training, the permutation of the rows, and the sketches. FOLDER gets results.json, which
an interrupted run continues, and plots.
"""

import sys
import time
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

import matrices
from results import Results

from keras_butterfly.export.measurement import plots
from keras_butterfly.sketching import ButterflySketch, GaussianSketch, SparseSketch, low_rank_approximation
from keras_butterfly.utils.progress import Progress

PAIRS = ((1, 5), (10, 10), (10, 20), (20, 40), (30, 60))
BATCH = 32
DENSEST = 20
# Non-zeros per column of the curve, at this pair.
CURVE_PAIR, CURVE = (10, 20), (1, 2, 5, 10, 20)
# The best of 0.001, 0.003 for the butterfly, with this factor on it, and of 0.01, 0.1 for the others, on CIFAR-10, bands and
# text.
FACTOR = 10
RATES = {"butterfly": 3e-3, "sparse": 1e-1, "dense": 1e-2}
LAST = "randomized SVD, default"  # computed last of a pair
NORMS = ("unsquared", "squared")
SMALLEST = 1e-4  # of what is drawn
# The sketches that are drawn for each pair.
MARKERS = {
    "butterfly": "o",
    "learned sparse": "s",
    "FJLT": "^",
    "sparse": "D",
    "Gaussian": "v",
    "randomized SVD, 0 iterations": "*",
    LAST: "X",
}


def sketches(ell: int, seed: int) -> dict:
    """Per name the sketch and the learning rate it is trained at, None where it is not trained."""
    densest = min(DENSEST, ell)
    return {
        "butterfly": (ButterflySketch(ell, seed=seed, lr_multiplier=FACTOR), RATES["butterfly"]),
        "learned sparse": (SparseSketch(ell, seed=seed), RATES["sparse"]),
        f"learned, N = {densest}": (SparseSketch(ell, densest, seed=seed), RATES["dense"]),
        "FJLT": (ButterflySketch(ell, seed=seed), None),
        "sparse": (SparseSketch(ell, seed=seed), None),
        "Gaussian": (GaussianSketch(ell, seed=seed), None),
    }


class Task:
    """The matrices of one seed and what cannot be beaten on those for testing."""

    def __init__(self, name: str, folder, seed: int):
        self.stack = matrices.load_stack(name, folder, seed)
        self.training = self.stack.matrices[: self.stack.training]
        self.testing = self.stack.matrices[self.stack.training :].astype(float)
        self.tails = np.cumsum(np.linalg.svd(self.testing, compute_uv=False)[:, ::-1] ** 2, axis=1)[:, ::-1]

    def errors(self, squared: np.ndarray, k: int) -> dict[str, float]:
        """Err in both norms, from the squared errors of the approximations."""
        least = self.tails[:, k] if k < self.tails.shape[1] else np.zeros(len(self.tails))
        return {
            "unsquared": float(np.mean(np.sqrt(squared)) - np.mean(np.sqrt(least))),
            "squared": float(np.mean(squared) - np.mean(least)),
        }

    def sketched(self, sketch, k: int, rate: float | None, steps: int) -> dict:
        started = time.perf_counter()
        if rate is not None:
            keras.utils.set_random_seed(sketch.seed)  # the order of the batches
            sketch.fit(self.training, k, steps=steps, batch_size=BATCH, learning_rate=rate)
        squared = low_rank_approximation(sketch, self.testing, k).squared_error
        seconds = time.perf_counter() - started
        return {**self.errors(squared, k), "parameters": sketch.effective_parameters, "seconds": round(seconds, 1)}

    def randomized(self, k: int, ell: int, seed: int, iterations) -> dict:
        from sklearn.utils.extmath import randomized_svd

        squared = []
        for X in self.testing:  # transposed, so that it sketches the rows as the others do
            u, s, v = randomized_svd(X.T, k, n_oversamples=ell - k, n_iter=iterations, random_state=seed)
            squared.append(np.sum((X.T - (u * s) @ v) ** 2))
        return self.errors(np.array(squared), k)


def run(results: Results, name: str, folder, pairs, steps: int, seeds: int, console: Console) -> None:
    tasks = {seed: Task(name, folder, seed) for seed in range(seeds)}
    stack = tasks[0].stack
    count, n, d = stack.matrices.shape
    pairs = [(k, ell) for k, ell in pairs if k <= min(n, d) and ell <= n]
    if not pairs:
        raise ValueError(f"Expected a pair k <= {min(n, d)}, ell <= {n} for {name}. Received none.")
    facts = {"n": n, "d": d, "training": stack.training, "testing": count - stack.training, "origin": stack.origin}
    results.once((name, "stack"), lambda: facts)
    with Progress() as bars:
        for seed, task in bars.each(tasks.items(), name):
            for k, ell in pairs:
                place = (name, f"{k}, {ell}")
                for label, (sketch, rate) in sketches(ell, seed).items():
                    results.once((*place, label, f"{seed}"), lambda s=sketch, r=rate, k=k, t=task: t.sketched(s, k, r, steps))
                for label, iterations in (("randomized SVD, 0 iterations", 0), (LAST, "auto")):
                    results.once(
                        (*place, label, f"{seed}"),
                        lambda i=iterations, k=k, e=ell, s=seed, t=task: t.randomized(k, e, s, i),
                    )
                shown = ", ".join(
                    f"{label} {entry[f'{seed}']['unsquared']:.4f}" for label, entry in results.tree[name][place[1]].items()
                )
                console.print(f"{name} k={k} ell={ell} seed {seed}: {shown}")
            if CURVE_PAIR in pairs:
                k, ell = CURVE_PAIR
                ends = {1: "learned sparse", DENSEST: f"learned, N = {DENSEST}"}  # trained for the table
                for nonzeros in CURVE:
                    if nonzeros in ends:
                        known = results.tree[name][f"{k}, {ell}"][ends[nonzeros]][f"{seed}"]
                        results.once((name, "curve", f"{nonzeros}", f"{seed}"), lambda known=known: known)
                        continue
                    sketch = SparseSketch(ell, nonzeros, seed=seed)
                    results.once(
                        (name, "curve", f"{nonzeros}", f"{seed}"),
                        lambda s=sketch, k=k, t=task: t.sketched(s, k, RATES["dense"], steps),
                    )


def statistics(entries: dict, norm: str) -> tuple[float, float]:
    """Mean and standard deviation over the seeds."""
    values = [entry[norm] for entry in entries.values()]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def pairs_of(results: Results, name: str) -> list[str]:
    """Those that are complete: an interrupted run may have left others."""
    found = [key for key, entries in results.tree[name].items() if "," in key and LAST in entries]
    return sorted(found, key=lambda key: [int(number) for number in key.split(",")])


def table(results: Results, name: str, norm: str) -> Table:
    facts = results.tree[name]["stack"]
    title = (
        f"{name}: {facts['origin']}; {facts['training']} for training, {facts['testing']} for testing\n"
        f"Err, {norm} Frobenius norm, mean and standard deviation over the seeds; weights of the sketch in brackets"
    )
    shown = Table(title=title, title_justify="left")
    shown.add_column("sketch")
    pairs = pairs_of(results, name)
    for pair in pairs:
        shown.add_column(f"k, ell = {pair}", justify="right")
    labels = dict.fromkeys(label for pair in pairs for label in results.tree[name][pair])
    for label in labels:
        cells = []
        for pair in pairs:
            entries = results.tree[name][pair].get(label)
            if entries is None:
                cells.append("-")
                continue
            average, deviation = statistics(entries, norm)
            parameters = next(iter(entries.values())).get("parameters")
            cells.append(f"{average:.4f} ± {deviation:.4f}" + ("" if parameters is None else f" ({parameters:,})"))
        shown.add_row(label, *cells)
    return shown


@plots.style()
def plot(results: Results, names, path: Path) -> None:
    """Draw a row for each stack: Err of every sketch for each pair (k, ell), and Err over the non-zeros of a column."""
    figure, axes = plots.panels(2 * len(names), height=3.0)
    for left, right, name in zip(axes[::2], axes[1::2], names, strict=True):
        plot_pairs(left, results, name)
        if "curve" in results.tree[name]:
            plot_curve(right, results, name)
        else:
            right.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    curve = next((axis for axis in axes[1::2] if axis.axison), None)
    if curve:
        extra = [(h, label) for h, label in zip(*curve.get_legend_handles_labels(), strict=True) if label not in labels]
        handles, labels = [*handles, *(h for h, _ in extra)], [*labels, *(label for _, label in extra)]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    plots.save(figure, path, overwrite=True)


def plot_pairs(axis, results: Results, name: str) -> None:
    """Draw a marker for Err of every sketch, side by side for each pair, with the standard deviation over the seeds."""
    pairs = pairs_of(results, name)
    colors = plots.colors(MARKERS)
    for index, (label, marker) in enumerate(MARKERS.items()):
        found = [statistics(results.tree[name][pair][label], "unsquared") for pair in pairs]
        heights, deviations = np.transpose(
            [(value, deviation) if value >= SMALLEST else (np.nan, 0) for value, deviation in found]
        )
        places = np.arange(len(pairs)) + 0.11 * (index - (len(MARKERS) - 1) / 2)
        style = {"color": colors[label], "marker": marker, "linestyle": "", "elinewidth": 1, "label": label}
        axis.errorbar(places, heights, [np.minimum(deviations, 0.999 * heights), deviations], **style)
    for boundary in range(1, len(pairs)):
        axis.axvline(boundary - 0.5, color="gray", linewidth=0.5)
    axis.set(title=name, xlabel="k, ell", ylabel="Err, Frobenius norm", xlim=(-0.5, len(pairs) - 0.5), yscale="log")
    axis.set_ylim(bottom=0.8 * SMALLEST)
    axis.set_xticks(range(len(pairs)), pairs)
    axis.grid(visible=False, axis="x")
    plots.log_scale(axis, "y")


def plot_curve(axis, results: Results, name: str) -> None:
    """Draw Err of learned sketches over the number of non-zeros in a column, beside that of other sketches."""
    curve, pair = results.tree[name]["curve"], f"{CURVE_PAIR[0]}, {CURVE_PAIR[1]}"
    heights, deviations = zip(*(statistics(entries, "unsquared") for entries in curve.values()), strict=True)
    counts = [int(count) for count in curve]
    axis.errorbar(counts, heights, deviations, marker="o", color="gray", fillstyle="none", label="learned, N non-zeros")
    for label in ("butterfly", "Gaussian"):
        level = statistics(results.tree[name][pair][label], "unsquared")[0]
        axis.axhline(level, color=plots.colors(MARKERS)[label], linestyle="--", linewidth=1)
        axis.annotate(label, (0.73, level), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="center")
    axis.set(title=f"{name}, k, ell = {pair}", xlabel="non-zeros N in a column", ylabel="Err, Frobenius norm")
    axis.set_xticks(counts)
    plots.log_scale(axis, "y")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="See matrices.py.")
@click.option("--stack", "names", multiple=True, type=click.Choice(list(matrices.STACKS)), help="Repeatable. Default: all.")
@click.option(
    "--pair", "pairs", multiple=True, type=(click.IntRange(min=1), click.IntRange(min=1)), help="k and ell. Repeatable."
)
@click.option("--steps", default=600, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help="What needs no download, k, ell = 10, 20, 20 steps, one seed.")
def main(folder, data, names, pairs, steps, seeds, quick):
    console = Console(width=180)
    if quick:
        names, pairs, steps, seeds = names or ("bands", "patches"), pairs or (CURVE_PAIR,), 20, 1
    names, pairs = names or tuple(matrices.STACKS), pairs or PAIRS
    if wrong := [pair for pair in pairs if pair[0] > pair[1]]:
        raise click.UsageError(f"Expected pairs k <= ell. Received: {wrong}")
    try:
        results = Results(folder / "results.json", {"steps": steps, "data": "local" if data else "loaders"})
        for name in names:
            run(results, name, data, pairs, steps, seeds, console)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for name in names:
        for norm in NORMS:
            console.print(table(results, name, norm))
    plot(results, names, folder / "errors.png")


if __name__ == "__main__":
    main()
