"""How the layers of a narrower network should start: from random weights, or from a fit to the narrower dense layers.

    python benchmarks/starts.py FOLDER [--task NAME ...] [--seeds 3] [--data DATA] [--json docs/compress/starts.json]

Networks: those of `fronts.py` with two hidden layers of 1024 units, each seed with its own, trained on the labels or read from
FOLDER/NAME-SEED.keras if it is there. In a copy the hidden layers keep their 256 strongest units and then become butterflies or
low-rank layers, as in `export.compress`. Each copy is trained as there, once with each learning rate of `RATES`.

Output: the test accuracy after the training. The rate is chosen on a random half of the test examples, and the accuracy is that
on the other half. The table that is printed has the means of the seeds and their standard errors, in percent. If the program is
interrupted, start it again to continue.
"""

from functools import partial
from itertools import product
from pathlib import Path

import click
import keras
import numpy as np
from fronts import FULL, TASKS, Task, examples_of, halves, trained
from fronts_page import NAMES as TITLES
from keras_butterfly_cli.datasets import Data
from results import Results

from keras_butterfly.compression.dense_map import DenseMap
from keras_butterfly.export.compression.blueprint import Blueprint
from keras_butterfly.export.compression.imitation import Lesson, imitate
from keras_butterfly.export.compression.narrowing import StrongestUnits
from keras_butterfly.export.compression.structures import low_rank, named_structure
from keras_butterfly.utils.model_walk import layer_at

NAMES = ("fashion_mnist", "hapt", "isolet")
HIDDEN = {"hidden_0": 256, "hidden_1": 256}
RATES = FULL.rates
STRUCTURES = {
    "two stages": partial(named_structure, name="two stages"),
    "low rank 32": partial(low_rank, part=1 / 8),
}
# The ways to start, and whether the layers are fitted.
STARTS = {"random": False, "fitted": True}


def scores(model, lesson: Lesson, task: Task, data: Data, seed: int, structure: str, fitted: bool, rate: float) -> list[float]:
    """Train a narrower network, and return its accuracy on both halves of the test examples.

    Args:
        model: the dense network.
        lesson: what it teaches.
        task: the task, which says how long the training is.
        data: the examples.
        seed: the seed of the random weights and of the order of the examples.
        structure: what the hidden layers become, a key of `STRUCTURES`.
        fitted: whether they are fitted.
        rate: the learning rate.
    """
    narrowing = StrongestUnits(tuple(HIDDEN.items()))
    narrow = narrowing.narrowed(model)
    structures = tuple((path, STRUCTURES[structure](DenseMap.of(layer_at(narrow, path)))) for path in HIDDEN)
    keras.utils.set_random_seed(seed)
    student, _ = Blueprint(structures, narrowing).build(model, data.x_train, {}, lambda path, structure: seed, fitted)
    imitate(student, lesson, epochs=task.epochs, batch_size=task.batch, learning_rate=rate, compiled=True)
    return [float(np.mean(student.predict(x, verbose=0).argmax(-1) == y)) for x, y in halves(data)]


def row(results: Results, name: str, structure: str, seeds: int) -> str:
    """Return a row of the table: the accuracy after each start, and what the fit adds."""
    best = {
        start: np.array([max(_of_rates(results, name, seed, structure, start))[1] for seed in range(seeds)]) for start in STARTS
    }
    gain = best["fitted"] - best["random"]
    return f"| {TITLES[name]} | {structure} | " + " | ".join(map(_mean, (*best.values(), gain))) + " |"


def _of_rates(results: Results, name: str, seed: int, structure: str, start: str) -> list[list[float]]:
    """Return the accuracies on both halves with each learning rate."""
    return [results.tree[name][f"seed {seed}"][structure][start][f"{rate:g}"] for rate in RATES]


def _mean(values: np.ndarray) -> str:
    """Return a mean and its standard error, in percent."""
    error = f" ± {100 * values.std(ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.2f}{error}"


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--task", "names", multiple=True, type=click.Choice(NAMES), default=NAMES, show_default=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--data", "data_folder", type=click.Path(exists=True, path_type=Path), help="Folder with the data sets' files.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), default=Path("docs/compress/starts.json"), show_default=True
)
def main(folder: Path, names: tuple[str, ...], seeds: int, data_folder, json_path: Path):
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(json_path, {"widths": HIDDEN, "rates": list(RATES)})
    click.echo("| data | hidden layers | random | fitted | the fit adds |\n|---|---|---|---|---|")
    for name in names:
        task = TASKS[name]
        data = examples_of(task, data_folder)
        for seed in range(seeds):
            model = trained(folder / f"{name}-{seed}.keras", task, data, seed)
            lesson = Lesson.of(model, data.x_train, data.y_train)
            for structure, start, rate in product(STRUCTURES, STARTS, RATES):
                case = partial(scores, model, lesson, task, data, seed, structure, STARTS[start], rate)
                results.once((name, f"seed {seed}", structure, start, f"{rate:g}"), case)
        for structure in STRUCTURES:
            click.echo(row(results, name, structure, seeds))


if __name__ == "__main__":
    main()
