"""Test accuracy on Fashion-MNIST of a 784-1024-1024-10 network with other hidden layers, trained at the rates used for Dense.

    python benchmarks/accuracy.py [--kind butterfly --kind ...] [--optimizer adam] [--rate 1e-3] [--seeds 3] [--json FILE]

Six epochs of batches of 128, cosine decay. Prints the mean and the values of the seeds.
"""

import json

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope
from keras_butterfly.export import files
from keras_butterfly.export.demo import WIDTH, Data, load

HIDDEN = {
    "dense": lambda seed: keras.layers.Dense(WIDTH, activation="relu"),
    "butterfly": lambda seed: Butterfly(WIDTH, activation="relu", use_bias=True, seed=seed),
    "butterfly, FJLT": lambda seed: Butterfly(WIDTH, activation="relu", use_bias=True, kernel_initializer="fjlt", seed=seed),
    "butterfly, 2 stacks": lambda seed: Butterfly(WIDTH, activation="relu", use_bias=True, stacks=2, seed=seed),
    "kaleidoscope": lambda seed: Kaleidoscope(WIDTH, activation="relu", use_bias=True, seed=seed),
    "sandwich, k = 10": lambda seed: ButterflyDense(WIDTH, 10, 10, activation="relu", seed=seed),
    "sandwich, k = 64": lambda seed: ButterflyDense(WIDTH, 64, 64, activation="relu", seed=seed),
}
OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9)}


def accuracy(kind: str, data: Data, optimizer: str, rate: float, seed: int, epochs: int, batch: int = 128) -> tuple[float, int]:
    """Test accuracy, 0 .. 1, and the number of weights."""
    keras.utils.set_random_seed(seed)
    hidden = [HIDDEN[kind](10 * seed + index) for index in range(2)]
    output = keras.layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input(data.x_train.shape[1:]), *hidden, output])
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(data.x_train) // batch))
    model.compile(OPTIMIZERS[optimizer](schedule), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=True)
    model.fit(data.x_train, data.y_train, batch, epochs, verbose=0)
    return model.evaluate(data.x_test, data.y_test, verbose=0)[1], model.count_params()


@click.command()
@click.option("--kind", "chosen", multiple=True, type=click.Choice(list(HIDDEN)), help="Repeatable. Default: all.")
@click.option("--optimizer", default="adam", show_default=True, type=click.Choice(list(OPTIMIZERS)))
@click.option("--rate", default=1e-3, show_default=True, help="Initial learning rate.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--epochs", default=6, show_default=True, type=click.IntRange(min=1))
@click.option("--dataset", default="fashion_mnist", show_default=True, type=click.Choice(["digits", "mnist", "fashion_mnist"]))
@click.option("--json", "path", type=click.Path(), help="Also write the figures to this new file.")
def main(chosen, optimizer, rate, seeds, epochs, dataset, path):
    if path:
        files.check_writable(path)
    console = Console(width=120)
    data, report = load(dataset), {}
    table = Table(title=f"{dataset}, {optimizer} at {rate:g}, {epochs} epochs", title_justify="left")
    for column in ("hidden layers", "weights", "mean accuracy", "by seed"):
        table.add_column(column)
    for kind in chosen or HIDDEN:
        runs = track(range(seeds), kind, console=console, disable=not console.is_terminal, transient=True)
        results = [accuracy(kind, data, optimizer, rate, seed, epochs) for seed in runs]
        accuracies, weights = [result[0] for result in results], results[0][1]
        report[kind] = {"weights": weights, "accuracies": accuracies}
        table.add_row(kind, f"{weights:,}", f"{np.mean(accuracies):.4f}", " ".join(f"{value:.4f}" for value in accuracies))
    console.print(table)
    if path:
        files.write(path, json.dumps({"dataset": dataset, "optimizer": optimizer, "rate": rate, **report}, indent=2).encode())


if __name__ == "__main__":
    main()
