"""Sections 5.2 and 5.3 of the paper: how near the encoder-decoder butterfly network comes to principal components.

    python examples/autoencoder/experiment.py FOLDER [--data DATA] [--matrix NAME ...] [--k K ...] [--steps 2000] [--quick]

For every matrix X (n x d, columns are examples) and width k of the code, the loss ||X - X_hat||_F^2 of
    PCA               the optimum Delta_k, without subtracting means as in the paper (scikit-learn's TruncatedSVD)
    FJLT + PCA        the best D and E for the drawn butterfly: the optimum of phase 1, by Theorem 1
    Gaussian + PCA    the same for a Gaussian matrix of as many rows (scikit-learn's GaussianRandomProjection)
    Gaussian          a Gaussian matrix of k rows with its best decoder
    two-phase         phase 1 solved in closed form, phase 2 by Adam; "solved again": D and E at their optimum for the trained B
    two-phase, Adam   both phases by Adam from random D and E, as in the paper
    joint             all trained from the start, for as many steps

Training is full-batch. With X = U S V^T the loss depends on X through U S alone, so that is what is trained on: as many
examples as X has rank. FOLDER gets results.json, which an interrupted run continues, and plots.
"""

import sys
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

import matrices
from results import Results

from keras_butterfly import ButterflyAutoencoder, two_phase_fit
from keras_butterfly.autoencoder import landscape
from keras_butterfly.autoencoder.model import default_ell
from keras_butterfly.export.measurement import plots
from keras_butterfly.utils.progress import Progress

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
EPOCH = 25  # steps between two points of a loss curve
WARM_UP = 100
TRAININGS = ("two-phase", "two-phase, Adam", "joint")
MARKERS = dict(
    zip(("two-phase", "two-phase, Adam", "joint", "FJLT + PCA", "Gaussian + PCA", "Gaussian"), "os^Dv*", strict=True)
)
LINES = ("PCA", *MARKERS)


