"""Which structure `export.compress` picks for each limit of size and of latency, and what the other structures reach there.

    python benchmarks/fronts.py FOLDER [--task NAME ...] [--seeds 3] [--precision float32|any] [--data DATA]
        [--json docs/compress] [--quick]

Networks: `networks.py`. "fashion_mnist", "hapt", "isolet" and "cifar10" have two dense hidden layers of 1024 units with ReLU
(2048 on CIFAR-10) and a dense head. "hapt_transformer" reads the windows of HAPT as 16 tokens, in two blocks of 128 channels.
"cifar10_vgg" has six convolutions and two dense layers of 1024 units, and reads a part of the images of CIFAR-10. The network
is trained on the labels of a data set, or read from FOLDER/NAME-SEED.keras if it is there. The limits are 1/40, 1/20 and 1/10
of its size, and the same of its latency, in float32. Each seed has a network and a search of its own.

Precision: with "float32" all models are exported in float32. With "any" the search chooses among float32, "dynamic" and int8,
and the rivals may have any of these too. The limits are still parts of what the network costs in float32. As files in int8 are
four times smaller, there are tighter limits of the size too, 1/160 and 1/80. With the extra "int4", `pip install -e '.[int4]'`,
there is one more rival: the dense network, and all narrower ones that the search trains, with weights in int4.

Examples: the search trains on the training examples and scores on a random half of the test examples. Its models are then
scored on the other half, which it has not seen. The rivals of butterflies are the other families of the search: narrower
networks and low-rank layers. Each model is trained with several learning rates, and the one with the best score is kept.

Output: NAME-PRECISION.json in the folder of `--json`, with all trained models for each limit. If the program is interrupted,
start it again to continue. Costs, trials of layers and trained models are kept in FOLDER/NAME-SEED and shared by all limits and
precisions.
`python benchmarks/fronts_page.py` makes docs/fronts.md of them. With `--quick` all networks are small, and are trained for
moments on few examples. This shows that the program works, not what `compress` finds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import int4
import keras
import networks
import numpy as np
import supervised
from data_sets import load
from keras_butterfly_cli.datasets import Data
from results import Results

from keras_butterfly import export
from keras_butterfly.export.compression.compression import Compression, Point

TARGETS = {"size": "target_size", "latency": "target_latency"}
COSTS = {"size": "size_bytes", "latency": "median_seconds"}
# The families of dense networks.
DENSE = ("original", "narrower")
# For each `--precision` the parts of the dense network's costs that are limits.
PARTS = {
    "float32": {"size": (40, 20, 10), "latency": (40, 20, 10)},
    "any": {"size": (160, 80, 40, 20, 10), "latency": (40, 20, 10)},
}


@dataclass(frozen=True)
class Effort:
    """How long the search takes.

    Attributes:
        rates: the learning rates of the models that are compressed.
        runs: the number of timed blocks of each model.
        examples: the largest number of training examples, and of test examples.
        seconds: the time limit of a search.
        limits: how many limits of each cost are tried.
    """

    rates: tuple[float, ...] = (1e-3, 3e-3)
    runs: int = 200
    examples: int | None = None
    seconds: float | None = None
    limits: int | None = None


FULL, QUICK = Effort(), Effort((3e-3,), 5, 200, 5.0, limits=1)


@dataclass(frozen=True)
class Task:
    """A task is a data set, a network for it, and how the network is trained.

    Attributes:
        name: the name of the task.
        width, epochs, batch, rate: the width, the length of the training and the learning rate of the dense network.
        build: a function of the data and a width that returns an untrained network.
        data: the name of the data set, if it is not that of the task.
        arranged: a function of the inputs in rows that returns them as the network takes them.
        examples: the largest number of training examples.
        small: the width with `--quick`.
    """

    name: str
    width: int
    epochs: int
    batch: int
    rate: float
    build: Callable[[Data, int], keras.Model] = networks.perceptron
    data: str = ""
    arranged: Callable[[np.ndarray], np.ndarray] | None = None
    examples: int | None = None
    small: int = 64

    @property
    def quick(self) -> "Task":
        """The same task with a small network and one epoch."""
        return replace(self, width=self.small, epochs=1)


TASKS = {
    task.name: task
    for task in (
        Task("fashion_mnist", 1024, 6, 128, 1e-3),
        Task("hapt", 1024, 30, 64, 2.5e-4),
        Task("isolet", 1024, 40, 32, 2.5e-4),
        Task("cifar10", 2048, 10, 128, 2.5e-4),
        Task(
            "hapt_transformer",
            width=128,
            epochs=6,
            batch=64,
            rate=5e-4,
            build=networks.transformer,
            data="hapt",
            arranged=networks.tokens,
            examples=4000,
            small=16,
        ),
        Task(
            "cifar10_vgg",
            width=1024,
            epochs=6,
            batch=64,
            rate=1e-3,
            build=networks.vgg,
            data="cifar10",
            arranged=networks.pixels,
            examples=6000,
            small=256,
        ),
    )
}


def examples_of(task: Task, data_folder: Path | None, most: int | None = None) -> Data:
    """Return the training and test examples of a task: random ones, if there are more than the task or `most` allows."""
    data, random = load(task.data or task.name, data_folder), np.random.default_rng(0)
    arranged = task.arranged or (lambda x: x)

    def part(x: np.ndarray, y: np.ndarray, limits: tuple) -> tuple[np.ndarray, np.ndarray]:
        count = min([len(x), *(limit for limit in limits if limit is not None)])
        chosen = slice(None) if count == len(x) else np.sort(random.permutation(len(x))[:count])
        return arranged(x[chosen]), y[chosen]

    return Data(*part(data.x_train, data.y_train, (task.examples, most)), *part(data.x_test, data.y_test, (most,)))


@dataclass(frozen=True)
class Original:
    """The dense network of one seed of a task, with all that a search for smaller ones needs.

    Attributes:
        model: the network.
        task, data, seed, effort: the task, its examples, the seed, and how long the search takes.
        precision: a key of `PARTS`.
        folder: what the searches found is kept there.
        results: the results of the task.
    """

    model: keras.Model
    task: Task
    data: Data
    seed: int
    effort: Effort
    precision: str
    folder: Path
    results: Results

    @property
    def limits(self) -> list[tuple[str, int]]:
        """The limits to search for: "size" or "latency", each with the number by which that of the dense network is divided."""
        parts = PARTS[self.precision]
        return [(cost, part) for cost in TARGETS for part in parts[cost][-self.effort.limits if self.effort.limits else None :]]

    def once(self, names: tuple[str, ...], compute: Callable):
        """Return a result of this seed. It is computed, and kept, if it is not known."""
        return self.results.once((f"seed {self.seed}", *names), compute)


def trained(path: Path, task: Task, data: Data, seed: int) -> keras.Model:
    """Return the dense network in the file `path`, or a newly trained one, which is saved there."""
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    model = task.build(data, task.width)
    supervised.fit(model, data, task.rate, task.epochs, task.batch)
    model.save(path)
    return model


def halves(data: Data) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return two random halves of the test examples."""
    order = np.random.default_rng(0).permutation(len(data.x_test))
    first, second = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    return (data.x_test[first], data.y_test[first]), (data.x_test[second], data.y_test[second])


