"""Find the best learning rate of Dense and of butterflies of several radices, at several widths.

    KERAS_BACKEND=jax python benchmarks/best_rate.py FILE [--dataset NAME] [--width 128 ...] [--kind NAME ...] [--rate 1e-3 ...]
        [--multiplier 20 ...] [--seeds 3]

Network: inputs-w-w-classes, trained with Adam and cosine decay: on Fashion-MNIST for 4 epochs with batches of 128, on HAPT for
30 epochs with batches of 64. The best rate of a grid is the one with the lowest loss on the test examples. The rule for the
learning rate of butterflies is good if this rate is at most a factor of two from that of Dense. `--multiplier` tries fixed
factors on the rate of the butterflies' weights beside the rule.

Output: a table of the test losses, the means over the seeds. All rates and seeds of a kind are trained at once (`ensemble.py`),
and every kind is kept in FILE. If the program is interrupted, start it again to continue.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import ensemble
import keras
import numpy as np
from data_sets import load
from keras_butterfly_cli.datasets import Data
from results import Results
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly

TRAINING = {"fashion_mnist": {"epochs": 4, "batch": 128}, "hapt": {"epochs": 30, "batch": 64}}
RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
RADICES = {"radix 2": 2, "radix 4": 4, "two stages": "auto"}
DENSE = "Dense"


def layer_of(kind: str, multiplier: float | None) -> Callable[..., keras.layers.Layer]:
    """Return a maker of hidden layers."""
    return keras.layers.Dense if kind == DENSE else partial(Butterfly, radix=RADICES[kind], lr_multiplier=multiplier)


def train(make, width: int, rates: tuple[float, ...], seeds: int, data: Data, epochs: int, batch: int) -> dict:
    """Train a network with all rates and seeds, and return for each rate the test losses and the test accuracies."""
    networks = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        hidden = [make(width, activation="relu") for _ in range(2)]
        head = keras.layers.Dense(data.classes, activation="softmax")
        networks.append(keras.Sequential([keras.Input((data.x_train.shape[1],)), *hidden, head]))
    starts = [[keras.ops.convert_to_numpy(variable) for variable in network.trainable_variables] for network in networks]
    members = [ensemble.Member(starts[seed], rate, seed) for rate in rates for seed in range(seeds)]
    trained = ensemble.train(networks[0], members, data.x_train, data.y_train, epochs, batch)
    outputs = ensemble.outputs(networks[0], trained, data.x_test)
    chosen = np.take_along_axis(outputs, data.y_test[None, :, None].astype(int), -1)[..., 0]
    losses = -np.log(np.maximum(chosen, 1e-7)).mean(-1).reshape(len(rates), seeds)
    accuracies = (outputs.argmax(-1) == data.y_test).mean(-1).reshape(len(rates), seeds)
    return {
        f"{rate:g}": {"losses": loss.tolist(), "accuracies": accuracy.tolist()}
        for rate, loss, accuracy in zip(rates, losses, accuracies, strict=True)
    }


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dataset", default="fashion_mnist", show_default=True, type=click.Choice(list(TRAINING)))
@click.option(
    "--data",
    "source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the files of data sets. Default: download.",
)
@click.option("--width", "widths", multiple=True, default=(128, 512, 1024, 4096), show_default=True, type=click.IntRange(min=1))
@click.option(
    "--kind", "kinds", multiple=True, default=(DENSE, *RADICES), show_default=True, type=click.Choice([DENSE, *RADICES])
)
@click.option("--rate", "rates", multiple=True, default=RATES, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--multiplier", "multipliers", multiple=True, type=click.FloatRange(min=0, min_open=True), help="Repeatable.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
def main(path, dataset, source, widths, kinds, rates, multipliers, seeds):
    data, training = load(dataset, source), TRAINING[dataset]
    results = Results(path, {"dataset": dataset, **training, "rates": rates, "seeds": seeds})
    table = Table(
        "width", "hidden layers", *(f"{rate:g}" for rate in rates), title="loss on the test examples, by learning rate"
    )
    for width in widths:
        for kind in kinds:
            for multiplier in (None,) if kind == DENSE else (None, *multipliers):
                name = kind if multiplier is None else f"{kind}, factor {multiplier:g}"
                run = partial(train, layer_of(kind, multiplier), width, rates, seeds, data, **training)
                found = results.once((str(width), name), run)
                table.add_row(str(width), name, *(f"{np.mean(each['losses']):.4f}" for each in found.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