class Problem:
    """A matrix as it is trained on: `examples` (rank, n), scaled to a mean square of 1; a loss times `unit` is X's."""

    def __init__(self, X: np.ndarray):
        left, values, _ = np.linalg.svd(X, full_matrices=False)
        rank = int(np.sum(values > 1e-7 * values[0]))
        self.X, self.total = X, float(np.sum(X**2))
        scale = np.sqrt(len(X) * rank / self.total)
        self.unit = 1 / scale**2
        self.examples = (scale * left[:, :rank] * values[:rank]).T.astype("float32")

    def loss(self, model: ButterflyAutoencoder) -> float:
        """||X - D E B X||_F^2, computed in float64."""
        weights = (model.butterfly.kernel, model.code.kernel, model.decoder.kernel)
        x = self.examples.astype(float)
        for kernel in weights:
            x = x @ keras.ops.convert_to_numpy(kernel).astype(float)
        return self.unit * float(np.sum((x - self.examples) ** 2))

    def batches(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors((self.examples, self.examples)).repeat()


def baselines(problem: Problem, k: int, ell: int, seed: int) -> dict[str, float]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.random_projection import GaussianRandomProjection

    X = problem.X
    components = TruncatedSVD(k, algorithm="arpack", random_state=seed).fit(X.T).components_
    model = autoencoder(problem, k, seed)

    def projected(rows: int) -> float:
        gaussian = GaussianRandomProjection(rows, random_state=seed).fit(X.T).components_
        return landscape.optimal_loss(gaussian, X, X, k)

    return {
        "PCA": float(np.sum((X - components.T @ (components @ X)) ** 2)),
        "FJLT + PCA": landscape.optimal_loss(model.butterfly, X, X, k),
        "Gaussian + PCA": projected(ell),
        "Gaussian": projected(k),
    }


def autoencoder(problem: Problem, k: int, seed: int) -> ButterflyAutoencoder:
    keras.utils.set_random_seed(seed)
    model = ButterflyAutoencoder(k, seed=seed)
    model.build(problem.examples.shape)
    return model


def train(problem: Problem, way: str, k: int, seed: int, steps: int, advance) -> dict:
    """One network trained: its losses, its weights, and the curve of losses with the epochs of phase 1."""
    model = autoencoder(problem, k, seed)
    epochs = -(-steps // EPOCH)
    decay = keras.optimizers.schedules.CosineDecay
    shown = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: advance(1))
    fast = {"jit_compile": True, "steps_per_execution": EPOCH}
    fit = {"steps_per_epoch": EPOCH, "verbose": 0, "shuffle": False, "callbacks": [shown]}
    if way == "two-phase":
        start = problem.unit * model.solve(problem.examples)
        # D and E start at an optimum from which Adam's first steps, of equal size for all entries, lead away.
        peak, warm_up = 1e-3 / k**0.5, min(WARM_UP, steps // 4)
        rate = decay(0.0, epochs * EPOCH - warm_up, warmup_target=peak, warmup_steps=warm_up)
        model.compile(keras.optimizers.Adam(rate), "mse", **fast)
        curve, phase_1 = [start, *losses(model.fit(problem.batches(), epochs=epochs, **fit), problem)], 1
    elif way == "two-phase, Adam":
        phase_1 = max(1, epochs // 2)
        both = (phase_1, max(1, epochs - phase_1))
        adam = keras.optimizers.Adam(decay(3e-3, max(both) * EPOCH))
        curve = losses(two_phase_fit(model, problem.batches(), epochs=both, optimizer=adam, **fast, **fit), problem)
    else:
        model.compile(keras.optimizers.Adam(decay(3e-3, epochs * EPOCH)), "mse", **fast)
        curve, phase_1 = losses(model.fit(problem.batches(), epochs=epochs, **fit), problem), 0
    result = {"loss": problem.loss(model), "encoder parameters": model.encoder_parameters}
    result["solved again"] = problem.unit * model.solve(problem.examples)
    return {**result, "curve": curve, "epochs of phase 1": phase_1, "steps per epoch": EPOCH}


def losses(history, problem: Problem) -> list[float]:
    return [value * problem.total for value in history.history["loss"]]


def run(results: Results, name: str, folder, widths, steps: int, seeds: int, console: Console) -> None:
    matrix = matrices.load(name, folder)
    problem = Problem(matrix.X)
    n, d = matrix.X.shape
    rank = len(problem.examples)
    facts = {"n": n, "d": d, "rank": rank, "squared norm": problem.total, "origin": matrix.origin}
    results.once((name, "matrix"), lambda: facts)
    widths = [k for k in widths if k < min(n, d)]
    if not widths:
        raise ValueError(f"Expected a k below {min(n, d)} for {name}. Received none.")
    with Progress() as bars, bars.task(name, seeds * len(widths) * len(TRAININGS) * -(-steps // EPOCH)) as advance:
        for seed in range(seeds):
            for k in widths:
                place = (name, f"{k}", f"{seed}")
                ell = results.once((*place, "ell"), lambda k=k: default_ell(k, n))
                found = results.once((*place, "baselines"), lambda k=k, e=ell, s=seed: baselines(problem, k, e, s))
                optimum = max(found["PCA"], 1e-12 * problem.total)
                shown = []
                for way in TRAININGS:
                    trained = results.once((*place, way), lambda w=way, k=k, s=seed: train(problem, w, k, s, steps, advance))
                    shown.append(f"{way} {trained['loss'] / optimum:.4f}")
                console.print(
                    f"{name} k={k} ell={ell}, of PCA: FJLT + PCA {found['FJLT + PCA'] / optimum:.4f}, " + ", ".join(shown)
                )


def mean(entries: dict, line: str) -> float:
    """The mean over seeds of a line of the plot."""
    return float(
        np.mean([entry[line]["loss"] if line in TRAININGS else entry["baselines"][line] for entry in entries.values()])
    )


def widths_of(results: Results, name: str) -> list[str]:
    """Those that are complete: an interrupted run may have left others."""
    complete = [
        key
        for key, entries in results.tree[name].items()
        if key != "matrix" and all(way in entry for entry in entries.values() for way in TRAININGS)
    ]
    return sorted(complete, key=int)


def table(results: Results, name: str) -> Table:
    facts = results.tree[name]["matrix"]
    title = (
        f"{name}: n = {facts['n']}, d = {facts['d']}, rank {facts['rank']}; {facts['origin']}\nlosses as multiples of Delta_k"
    )
    shown = Table(title=title, title_justify="left")
    for column in ("k", "ell", "Delta_k / ||X||^2", *LINES[1:], "solved again", "excess / ||X||^2", "encoder", "dense"):
        shown.add_column(column, justify="right")
    for k in widths_of(results, name):
        entries = results.tree[name][k]
        optimum, total = mean(entries, "PCA"), facts["squared norm"]
        trained = [entry["two-phase"] for entry in entries.values()]
        again = float(np.mean([each["solved again"] for each in trained]))
        relative = [loss / optimum for loss in (*(mean(entries, line) for line in LINES[1:]), again)]
        cells = [f"{value:.4f}" for value in relative] if optimum > 1e-10 * total else ["-"] * len(relative)
        excess = (min(mean(entries, "two-phase"), again) - optimum) / total
        weights = f"{trained[0]['encoder parameters']:,}", f"{int(k) * facts['n']:,}"
        shown.add_row(k, f"{entries['0']['ell']}", f"{optimum / total:.2e}", *cells, f"{excess:.1e}", *weights)
    return shown


@plots.style()
def plot(results: Results, names, path: Path) -> None:
    """Draw the loss over k as a multiple of the loss of PCA, a panel for every matrix."""
    figure, axes = plots.panels(len(names))
    colors = plots.colors(MARKERS)
    for axis, name in zip(axes, names, strict=True):
        total, widths = results.tree[name]["matrix"]["squared norm"], widths_of(results, name)
        # Where PCA has no loss there is no multiple of it.
        widths = [k for k in widths if mean(results.tree[name][k], "PCA") > 1e-9 * total]
        optima = [mean(results.tree[name][k], "PCA") for k in widths]
        for index, (line, marker) in enumerate(MARKERS.items()):
            values = [mean(results.tree[name][k], line) / optimum for k, optimum in zip(widths, optima, strict=True)]
            # Of several sizes, so that where lines meet all markers are seen.
            style = {"color": colors[line], "marker": marker, "markersize": 9 - index, "fillstyle": "none", "label": line}
            axis.plot([int(k) for k in widths], values, **style)
        axis.axhline(1, color="black", linestyle="--", linewidth=1, label="PCA")
        axis.set(title=name, xlabel="width k of the code", ylabel="loss / loss of PCA")
        plots.log_scale(axis, "y")
        plots.log_scale(axis, "x")
        axis.set_xticks([int(k) for k in widths], widths)
        axis.tick_params(axis="x", which="minor", length=0)
    legend(figure, axes)
    plots.save(figure, path, overwrite=True)


@plots.style()
def plot_phases(results: Results, names, path: Path) -> None:
    """Draw the loss over the steps at the middle k as a multiple of the loss of PCA, a panel for every matrix."""
    figure, axes = plots.panels(len(names))
    colors = plots.colors(MARKERS)
    for axis, name in zip(axes, names, strict=True):
        widths = widths_of(results, name)
        k = widths[len(widths) // 2]
        entry = results.tree[name][k]["0"]
        optimum = entry["baselines"]["PCA"]
        for way in TRAININGS:
            curve, phase_1 = np.array(entry[way]["curve"]) / optimum, entry[way]["epochs of phase 1"]
            first = 0 if way == "two-phase" else 1  # that one begins with the loss before the first step
            axis.plot(EPOCH * np.arange(first, first + len(curve)), curve, color=colors[way], label=way)
            if way == "two-phase, Adam":
                axis.axvline(EPOCH * phase_1, color=colors[way], linestyle=":", label="its phase 2 begins")
        for line, style in {"PCA": "--", "FJLT + PCA": "-."}.items():
            axis.axhline(entry["baselines"][line] / optimum, color="black", linestyle=style, linewidth=1, label=line)
        axis.set(title=f"{name}, k = {k}", xlabel="steps", ylabel="loss / loss of PCA")
        plots.log_scale(axis, "y")
    legend(figure, axes)
    plots.save(figure, path, overwrite=True)


def legend(figure, axes) -> None:
    """Add one legend for all panels below them."""
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="See matrices.py.")
@click.option("--matrix", "names", multiple=True, type=click.Choice(list(matrices.MATRICES)), help="Repeatable. Default: all.")
@click.option("--k", "widths", multiple=True, type=click.IntRange(min=1), help="Repeatable. Default: 1, 2, 4 ... 64.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--quick", is_flag=True, help="What needs no download, k = 1 and 8, 100 steps.")
def main(folder, data, names, widths, steps, seeds, quick):
    console = Console(width=200)
    if quick:
        names, widths, steps = names or ("gaussian1", "digits", "spectra", "band"), widths or (1, 8), 100
    names, widths = names or tuple(matrices.MATRICES), tuple(sorted(set(widths))) or WIDTHS
    try:
        results = Results(folder / "results.json", {"steps": steps, "data": "local" if data else "loaders"})
        for name in names:
            run(results, name, data, widths, steps, seeds, console)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for name in names:
        console.print(table(results, name))
    plot(results, names, folder / "losses.png")
    plot_phases(results, names, folder / "phases.png")


if __name__ == "__main__":
    main()
