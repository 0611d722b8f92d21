"""Measure the test accuracy of networks with two hidden layers of several kinds, each trained from scratch at its best rate.

    python benchmarks/accuracy.py FOLDER [--dataset fashion_mnist] [--data DATA] [--kind NAME ...] [--epochs 6 --epochs 15]
        [--rate 1e-3 ...] [--optimizer adam] [--batch 256] [--seeds 3] [--export]

Kinds: the butterfly is compared with a dense network, with narrower dense networks that have about as many weights or about
the same latency as the butterfly, and with low-rank pairs of dense layers.

Training: Adam with cosine decay. The search for the best learning rate starts at 1e-3. It goes on to the next rate of the grid
as long as the test accuracy of the first seed gets better. Then all seeds are trained at the best rate. `--rate` limits the
search to the given rates. "lr_multiplier" in a kind's name is the factor on the rate of the butterfly's weights. Where none is
named, it is that of the layer's rule.

Exports: `--export` converts an untrained network of each kind in float32, "dynamic" and "int8", and measures all networks of
one precision in turn. The values of the weights change neither size nor latency.

Output: every run is kept in FOLDER/DATASET-OPTIMIZER.json. If the program is interrupted, start it again to continue.

Data sets: see data_sets.py.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import click
import keras
import numpy as np
import supervised
from data_sets import DATA_SETS, load
from keras_butterfly_cli.datasets import Data
from keras_butterfly_cli.demonstration import WIDTH
from results import Results
from rich.console import Console
from rich.table import Table
from search import climb

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank, export

GRID = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
CALIBRATION = 512  # examples


def butterflies(nodes: str, *orders: str) -> list[keras.Layer]:
    """Return a butterfly layer for each of `orders`, all with `truncation=nodes` and the paper's radix 2."""
    return [Butterfly(WIDTH, "relu", radix=2, truncation=nodes, order=order) for order in orders]


def twice(layer: Callable[..., keras.Layer], units: int = WIDTH, **arguments) -> list[keras.Layer]:
    """Return two layers of one kind with the same arguments."""
    return [layer(units, activation="relu", **arguments) for _ in range(2)]


# name -> a maker of the hidden layers
KINDS: dict[str, Callable[[], list[keras.Layer]]] = {
    "butterfly": partial(twice, Butterfly),
    "dense 1024": partial(twice, keras.layers.Dense),
    "dense 256": partial(twice, keras.layers.Dense, 256),
    "dense 128": partial(twice, keras.layers.Dense, 128),
    "dense 59": partial(twice, keras.layers.Dense, 59),
    "low rank 20": partial(twice, LowRank, rank=20),
    "low rank 40": partial(twice, LowRank, rank=40),
    "random nodes, decreasing and increasing": partial(butterflies, "random", "decreasing", "increasing"),
    "random nodes, both decreasing": partial(butterflies, "random", "decreasing", "decreasing"),
    "random nodes, both increasing": partial(butterflies, "random", "increasing", "increasing"),
    "first nodes, increasing and decreasing": partial(butterflies, "first", "increasing", "decreasing"),
    "first nodes, both decreasing": partial(butterflies, "first", "decreasing", "decreasing"),
    "butterfly, FJLT": partial(twice, Butterfly, radix=2, kernel_initializer="fjlt"),
    "butterfly, 2 stacks": partial(twice, Butterfly, stacks=2),
    "kaleidoscope": partial(twice, Kaleidoscope),
    "J2^T W' J1, k = 10": partial(twice, ButterflyDense, k1=10, k2=10),
    "J2^T W' J1, k = 64": partial(twice, ButterflyDense, k1=64, k2=64),
}
RADICES: dict[str, int | tuple[int, ...]] = {"2": 2, "4": 4, "8, 8, 16": (8, 8, 16), "32, 32": (32, 32)}
FACTORS = (None, 4, 10, 20, 40)
for (name, radix), factor in product(RADICES.items(), FACTORS):
    rule = "" if factor is None else f", lr_multiplier {factor}"
    KINDS[f"radix {name}{rule}"] = partial(twice, Butterfly, radix=radix, lr_multiplier=factor)
RIVALS = ("butterfly", "dense 1024", "dense 256", "dense 128", "dense 59", "low rank 20")
OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9)}


def network(kind: str, features: int, classes: int) -> keras.Model:
    """Return an untrained network with hidden layers of the given kind."""
    return keras.Sequential([keras.Input((features,)), *KINDS[kind](), keras.layers.Dense(classes, activation="softmax")])


def train(kind: str, data: Data, optimizer: str, rate: float, seed: int, epochs: int, batch: int) -> dict:
    """Train a network, and return its test accuracy, from 0 to 1, and its number of weights."""
    keras.utils.set_random_seed(seed)
    model = network(kind, data.x_train.shape[1], data.classes)
    supervised.fit(model, data, rate, epochs, batch, optimizer=OPTIMIZERS[optimizer])
    accuracy = model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0)[1]
    return {"accuracy": float(accuracy), "weights": model.count_params()}