def accuracy(exported: export.TFLiteModel, examples: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the accuracy of an exported model on inputs and labels."""
    x, y = examples
    return float(np.mean(exported.predict(x).argmax(-1) == y))


def facts(point: Point, unseen: tuple[np.ndarray, np.ndarray]) -> dict:
    """Return the figures of a model, with its accuracy on examples that the search has not seen."""
    return {**point.to_dict(), "unseen": accuracy(point.exported, unseen)}


def search(original: Original, **target) -> Compression:
    """Return what `compress` finds for one limit, or the nearest."""
    data, task, effort = original.data, original.task, original.effort
    try:
        return export.compress(
            original.model,
            (data.x_train, data.y_train),
            validation_data=halves(data)[0],
            epochs=task.epochs,
            batch_size=task.batch,
            learning_rate=effort.rates,
            seed=original.seed,
            quantize=None if original.precision == "float32" else original.precision,
            folder=original.folder,
            runs=effort.runs,
            time_limit=effort.seconds,
            **target,
        )
    except export.TargetError as error:
        return error.compression


def in_int4(point: Point, original: Original) -> dict:
    """Return what `facts` returns, for the float32 model `point` with its weights rounded to int4. The family is "int4"."""
    exported, (scored, unseen) = int4.quantized(point.exported), halves(original.data)
    latencies = export.compare({"float32": point.exported, "int4": exported}, runs=original.effort.runs).latencies
    return {
        "name": point.name.replace("float32", "int4"),
        "family": "int4",
        "precision": "int4",
        "score": accuracy(exported, scored),
        "unseen": accuracy(exported, unseen),
        "weights": point.weights,
        "size_bytes": exported.size_bytes,
        "median_seconds": latencies["int4"].median,
    }


def at_limit(original: Original, cost: str, limit: float) -> dict:
    """Return the models that were trained for one limit, with the name of the pick of `compress`.

    In any precision, each dense model is added again with its weights in int4.
    """
    found, (_, unseen) = search(original, **{TARGETS[cost]: limit}), halves(original.data)
    points = [facts(point, unseen) for point in found.points]
    if original.precision == "any" and int4.is_installed():
        dense = [point for point in found.points if point.family in DENSE and point.precision == "float32"]
        points += [in_int4(point, original) for point in dense]
    return {"limit": limit, "pick": found.pick.name, "seconds": found.seconds, "points": points}


def best_of_families(result: dict, cost: str) -> dict[str, dict]:
    """Return for each family the most accurate model that keeps the limit."""
    best: dict[str, dict] = {}
    for point in sorted(result["points"], key=lambda point: point["score"]):
        if point[COSTS[cost]] <= result["limit"]:
            best[point["family"]] = point
    return best


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--task", "names", multiple=True, type=click.Choice(list(TASKS)), default=list(TASKS), show_default=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--precision", type=click.Choice(list(PARTS)), default="float32", show_default=True)
@click.option("--data", "data_folder", type=click.Path(exists=True, path_type=Path), help="Folder with the data sets' files.")
@click.option("--json", "json_folder", type=click.Path(path_type=Path), default=Path("docs/compress"), show_default=True)
@click.option("--quick", is_flag=True, help="Train small networks for moments.")
def main(folder: Path, names: tuple[str, ...], seeds: int, precision: str, data_folder, json_folder: Path, quick: bool):
    folder.mkdir(parents=True, exist_ok=True)
    effort = QUICK if quick else FULL
    if precision == "any" and not int4.is_installed():
        click.echo("There are no networks in int4. To have them too: pip install -e '.[int4]'")
    for name in names:
        task = TASKS[name].quick if quick else TASKS[name]
        data = examples_of(task, data_folder, effort.examples)
        settings = {"width": task.width, "epochs": task.epochs, "batch": task.batch, "rates": list(effort.rates)}
        settings |= {"int4": int4.is_installed()} if precision == "any" else {}
        results = Results(json_folder / f"{name}-{precision}.json", settings)
        for seed in range(seeds):
            path = folder / f"{name}-{seed}"
            model = trained(path.with_suffix(".keras"), task, data, seed)
            one_seed(Original(model, task, data, seed, effort, precision, path, results))


def one_seed(original: Original) -> None:
    """Run the searches for all limits with the dense network of one seed, and keep and print what they find."""
    costs = original.once(("original",), lambda: costs_of(original))
    for cost, part in original.limits:
        result = original.once((cost, f"1/{part}"), partial(at_limit, original, cost, costs[cost] / part))
        click.echo(f"{original.task.name}, seed {original.seed}, {cost} 1/{part}: {result['pick']}")
        for family, point in best_of_families(result, cost).items():
            figures = f"{point['size_bytes'] / 1024:,.0f} KiB, {point['median_seconds'] * 1e6:.1f} us"
            click.echo(f"  {family}: {point['score']:.4f}, unseen {point['unseen']:.4f}, {figures}: {point['name']}")


def costs_of(original: Original) -> dict[str, float]:
    """Return the size of the exported dense network in bytes, and its latency in seconds."""
    exported = export.to_tflite(original.model)
    return {"size": exported.size_bytes, "latency": export.measure(exported, runs=original.effort.runs).median}


if __name__ == "__main__":
    main()
