"""Check whether the usual learning rates of Dense layers suit the butterfly layers, with SGD and with Adam.

    python benchmarks/learning_rate.py [--width 64 --width 256 --width 1024] [--seeds 3] [--json FILE]

The network has two hidden layers and a dense head. The hidden layers are Dense or one of the butterfly layers. The network is
trained for 30 epochs with batches of 32, on 600 standardized examples with 48 inputs and 5 classes.

The figure is the training accuracy of the worst seed. It is low where training stops or diverges.

Data sets: Gaussian classes whose centers differ by 0.7 or by 2 deviations in each input, and scikit-learn's digits (the classes
0 to 4, and the 48 pixels that vary most).
"""

import json
from collections.abc import Callable

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.export import files

EXAMPLES, INPUTS, CLASSES, EPOCHS, BATCH = 600, 48, 5, 30, 32
LAYERS = {"Dense": keras.layers.Dense, "Butterfly": Butterfly, "ButterflyDense": ButterflyDense}


def sgd(rate: float, nesterov: bool = False) -> Callable[[], keras.Optimizer]:
    """Return a maker of SGD with momentum 0.9."""
    return lambda: keras.optimizers.SGD(rate, momentum=0.9, nesterov=nesterov)


OPTIMIZERS = {
    "SGD 0.01": sgd(0.01),
    "SGD 0.05": sgd(0.05),
    "SGD 0.01, Nesterov": sgd(0.01, nesterov=True),
    "SGD 0.05, Nesterov": sgd(0.05, nesterov=True),
    "Adam 1e-3": lambda: keras.optimizers.Adam(1e-3),
    "AdamW 1e-3": lambda: keras.optimizers.AdamW(1e-3),
}


def gaussian_classes(distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return examples of Gaussian classes of unit deviation, whose centers are N(0, distance^2) in each input."""
    rng = np.random.default_rng(seed)
    centres, y = distance * rng.standard_normal((CLASSES, INPUTS)), rng.integers(0, CLASSES, EXAMPLES)
    return centres[y] + rng.standard_normal((EXAMPLES, INPUTS)), y


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of digits, which are the same for every seed."""
    x, y = load_digits(n_class=CLASSES, return_X_y=True)
    return x[:EXAMPLES, np.sort(np.argsort(-x.std(0), kind="stable")[:INPUTS])], y[:EXAMPLES]


DATA = {
    "classes 0.7 apart": lambda seed: gaussian_classes(0.7, seed),
    "classes 2 apart": lambda seed: gaussian_classes(2.0, seed),
    "digits": digits,
}


def accuracy(layer: str, width: int, optimizer: str, data: str, seed: int) -> float:
    """Train a network, and return its training accuracy, from 0 to 1, or NaN if the loss became NaN."""
    keras.utils.set_random_seed(seed)
    x, y = DATA[data](seed)
    x = (x - x.mean(0)) / x.std(0)
    hidden = [LAYERS[layer](width, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((INPUTS,)), *hidden, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=True)
    loss = model.fit(x, y, BATCH, EPOCHS, verbose=0).history["loss"][-1]
    return float(model.evaluate(x, y, verbose=0)[1]) if np.isfinite(loss) else float("nan")


@click.command()
@click.option("--width", "widths", multiple=True, default=(64, 256, 1024), show_default=True, type=click.IntRange(min=1))
@click.option("--data", "sets", multiple=True, default=tuple(DATA), show_default=True, type=click.Choice(list(DATA)))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "path", type=click.Path(), help="Also write all figures to this new file.")
def main(widths, sets, seeds, path):
    if path:
        files.check_writable(path)
    console, report = Console(width=120), []
    for data in sets:
        table = Table("width", "optimizer", *LAYERS, title=f"{data}: worst training accuracy of {seeds} seeds")
        for width in widths:
            for optimizer in OPTIMIZERS:
                found = {layer: [accuracy(layer, width, optimizer, data, seed) for seed in range(seeds)] for layer in LAYERS}
                report.append({"data": data, "width": width, "optimizer": optimizer, "accuracies": found})
                table.add_row(str(width), optimizer, *(f"{np.min(values):.3f}" for values in found.values()))
        console.print(table)
    if path:
        files.write(path, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
