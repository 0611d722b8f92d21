"""Find the best learning rate of Dense and of butterflies of several radices, at several widths.

    python benchmarks/best_rate.py FILE [--width 128 ...] [--kind NAME ...] [--rate 1e-3 ...]

Network: 784-w-w-10 on Fashion-MNIST, trained for 4 epochs with batches of 128, Adam and cosine decay, one seed. The best rate
of a grid is the one with the lowest loss on the test images. The rule for the learning rate of butterflies is good if this rate
is at most a factor of two from that of Dense.

Output: a table of the test losses. Every run is kept in FILE. If the program is interrupted, start it again to continue.
"""

from functools import partial
from pathlib import Path

import click
import keras
import supervised
from data_sets import load
from results import Results
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly

EPOCHS, BATCH = 4, 128
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
KINDS = {
    "Dense": keras.layers.Dense,
    "radix 2": lambda *arguments: Butterfly(*arguments, radix=2),
    "radix 4": Butterfly,
    "two stages": lambda *arguments: Butterfly(*arguments, radix="auto"),
}


def train(kind: str, width: int, rate: float, data) -> dict:
    """Train a network, and return its loss on the training and on the test images, and its test accuracy."""
    keras.utils.set_random_seed(0)
    hidden = [KINDS[kind](width, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, activation="softmax")])
    training = supervised.fit(model, data, rate, EPOCHS, BATCH).history["loss"][-1]
    loss, accuracy = model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0)
    return {"training loss": float(training), "loss": float(loss), "accuracy": float(accuracy)}


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--width", "widths", multiple=True, default=(128, 512, 1024, 4096), show_default=True, type=click.IntRange(min=1))
@click.option("--kind", "kinds", multiple=True, default=tuple(KINDS), show_default=True, type=click.Choice(list(KINDS)))
@click.option("--rate", "rates", multiple=True, default=RATES, show_default=True, type=click.FloatRange(min=0, min_open=True))
def main(path, widths, kinds, rates):
    data, results = load("fashion_mnist"), Results(path, {"epochs": EPOCHS, "batch": BATCH})
    table = Table("width", "hidden layers", *(f"{rate:g}" for rate in rates), title="loss on the test images, by learning rate")
    for width in widths:
        for kind in kinds:
            run = partial(train, kind, width, data=data)
            runs = [results.once((str(width), kind, f"{rate:g}"), partial(run, rate)) for rate in rates]
            table.add_row(str(width), kind, *(f"{run['loss']:.4f}" for run in runs))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