def measure(kinds: list[str], data: Data, quantize: str | None) -> dict:
    """Export an untrained network of each kind, and return its size in KiB, median latency in microseconds and lowerings."""
    exported = {}
    for kind in kinds:
        keras.utils.set_random_seed(0)
        model = network(kind, data.x_train.shape[1], data.classes)
        exported[kind] = export.to_tflite(model, quantize=quantize, representative_data=data.x_train[:CALIBRATION])
    comparison = export.compare(exported, runs=300)
    return {
        kind: {
            "KiB": model.size_bytes / 1024,
            "us": comparison.latencies[kind].median * 1e6,
            "partitions": model.partitions,
            "lowerings": [str(plan.lowering) for plan in model.plan],
        }
        for kind, model in exported.items()
    }


def accuracies(results: Results, kinds, seeds: int, epochs, rates, run: Callable) -> dict:
    """Train what is missing, and return the best rate and each seed's accuracy there, for each kind and number of epochs."""

    def accuracy(kind: str, length: int, rate: float, seed: int) -> float:
        names = (kind, f"{length} epochs", f"{rate:g}", f"seed {seed}")
        return results.once(names, lambda: run(kind, rate, seed, length))["accuracy"]

    best: dict = {}
    for kind, length in product(kinds, epochs):
        first = partial(accuracy, kind, length, seed=0)
        rate = max(rates, key=first) if rates else climb(GRID, 1e-3, first)
        best.setdefault(kind, {})[length] = (rate, [accuracy(kind, length, rate, seed) for seed in range(seeds)])
    return best


def table(best: dict, results: Results, title: str) -> Table:
    """Return a table of the kinds: weights, and for each number of epochs the mean accuracy, its range over seeds, the rate."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("hidden layers")
    lengths = list(next(iter(best.values())))
    for column in ("weights", *(f"{length} epochs: mean (range) at rate" for length in lengths)):
        shown.add_column(column, justify="right")
    for kind, by_length in best.items():
        cells = [
            f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}) at {rate:g}" for rate, values in by_length.values()
        ]
        rate = by_length[lengths[0]][0]
        weights = results.tree[kind][f"{lengths[0]} epochs"][f"{rate:g}"]["seed 0"]["weights"]
        shown.add_row(kind, f"{weights:,}", *cells)
    return shown


def latencies(measured: dict) -> Table:
    """Return a table of the kinds: the size and the latency of the export in each precision."""
    shown = Table("hidden layers", title="exports: KiB, us (XNNPACK partitions)", title_justify="left")
    for precision in measured:
        shown.add_column(precision, justify="right")
    for kind in next(iter(measured.values())):
        each = [figures[kind] for figures in measured.values()]
        shown.add_row(kind, *(f"{one['KiB']:,.0f}, {one['us']:.2f} ({one['partitions']})" for one in each))
    return shown


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dataset", default="fashion_mnist", show_default=True, type=click.Choice(list(DATA_SETS)))
@click.option(
    "--data",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of hapt/hapt_raw.npz and isolet/isolet1.npz.",
)
@click.option(
    "--kind", "chosen", multiple=True, type=click.Choice(list(KINDS)), help=f"Repeatable. Default: {', '.join(RIVALS)}."
)
@click.option("--epochs", multiple=True, default=(6, 15), show_default=True, type=click.IntRange(min=1))
@click.option(
    "--rate", "rates", multiple=True, type=click.FloatRange(min=0, min_open=True), help="Repeatable. Default: the search."
)
@click.option("--optimizer", default="adam", show_default=True, type=click.Choice(list(OPTIMIZERS)))
@click.option("--batch", default=256, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--export", "exports", is_flag=True, help="Measure exports instead of training.")
def main(folder, dataset, source, chosen, epochs, rates, optimizer, batch, seeds, exports):
    console = Console(width=150)
    data = load(dataset, source)
    kinds = chosen or RIVALS
    if exports:
        measured = {name: measure(list(kinds), data, quantize) for name, quantize in PRECISIONS.items()}
        console.print(latencies(measured))
        return
    results = Results(folder / f"{dataset}-{optimizer}.json", {"dataset": dataset, "optimizer": optimizer, "batch": batch})

    def run(kind, rate, seed, length):
        outcome = train(kind, data, optimizer, rate, seed, length, batch)
        console.print(f"{kind}, {length} epochs, rate {rate:g}, seed {seed}: {outcome['accuracy']:.4f}", highlight=False)
        return outcome

    best = accuracies(results, kinds, seeds, epochs, rates, run)
    console.print(table(best, results, f"{dataset}, {optimizer}, batch {batch}, {seeds} seeds, {results.tree['machine']}"))


if __name__ == "__main__":
    main()
