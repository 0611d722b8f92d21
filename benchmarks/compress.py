"""Compress a trained network in several ways, recover it by distillation, and compare accuracy, weights, size and latency.

    python benchmarks/compress.py FOLDER [--seeds 3] [--epochs 6] [--variant NAME ...] [--no-export]

Network: 784-1024-1024-10 on Fashion-MNIST. For every seed a dense teacher is trained with Adam at 1e-3, cosine decay and
batches of 128.

Students: both hidden layers of the teacher are replaced. Butterfly layers are fitted to the teacher's outputs on 4,096 training
images, and low-rank layers start from the singular vectors of these outputs. Then each student is distilled for as many epochs.

Exports: every student of the first seed is exported in float32 and int8, and all files are measured in turn. The int8 accuracy
is that of the exported file, for every seed.

Output: a table, and results.json and pareto.png in FOLDER. Finished steps are kept in FOLDER. If the program is interrupted,
start it again to continue.
"""

import json
from pathlib import Path

import click
import keras
import numpy as np
from keras import layers
from keras_butterfly_cli.demonstration import WIDTH, Data, load
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_butterfly import replace_dense
from keras_butterfly.compression.distillation import distill
from keras_butterfly.export import compare, files, to_tflite
from keras_butterfly.export.compression_sweep import accuracy
from keras_butterfly.export.model import predict

HIDDEN = ("hidden_0", "hidden_1")
BATCH, RATE = 128, 1e-3
FITTED_ON = 4096


def teacher(data: Data, seed: int, epochs: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(WIDTH, activation="relu", name=name) for name in HIDDEN]
    model = keras.Sequential([keras.Input((data.x_train.shape[1],)), *hidden, layers.Dense(10, "softmax", name="class")])
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(data.x_train) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", jit_compile=True)
    model.fit(data.x_train, data.y_train, BATCH, epochs, verbose=0)
    return model


def replaced(**settings):
    """Return a function (model, examples, seed) -> student, which replaces the hidden layers by those of `settings`."""

    def make(model, examples, seed):
        return replace_dense(model, where=HIDDEN, data=examples, seed=10 * seed, **settings)[0]

    return make


# The ranks of the low-rank pairs are those at which a pair has about as many weights as 1, 2 and 4 butterflies of radix 2.
VARIANTS = {
    "butterfly": replaced(),
    "butterfly, radices 8, 8, 16": replaced(radix=(8, 8, 16)),
    "butterfly, radices 32, 32": replaced(radix=(32, 32)),
    "butterfly, radix 2": replaced(radix=2),
    "butterfly, radix 2, 2 stacks": replaced(radix=2, stacks=2),
    "butterfly, radix 2, 4 stacks": replaced(radix=2, stacks=4),
    "ButterflyDense, k = 10": replaced(k=10),
    "ButterflyDense, k = 64": replaced(k=64),
    "ButterflyDense, k = 128": replaced(k=128),
    "low rank 10": replaced(kind="low_rank", rank=10),
    "low rank 20": replaced(kind="low_rank", rank=20),
    "low rank 40": replaced(kind="low_rank", rank=40),
}


class Work:
    """A folder with the models, files and figures of this benchmark. Finished steps are read from it instead of repeated."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "results.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {}

    def file(self, name: str, seed: int, suffix: str) -> Path:
        return self.folder / f"{name.replace(', ', '-').replace(' ', '')}-{seed}{suffix}"

    def model(self, name: str, seed: int, make=None) -> keras.Model:
        path = self.file(name, seed, ".keras")
        if not path.exists():
            files.write(path, make().save)
        return keras.models.load_model(path)

    def exported(self, name: str, seed: int, precision: str, data: Data) -> Path:
        path = self.file(name, seed, f".{precision}.tflite")
        if not path.exists():
            settings = {"quantize": "int8", "representative_data": data.x_train[:500]} if precision == "int8" else {}
            to_tflite(self.model(name, seed), **settings).save(path)
        return path

    def once(self, name: str, seed: int, key: str, compute):
        """Return the figure `key` of a network. If it is missing, compute and write it."""
        entry = self.results.setdefault(name, {}).setdefault(str(seed), {})
        if key not in entry:
            entry[key] = compute()
            files.write(self.path, json.dumps(self.results, indent=2).encode(), overwrite=True)
        return entry[key]

    def mean(self, name: str, key: str) -> float:
        return float(np.mean([entry[key] for entry in self.results[name].values() if key in entry]))


def train(work: Work, data: Data, names, seed: int, epochs: int, note) -> None:
    original = work.model("dense", seed, lambda: teacher(data, seed, epochs))
    score = work.once("dense", seed, "float32", lambda: accuracy(data.y_test, original.predict(data.x_test, verbose=0)))
    work.once("dense", seed, "weights", original.count_params)
    note(f"seed {seed}: teacher {score:.4f}")
    examples = data.x_train[np.random.default_rng(seed).choice(len(data.x_train), FITTED_ON, replace=False)]

    def student(name):
        keras.utils.set_random_seed(seed)
        model = VARIANTS[name](original, examples, seed)
        start = accuracy(data.y_test, model.predict(data.x_test, verbose=0))
        work.once(name, seed, "before training", lambda: start)
        settings = {"epochs": epochs, "batch_size": BATCH, "learning_rate": RATE, "jit_compile": True}
        distill(model, original, data.x_train, data.y_train, **settings)
        return model

    for name in names:
        model = work.model(name, seed, lambda name=name: student(name))
        score = work.once(
            name, seed, "float32", lambda model=model: accuracy(data.y_test, model.predict(data.x_test, verbose=0))
        )
        work.once(name, seed, "weights", model.count_params)
        note(f"seed {seed}: {name} {score:.4f}")


def export(work: Work, data: Data, names, seeds: int, console: Console):
    """Export the networks, record the int8 accuracy of each seed, and return the comparison of the first seed's files."""
    jobs = [(name, seed) for seed in range(seeds) for name in names]
    for name, seed in track(jobs, "export to int8", console=console, disable=not console.is_terminal):

        def score(name=name, seed=seed):
            content = work.exported(name, seed, "int8", data).read_bytes()
            return accuracy(data.y_test, predict(content, data.x_test))

        work.once(name, seed, "int8", score)
    models = {
        f"{name} {precision}": work.exported(name, 0, precision, data) for precision in ("float32", "int8") for name in names
    }
    return compare(models, runs=200)


