"""Compare kinds of hidden layers on several data sets, trained from scratch and distilled from a dense network.

    python benchmarks/evidence.py FOLDER [--dataset NAME ...] [--data DATA] [--origin NAME ...] [--kind NAME ...] [--seeds 3]
        [--together] [--export]

Network: the features, two hidden layers of 1024 units with ReLU (2048 on CIFAR-10), a dense head. `KINDS` has the hidden layers
of every kind. The rivals of a butterfly are dense layers made narrower until the network has as many weights, or takes as much
time on this machine, as the butterfly of radix 4; pairs of thin matrices; and dense layers whose smallest weights are pruned.

"scratch": all kinds are trained from random weights, with and without dropout behind each hidden layer.
"distilled": a dense network from "scratch" is the teacher. Both hidden layers are replaced, and the student is distilled.
Butterflies and narrower dense networks start from random weights, a pruned network from the teacher's. Pairs of thin matrices
start from the leading singular vectors of the teacher's outputs.
"fitted": as "distilled", but butterflies too are first fitted to the teacher's outputs.

Search: Adam with cosine decay. Every kind has its own best learning rate of one grid, found with seed 0 from 1e-3 on, and then
its own best dropout of another grid. All seeds are trained with these, and with rates that are at most 0.2 points worse. The
best is the one with the highest test accuracy, so all figures are a little too high, for all kinds alike.

`--together` is for a GPU, with KERAS_BACKEND=jax: all rates and seeds of a kind are trained at once, and then all dropouts at
the best rate, see `ensemble.py`. Only the networks that `--export` and the distillation need are kept.

`--export` measures the exports of the networks of seed 0 in turn, in float32, "dynamic" and "int8". Run it when nothing else
runs. It also sets the width of the dense network of equal latency, so run it first.

Output: every run is kept in FOLDER/DATASET.json, and the networks in FOLDER/DATASET. If the program is interrupted, start it
again to continue. `python benchmarks/evidence_page.py` makes the tables and plots of docs/evidence.md from the JSON files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from pathlib import Path

import click
import keras
import numpy as np
import supervised
from accuracy import CALIBRATION, PRECISIONS
from data_sets import load
from keras_butterfly_cli.datasets import Data
from pruning import MagnitudePruning, PrunedDense
from results import Results
from rich.console import Console
from search import climb

from keras_butterfly import distill, export, replace_dense
from keras_butterfly.export import files

HIDDEN = ("hidden_0", "hidden_1")
RATES = (6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
DROPOUTS = (0.0, 0.1, 0.2, 0.5)
# Learning rates whose accuracy with seed 0 is at most this much lower than the best are trained with all seeds.
NEAR = 0.002
FITTED_ON = 4096  # examples
# Of the distillation. 1, the default of `distill`, was found to be the better one later.
TEMPERATURE = 2.0
# Up to this width the effective ranks are worth the time that they take.
RANKED_WIDTH = 1024


@dataclass(frozen=True)
class Task:
    """A task is a data set, with the width of the hidden layers and the length of the training."""

    name: str
    width: int
    epochs: int
    batch: int


TASKS = {
    task.name: task
    for task in (
        Task("fashion_mnist", 1024, 6, 128),
        Task("hapt", 1024, 30, 64),
        Task("isolet", 1024, 40, 32),
        Task("cifar10", 2048, 10, 128),
    )
}


def three_stages(inputs: int, units: int) -> dict:
    """Return the radices of three stages: 8, 8, 16 for 1024 nodes."""
    return {"radix": {1024: (8, 8, 16), 2048: (8, 16, 16), 3072: (12, 16, 16)}[max(inputs, units)]}


# name -> a function (inputs, units) -> arguments of `replace_dense`, for the kinds that replace a dense layer.
REPLACED: dict[str, Callable[[int, int], dict]] = {
    "radix 4": lambda inputs, units: {"radix": 4},
    "radix 2": lambda inputs, units: {"radix": 2},
    "three stages": three_stages,
    "two stages": lambda inputs, units: {"radix": "auto"},
    "radix 4 + rank 10": lambda inputs, units: {"radix": 4, "rank": 10},
    "J2^T W' J1, k = 64": lambda inputs, units: {"k": 64},
    "low rank 10": lambda inputs, units: {"kind": "low_rank", "rank": 10},
    "low rank 20": lambda inputs, units: {"kind": "low_rank", "rank": 20},
    "low rank 40": lambda inputs, units: {"kind": "low_rank", "rank": 40},
}
DENSE, EQUAL_WEIGHTS, EQUAL_LATENCY, PRUNED = "dense", "dense, equal weights", "dense, equal latency", "dense, pruned"
# Kinds that end so are butterflies in hidden layers of a quarter of the width.
QUARTER = ", a quarter of the width"
QUARTERS = tuple(f"{kind}{QUARTER}" for kind in ("radix 4", "two stages"))
KINDS = (DENSE, EQUAL_WEIGHTS, EQUAL_LATENCY, PRUNED, *REPLACED, *QUARTERS)
REFERENCE = "radix 4"
ORIGINS = ("scratch", "distilled", "fitted")
SEEDED_NODES = ("J2^T W' J1, k = 64",)
# Kinds whose training needs a callback.
ALONE = (PRUNED,)


def dense_network(features: int, classes: int, width: int, dropout=0.0, layer=keras.layers.Dense) -> keras.Model:
    """Return an untrained network with two hidden dense layers. `dropout` is a rate, or a class of layers."""
    hidden = [[layer(width, activation="relu", name=name), *behind(dropout)] for name in HIDDEN]
    head = keras.layers.Dense(classes, activation="softmax", name="class")
    return keras.Sequential([keras.Input((features,)), *hidden[0], *hidden[1], head])


def behind(dropout) -> list[keras.layers.Layer]:
    """Return the layers that come behind a hidden one. `dropout` is a rate, or a class of layers."""
    if isinstance(dropout, type):
        return [dropout()]
    return [keras.layers.Dropout(dropout)] if dropout else []


def replaced(model: keras.Model, kind: str, seed: int, initialize: str, examples=None) -> keras.Model:
    """Return a copy of `model` with hidden layers of the given kind."""
    settings = [REPLACED[kind.removesuffix(QUARTER)](*model.get_layer(name).kernel.shape) for name in HIDDEN]
    # In one call where possible, because layers of one call are fitted to the outputs of the same original.
    groups = (
        [(HIDDEN, settings[0])] if settings[0] == settings[1] else [([n], s) for n, s in zip(HIDDEN, settings, strict=True)]
    )
    for index, (names, arguments) in enumerate(groups):
        how = {"initialize": initialize, "data": examples, "seed": 10 * seed + 4 * index, "progress": False}
        model, _ = replace_dense(model, where=list(names), **how, **arguments)
    return model


def weights_of(model: keras.Model) -> int:
    """Return the number of weights, of pruned layers those that are left."""
    masks = [layer.mask for layer in model.layers if isinstance(layer, PrunedDense)]
    zeros = sum(int(np.sum(1 - keras.ops.convert_to_numpy(mask))) for mask in masks)
    return model.count_params() - sum(prod(mask.shape) for mask in masks) - zeros


def names_of(origin: str, kind: str, dropout: float, rate: float, seed: int) -> tuple[str, ...]:
    """Return the names under which the results of a run, and its trained network, are kept."""
    return origin, kind, f"dropout {dropout:g}", f"rate {rate:g}", f"seed {seed}"


def effective_ranks(model: keras.Model) -> list[float]:
    """Return the effective rank exp(-sum p log p) of each hidden kernel, with p = s^2 / sum s^2 of its singular values s."""
    kernels = [keras.ops.convert_to_numpy(model.get_layer(name).kernel) for name in HIDDEN]
    if not all(np.isfinite(kernel).all() for kernel in kernels):
        return [float("nan")] * len(kernels)
    energies = [np.square(np.linalg.svd(kernel, compute_uv=False)) for kernel in kernels]
    parts = [energy[energy > 0] / energy.sum() for energy in energies]
    return [float(np.exp(-np.sum(part * np.log(part)))) for part in parts]


def assigned(model: keras.Model, values: list[np.ndarray]) -> keras.Model:
    """Return `model` with other values of its trainable variables."""
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    return model


class Work:
    """The runs of one data set: what is trained, exported and measured, and a JSON file of the results."""

    def __init__(self, folder: Path, task: Task, data: Data, say: Callable[[str], None]):
        self.folder, self.task, self.data, self.say = folder / task.name, task, data, say
        settings = {"width": task.width, "epochs": task.epochs, "batch": task.batch, "examples": len(data.x_train)}
        self.results = Results(folder / f"{task.name}.json", {"dataset": task.name, **settings})
        self.features, self.classes = data.x_train.shape[1], data.classes
        self.steps = task.epochs * ceil(len(data.x_train) / task.batch)

    def untrained(self, kind: str, seed: int = 0, dropout=0.0) -> keras.Model:
        """Return a network of the given kind with random weights."""
        keras.utils.set_random_seed(seed)
        layer = PrunedDense if kind == PRUNED else keras.layers.Dense
        model = dense_network(self.features, self.classes, self.width(kind), dropout, layer)
        return replaced(model, kind, seed, "fresh") if kind.removesuffix(QUARTER) in REPLACED else model

    def width(self, kind: str) -> int:
        """Return the width of the hidden layers."""
        if kind == EQUAL_WEIGHTS:
            return self.results.once(("widths", kind), self.width_of_equal_weights)
        if kind == EQUAL_LATENCY:
            return self.results.once(("widths", kind), self.width_of_equal_latency)
        if kind in QUARTERS:
            return self.results.once(("widths", kind), lambda: self.task.width // 4)
        return self.task.width

    def width_of_equal_weights(self) -> int:
        """Return the width at which the number of weights of a dense network is nearest to that of the butterfly of radix 4."""
        target, features, classes = self.untrained(REFERENCE).count_params(), self.features, self.classes
        counts = {width: width * (features + width + classes + 2) + classes for width in range(1, self.task.width)}
        return min(counts, key=lambda width: abs(counts[width] - target))

    def width_of_equal_latency(self) -> int:
        """Return the largest multiple of eight at which a dense network, in float32, is as fast as the butterfly of radix 4."""
        butterfly, slow, fast = export.to_tflite(self.untrained(REFERENCE)), self.task.width, 8
        while slow - fast > 8:
            width = (slow + fast) // 16 * 8
            dense = export.to_tflite(dense_network(self.features, self.classes, width))
            latencies = export.compare({"butterfly": butterfly, "dense": dense}, runs=300).latencies
            fast, slow = (width, slow) if latencies["dense"].median <= latencies["butterfly"].median else (fast, width)
        return fast

    def run(self, origin: str, kind: str, dropout: float, rate: float, seed: int) -> dict:
        """Train a network unless it has been done, and return its test accuracy, from 0 to 1, and its number of weights."""
        names = names_of(origin, kind, dropout, rate, seed)
        return self.results.once(names, partial(self.trained, origin, kind, dropout, rate, seed))

    def trained(self, origin: str, kind: str, dropout: float, rate: float, seed: int) -> dict:
        """Train and save a network, and return its test accuracy, from 0 to 1, and its number of weights."""
        names = names_of(origin, kind, dropout, rate, seed)
        teacher = None if origin == "scratch" else self.teacher(seed)
        started = self.untrained(kind, seed, dropout) if teacher is None else self.student(teacher, origin, kind, seed)
        before = self.figures(started)
        model = self.train(started, rate) if teacher is None else self.distill(started, teacher, rate)
        files.write(self.path(*names), model.save, overwrite=True)
        after = self.figures(model)
        self.say(f"{self.task.name}, {', '.join(names)}: {after['accuracy']:.4f}")
        return {"before": before, **after, "weights": weights_of(model)}

    def figures(self, model: keras.Model) -> dict:
        """Return the test accuracy of a network, from 0 to 1, and the effective ranks of its hidden layers if it is narrow."""
        ranks = {"effective ranks": effective_ranks(model)} if self.task.width <= RANKED_WIDTH else {}
        return {"accuracy": self.accuracy(model), **ranks}

    def network(self, origin: str, kind: str, seed: int) -> keras.Model:
        """Return the network of one seed at the best rate, without dropout. If its file is missing, it is trained again."""
        rate = self.best_rate(origin, kind)
        path = self.path(*names_of(origin, kind, 0.0, rate, seed))
        self.run(origin, kind, 0.0, rate, seed)
        if not path.exists():
            self.trained(origin, kind, 0.0, rate, seed)
        return keras.models.load_model(path, custom_objects={"PrunedDense": PrunedDense})

    def train_together(self, origin: str, kind: str, seeds: int) -> None:
        """Train a kind with all rates and seeds at once, and from scratch with all dropouts at the best rate."""
        # The nodes that a truncated butterfly keeps are drawn for each seed, so each seed is a network of its own.
        groups = [[seed] for seed in range(seeds)] if kind in SEEDED_NODES else [list(range(seeds))]
        teachers = {} if origin == "scratch" else {seed: self.teacher(seed) for seed in range(seeds)}
        for group in groups:
            self.train_group(origin, kind, [(0.0, rate, seed) for rate in RATES for seed in group], teachers)
        if origin == "scratch":
            rate = self.best_rate(origin, kind)
            for group in groups:
                self.train_group(origin, kind, [(dropout, rate, seed) for dropout in DROPOUTS for seed in group], teachers)

    def train_group(
        self, origin: str, kind: str, runs: list[tuple[float, float, int]], teachers: dict[int, keras.Model]
    ) -> None:
        """Train a network with several (dropout, rate, seed) at once, and keep the results of those that have not been done."""
        import ensemble  # it needs JAX

        runs = [run for run in runs if not self.results.has(names_of(origin, kind, *run))]
        if not runs:
            return
        seeds = sorted({seed for _, _, seed in runs})
        if teachers:
            starts = {seed: self.student(teachers[seed], origin, kind, seed) for seed in seeds}
            targets = {seed: teachers[seed].predict(self.data.x_train, 1000, verbose=0) for seed in seeds}
        else:
            starts, targets = {seed: self.untrained(kind, seed, ensemble.VariableDropout) for seed in seeds}, {}
        values = {seed: [keras.ops.convert_to_numpy(v) for v in model.trainable_variables] for seed, model in starts.items()}
        network = starts[seeds[0]]
        members = [ensemble.Member(values[seed], rate, seed, dropout, targets.get(seed)) for dropout, rate, seed in runs]
        trained = ensemble.train(network, members, self.data.x_train, self.data.y_train, self.task.epochs, self.task.batch)
        before = dict(
            zip(seeds, self.accuracies(ensemble.outputs(network, list(values.values()), self.data.x_test)), strict=True)
        )
        after = self.accuracies(ensemble.outputs(network, trained, self.data.x_test))
        for run, weights, accuracy in zip(runs, trained, after, strict=True):
            found = {"before": {"accuracy": before[run[2]]}, "accuracy": accuracy, "weights": sum(map(np.size, weights))}
            if teachers and run[2] == 0 and self.task.width <= RANKED_WIDTH:
                found["before"]["effective ranks"] = effective_ranks(assigned(network, values[0]))
                found["effective ranks"] = effective_ranks(assigned(network, weights))
            self.results.once(names_of(origin, kind, *run), partial(dict, found))
        self.say(f"{self.task.name}, {origin}, {kind}: best of {len(runs)} runs {max(after):.4f}")
        for run, weights in zip(runs, trained, strict=True):
            if self.is_needed(origin, kind, *run):
                model = self.untrained(kind, run[2]) if origin == "scratch" else starts[run[2]]
                files.write(self.path(*names_of(origin, kind, *run)), assigned(model, weights).save, overwrite=True)

    def is_needed(self, origin: str, kind: str, dropout: float, rate: float, seed: int) -> bool:
        """Return whether a network is exported, or is a teacher."""
        return not dropout and rate == self.best_rate(origin, kind) and (seed == 0 or kind == DENSE)

    def accuracies(self, outputs: np.ndarray) -> list[float]:
        """Return the part of the test examples that each network classifies correctly, from all outputs."""
        return np.mean(outputs.argmax(-1) == self.data.y_test, axis=1).tolist()

    def accuracy(self, model: keras.Model) -> float:
        """Return the part of the test examples that a network classifies correctly."""
        return float(np.mean(model.predict(self.data.x_test, 1000, verbose=0).argmax(-1) == self.data.y_test))

    def path(self, *names: str) -> Path:
        """Return the path of a trained network, whose folder exists."""
        self.folder.mkdir(exist_ok=True)
        return self.folder / ("-".join(names).translate(str.maketrans(" ,'", "__x")) + ".keras")

    def train(self, model: keras.Model, rate: float) -> keras.Model:
        """Train a network on the labels, and return it."""
        supervised.fit(model, self.data, rate, self.task.epochs, self.task.batch, callbacks=self.callbacks(model))
        return model

    def distill(self, student: keras.Model, teacher: keras.Model, rate: float) -> keras.Model:
        """Distill a network from the teacher, and return it."""
        settings = {"epochs": self.task.epochs, "batch_size": self.task.batch, "learning_rate": rate, "progress": False}
        settings |= {"temperature": TEMPERATURE, "callbacks": self.callbacks(student)}
        distill(student, teacher, self.data.x_train, self.data.y_train, **settings)
        return student

    def student(self, teacher: keras.Model, origin: str, kind: str, seed: int) -> keras.Model:
        """Return the network of the given kind that is to be distilled from `teacher`."""
        keras.utils.set_random_seed(seed)
        if kind in REPLACED:
            initialize = "fit" if origin == "fitted" else "auto"
            return replaced(teacher, kind, seed, initialize, self.data.x_train[:FITTED_ON])
        student = self.untrained(kind, seed)
        if kind == PRUNED:
            for new, old in zip(student.layers, teacher.layers, strict=True):
                for variable, value in zip(new.trainable_variables, old.trainable_variables, strict=True):
                    # As an array, because on JAX the two would otherwise share their memory.
                    variable.assign(keras.ops.convert_to_numpy(value))
        return student

    def callbacks(self, model: keras.Model) -> list[keras.callbacks.Callback]:
        """Return the pruning of a network with pruned layers."""
        layers = [layer for layer in model.layers if isinstance(layer, PrunedDense)]
        dense = sum(prod(layer.kernel.shape) for layer in layers)
        others = model.count_params() - 2 * dense
        return [MagnitudePruning(layers, self.untrained(REFERENCE).count_params() - others, self.steps)] if layers else []

    def teacher(self, seed: int) -> keras.Model:
        """Return the dense network of one seed, at its best rate and without dropout."""
        return self.network("scratch", DENSE, seed)

    def best_rate(self, origin: str, kind: str) -> float:
        """Return the learning rate that is best with seed 0."""
        return climb(RATES, 1e-3, lambda rate: self.run(origin, kind, 0.0, rate, 0)["accuracy"])

    def best_dropout(self, origin: str, kind: str, rate: float) -> float:
        """Return the dropout that is best with seed 0."""
        return max(DROPOUTS, key=lambda dropout: self.run(origin, kind, dropout, rate, 0)["accuracy"])

    def good_rates(self, origin: str, kind: str) -> list[float]:
        """Return the tried learning rates that are about as good as the best with seed 0."""
        best = self.run(origin, kind, 0.0, self.best_rate(origin, kind), 0)["accuracy"]
        tried = self.results.tree[origin][kind]["dropout 0"]
        return [
            rate
            for rate in RATES
            if f"rate {rate:g}" in tried and self.run(origin, kind, 0.0, rate, 0)["accuracy"] > best - NEAR
        ]

    def all_seeds(self, origin: str, kind: str, seeds: int) -> None:
        """Find the good settings of a kind with seed 0, and train the other seeds with them."""
        settings = [(0.0, rate) for rate in self.good_rates(origin, kind)]
        if origin == "scratch":
            rate = self.best_rate(origin, kind)
            settings.append((self.best_dropout(origin, kind, rate), rate))
        for seed in range(seeds):
            for dropout, rate in settings:
                self.run(origin, kind, dropout, rate, seed)

    def export(self, origin: str, kinds: list[str]) -> None:
        """Export the network of seed 0 of each kind, and the teacher, and measure all files of one precision in turn.

        A network whose file would disagree with Keras beyond the tolerance has no figures in that precision.
        """
        kinds = list(dict.fromkeys((DENSE, *kinds)))
        for precision, quantize in PRECISIONS.items():
            if all(self.results.has(("exports", origin, precision, kind)) for kind in kinds):
                continue
            exported = {}
            for kind in kinds:
                model = self.network("scratch" if kind == DENSE else origin, kind, 0)
                try:
                    examples = self.data.x_train[:CALIBRATION]
                    exported[kind] = export.to_tflite(model, quantize=quantize, representative_data=examples)
                except export.ParityError as error:
                    self.say(f"{self.task.name}, {kind}, {precision}: {error}")
            latencies = export.compare(exported, runs=300).latencies
            for kind, file in exported.items():
                accuracy = float(np.mean(file.predict(self.data.x_test).argmax(-1) == self.data.y_test))
                figures = {"bytes": file.size_bytes, "seconds": latencies[kind].median, "accuracy": accuracy}
                self.results.once(("exports", origin, precision, kind), partial(dict, figures))


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dataset", "datasets", multiple=True, type=click.Choice(list(TASKS)), help="Repeatable. Default: all.")
@click.option(
    "--data",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the files of data sets. Default: download.",
)
@click.option("--origin", "origins", multiple=True, default=ORIGINS, show_default=True, type=click.Choice(ORIGINS))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--together", is_flag=True, help="Train all settings of a kind at once. Needs KERAS_BACKEND=jax.")
@click.option("--export", "exports", is_flag=True, help="Also export the networks and measure the files.")
def main(folder, datasets, source, origins, kinds, seeds, together, exports):
    console = Console(width=150)
    for name in datasets or TASKS:
        work = Work(folder, TASKS[name], load(name, source), partial(console.print, highlight=False))
        for origin in origins:
            fitted = [kind for kind in REPLACED if not kind.startswith("low rank")]
            possible = {"scratch": KINDS, "distilled": KINDS[1:], "fitted": fitted}[origin]
            chosen = [kind for kind in kinds or KINDS if kind in possible]
            for kind in chosen:
                if together and kind not in ALONE:
                    work.train_together(origin, kind, seeds)
                else:
                    work.all_seeds(origin, kind, seeds)
            if exports:
                work.export(origin, chosen)


if __name__ == "__main__":
    main()
