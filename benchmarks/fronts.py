"""Which structure `export.compress` picks for each limit of size and of latency, and what the other structures reach there.

    python benchmarks/fronts.py FOLDER [--task NAME ...] [--seeds 3] [--data DATA] [--json docs/compress]

Network: the features, two dense hidden layers of 1024 units with ReLU (2048 on CIFAR-10), a dense head. It is trained on the
labels of a data set, or read from FOLDER/NAME-SEED.keras if it is there. The limits are 1/40, 1/20 and 1/10 of its size, and
the same of its latency, in float32. Each seed has a network and a search of its own.

Examples: the search trains on the training examples and scores on a random half of the test examples. Its models are then
scored on the other half, which it has not seen. The rivals of butterflies are the other families of the search: narrower dense
networks and low-rank layers. Each model is trained with several learning rates, and the one with the best score is kept.

Output: NAME.json in the folder of `--json`, with all trained models for each limit. If the program is interrupted, start it
again to continue. Costs, trials of layers and trained models are kept in FOLDER/NAME-SEED and shared by all limits.
`python benchmarks/fronts_page.py` makes docs/fronts.md of them.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import click
import keras
import numpy as np
import supervised
from data_sets import load
from keras_butterfly_cli.datasets import Data
from results import Results

from keras_butterfly import export
from keras_butterfly.export.compression.compression import Compression, Point

RUNS = 200
RATES = (1e-3, 3e-3)
PARTS = (40, 20, 10)
TARGETS = {"size": "target_size", "latency": "target_latency"}


@dataclass(frozen=True)
class Task:
    """A task is a data set, with the width, the length of the training and the learning rate of the dense network."""

    name: str
    width: int
    epochs: int
    batch: int
    rate: float


TASKS = {
    task.name: task
    for task in (
        Task("fashion_mnist", 1024, 6, 128, 1e-3),
        Task("hapt", 1024, 30, 64, 2.5e-4),
        Task("isolet", 1024, 40, 32, 2.5e-4),
        Task("cifar10", 2048, 10, 128, 2.5e-4),
    )
}


def teacher(path: Path, task: Task, data: Data, seed: int) -> keras.Model:
    """Return the dense network in the file `path`, or a newly trained one, which is saved there."""
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(task.width, activation="relu", name=f"hidden_{index}") for index in range(2)]
    head = keras.layers.Dense(int(data.y_train.max()) + 1, activation="softmax", name="class")
    model = keras.Sequential([keras.Input(data.x_train.shape[1:]), *hidden, head])
    supervised.fit(model, data, task.rate, task.epochs, task.batch)
    model.save(path)
    return model


def halves(data: Data) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return two random halves of the test examples."""
    order = np.random.default_rng(0).permutation(len(data.x_test))
    first, second = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    return (data.x_test[first], data.y_test[first]), (data.x_test[second], data.y_test[second])


def facts(point: Point, unseen: tuple[np.ndarray, np.ndarray]) -> dict:
    """Return the figures of a model, with its accuracy on examples that the search has not seen."""
    x, y = unseen
    accuracy = float(np.mean(point.exported.predict(x).argmax(-1) == y))
    return {**point.to_dict(), "unseen": accuracy}


def search(model: keras.Model, data: Data, task: Task, folder: Path, seed: int, **target) -> Compression:
    """Return what `compress` finds for one limit, or the nearest."""
    scored, _ = halves(data)
    try:
        return export.compress(
            model,
            (data.x_train, data.y_train),
            validation_data=scored,
            epochs=task.epochs,
            batch_size=task.batch,
            learning_rate=RATES,
            seed=seed,
            folder=folder,
            runs=RUNS,
            **target,
        )
    except export.TargetError as error:
        return error.compression


def at_limit(model: keras.Model, data: Data, task: Task, folder: Path, seed: int, cost: str, limit: float) -> dict:
    """Return the models that were trained for one limit, with the name of the pick."""
    found, (_, unseen) = search(model, data, task, folder, seed, **{TARGETS[cost]: limit}), halves(data)
    points = [facts(point, unseen) for point in found.points]
    return {"limit": limit, "pick": found.pick.name, "seconds": found.seconds, "points": points}


def best_of_families(result: dict, cost: str) -> dict[str, dict]:
    """Return for each family the most accurate model that keeps the limit."""
    name = {"size": "size_bytes", "latency": "median_seconds"}[cost]
    best: dict[str, dict] = {}
    for point in sorted(result["points"], key=lambda point: point["score"]):
        if point[name] <= result["limit"]:
            best[point["family"]] = point
    return best


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--task", "names", multiple=True, type=click.Choice(list(TASKS)), default=list(TASKS), show_default=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--data", "data_folder", type=click.Path(exists=True, path_type=Path), help="Folder with the data sets' files.")
@click.option("--json", "json_folder", type=click.Path(path_type=Path), default=Path("docs/compress"), show_default=True)
def main(folder: Path, names: tuple[str, ...], seeds: int, data_folder: Path | None, json_folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        task, data = TASKS[name], load(name, data_folder)
        settings = {"width": task.width, "epochs": task.epochs, "batch": task.batch, "rates": list(RATES)}
        results = Results(json_folder / f"{name}.json", settings)
        for seed in range(seeds):
            one_seed(results, task, data, folder / f"{name}-{seed}", seed)


def one_seed(results: Results, task: Task, data: Data, folder: Path, seed: int) -> None:
    """Train the dense network of one seed, run the searches for all limits, and keep and print what they find."""
    model = teacher(folder.with_suffix(".keras"), task, data, seed)
    original = results.once((f"seed {seed}", "original"), lambda: costs(model))
    for cost, part in product(TARGETS, PARTS):
        limit = original[cost] / part
        settings = (model, data, task, folder, seed, cost, limit)
        result = results.once((f"seed {seed}", cost, f"1/{part}"), partial(at_limit, *settings))
        click.echo(f"{task.name}, seed {seed}, {cost} 1/{part}: {result['pick']}")
        for family, point in best_of_families(result, cost).items():
            figures = f"{point['size_bytes'] / 1024:,.0f} KiB, {point['median_seconds'] * 1e6:.1f} us"
            click.echo(f"  {family}: {point['score']:.4f}, unseen {point['unseen']:.4f}, {figures}: {point['name']}")


def costs(model: keras.Model) -> dict[str, float]:
    """Return the size of the exported model in bytes, and its latency in seconds."""
    exported = export.to_tflite(model)
    return {"size": exported.size_bytes, "latency": export.measure(exported, runs=RUNS).median}


if __name__ == "__main__":
    main()