def table(work: Work, names, comparison, epochs: int) -> Table:
    facts = comparison.latencies[comparison.baseline]
    title = f"Fashion-MNIST, 784-1024-1024-10, {epochs} epochs of distillation\n{facts.runtime}, {facts.machine}"
    result = Table(title=title, title_justify="left")
    result.add_column("hidden layers")
    for column in ("weights", "part", "untrained", "float32", "loss", "int8", "KiB", "us", "int8 KiB", "us"):
        result.add_column(column, justify="right")
    base = work.mean("dense", "float32")
    for name in names:
        weights = work.mean(name, "weights")
        start = work.mean(name, "before training") if name != "dense" else base
        cells = [f"{weights:,.0f}", f"1/{work.mean('dense', 'weights') / weights:.1f}", f"{start:.4f}"]
        cells += [f"{work.mean(name, 'float32'):.4f}", f"{100 * (base - work.mean(name, 'float32')):.2f}"]
        cells += [f"{work.mean(name, 'int8'):.4f}"]
        for precision in ("float32", "int8"):
            key = f"{name} {precision}"
            cells += [f"{comparison.sizes[key] / 1024:,.0f}", f"{comparison.latencies[key].median * 1e6:,.1f}"]
        result.add_row(name, *cells)
    return result


def plot(work: Work, names, comparison, path: Path) -> None:
    """Plot the accuracy over the file size and over the latency. A line joins the networks that no other beats in both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    figures = {"file size, KiB": lambda key: comparison.sizes[key] / 1024}
    figures["median latency, us"] = lambda key: comparison.latencies[key].median * 1e6
    for axis, (label, cost) in zip(axes, figures.items(), strict=True):
        points = []
        for precision, marker in (("float32", "o"), ("int8", "s")):
            for index, name in enumerate(names):
                x, y = cost(f"{name} {precision}"), 100 * work.mean(name, precision)
                legend = name if precision == "float32" else None
                axis.scatter(x, y, marker=marker, color=f"C{index % 10}" if index < 10 else "black", label=legend)
                points.append((x, y))
        front = [point for point in sorted(points) if all(y < point[1] for x, y in points if x < point[0])]
        axis.plot(*zip(*front, strict=True), color="gray", linewidth=1, zorder=0)
        axis.set(xscale="log", xlabel=label)
    axes[0].set(ylabel="test accuracy, % (circles float32, squares int8)")
    axes[1].legend(fontsize=8)
    files.write(path, lambda temporary: figure.savefig(temporary, dpi=150), overwrite=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=6, show_default=True, type=click.IntRange(min=1))
@click.option("--variant", "chosen", multiple=True, type=click.Choice(list(VARIANTS)), help="Repeatable. Default: all.")
@click.option("--export/--no-export", "exports", default=True, help="Export and measure.")
def main(folder, seeds, epochs, chosen, exports):
    console, work, data = Console(width=160), Work(folder), load("fashion_mnist")
    names = list(chosen or VARIANTS)
    for seed in range(seeds):
        train(work, data, names, seed, epochs, console.print)
    if not exports:
        return
    names = ["dense", *names]
    comparison = export(work, data, names, seeds, console)
    console.print(table(work, names, comparison, epochs))
    files.write(folder / "comparison.json", json.dumps(comparison.to_dict()).encode(), overwrite=True)
    plot(work, names, comparison, folder / "pareto.png")


if __name__ == "__main__":
    main()
