"""Networks in which dense layers dominate, trained on CIFAR-10 from scratch with butterflies and with their rivals.

    python examples/dense_heavy/wide.py FOLDER [--data DATA] [--recipe gpu|cpu|quick] [--model NAME ...] [--kind NAME ...]
        [--seeds 3]

On a GPU, all at once, each kind in a process of its own. `nvidia-cuda-mps-control` lets the processes compute at the same time.
What is done after 450 seconds is merged to wide.json:

    nvidia-cuda-mps-control -d
    export KERAS_BACKEND=jax XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR=/tmp/jax PYTHONPATH=.
    for model in vgg mixer transformer; do
        for kind in dense "radix 4" "two stages" "low rank" "narrow dense" "pruned dense" "narrow dense, equal latency"; do
            timeout 450 python examples/dense_heavy/wide.py FOLDER --data DATA --model $model --kind "$kind" &
        done
    done
    wait
    python examples/results.py wide.json FOLDER/*.json

Networks: `wide_models.py`. Kinds of layers: `wide_kinds.py`. DATA holds cifar10/cifar10_residual.npz, see
`cifar.py`; without `--data` Keras downloads CIFAR-10. TensorFlow is not needed.

Recipes: "gpu" trains the networks whose latency `wide_latency.py` measures, on all images. "cpu" has narrower networks and few
images, a minute or two for each kind on one core. "quick" trains for moments on the sample of CIFAR-10 that is part of this
repository.

Training: Adam with a short rise of the learning rate and cosine decay. Images are cropped and mirrored at random
(`augmentation.py`). Each kind is trained at its own best rate of one grid: the search begins at 1e-3 with seed 0 and takes the
accuracy on the last tenth of the training images, which no network is trained on. Then the other seeds follow, at this rate and
at those that are at most two points worse. The best of these has the highest mean accuracy on the images of the choice.

Output: the results of each network and kind are kept in their own file, FOLDER/MODEL-KIND.json. If the program is interrupted,
start it again to continue. `python examples/dense_heavy/dense_heavy_page.py` makes the tables and plots of docs/dense-heavy.md.
"""

import sys
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import cifar
import wide_models
from augmentation import Crops
from pruning import MagnitudePruning, PrunedDense
from results import Results
from search import climb
from wide_kinds import EQUAL_LATENCY, KINDS, Network, weights_of

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
START = 1e-3
# Learning rates whose accuracy with seed 0 is at most this much lower than the best are trained with all seeds.
NEAR = 0.02
RISE = 0.05  # the part of the training in which the learning rate rises
PRUNINGS = 12


@dataclass(frozen=True)
class Recipe:
    """How the networks are trained.

    Attributes:
        images: number of training images, with those that the rate is chosen on.
        batch: images in a batch, by network.
        epochs: number of epochs, by network.
        sizes: arguments of the functions in `wide_models.py`, by network.
        equal_latency: width of the network of equal latency, by network. Without it that kind is not trained.
    """

    images: int
    batch: dict[str, int]
    epochs: dict[str, int]
    sizes: dict[str, dict]
    equal_latency: dict[str, int] = field(default_factory=dict)

    def kinds(self, name: str) -> tuple[str, ...]:
        """Return the kinds of layers with which a network can be trained."""
        return KINDS if name in self.equal_latency else tuple(kind for kind in KINDS if kind != EQUAL_LATENCY)


RECIPES = {
    "gpu": Recipe(
        50_000,
        {"vgg": 256, "mixer": 128, "transformer": 128},
        {"vgg": 8, "mixer": 4, "transformer": 4},
        {name: wide_models.SIZES[name] for name in wide_models.MODELS},
        wide_models.WIDTHS_OF_EQUAL_LATENCY,
    ),
    "cpu": Recipe(
        6_000,
        dict.fromkeys(wide_models.MODELS, 64),
        dict.fromkeys(wide_models.MODELS, 4),
        {
            "vgg": {"width": 1024, "channels": (8, 16, 32)},
            "mixer": {"width": 128, "blocks": 1},
            "transformer": {"width": 128, "blocks": 1},
        },
        {"vgg": 192, "mixer": 96, "transformer": 96},
    ),
    "quick": Recipe(
        200,
        dict.fromkeys(wide_models.MODELS, 20),
        dict.fromkeys(wide_models.MODELS, 2),
        {
            "vgg": {"width": 128, "channels": (4, 8, 8)},
            "mixer": {"width": 32, "blocks": 1},
            "transformer": {"width": 32, "blocks": 1},
        },
    ),
}


class PeakedAdam(keras.optimizers.Adam):
    """An optimizer like Adam that multiplies its learning rate by `peak`.

    `peak` is a variable. So JAX compiles the training for all rates and seeds only once, if it keeps what it has compiled.
    """

    def __init__(self, learning_rate, peak: float):
        super().__init__(learning_rate)
        self.first_peak = peak

    def build(self, variables):
        super().build(variables)
        self.peak = self.add_variable((), keras.initializers.Constant(self.first_peak), name="peak")

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self.peak)


class Data:
    """Images, uint8, with their classes: those for training, those that the rate is chosen on, and those of the test.

    Args:
        images: the data set.
        count: number of its training images that are used. The last tenth of them is for the choice of the rate.
    """

    def __init__(self, images: cifar.Images, count: int):
        x, y = images.x_train[:count], images.y_train[:count]
        last = len(x) - len(x) // 10
        self.train, self.choice = (x[:last], y[:last]), (x[last:], y[last:])
        self.test = images.x_test, images.y_test


class Work:
    """The runs of one network with one kind of layers, and a JSON file of their results."""

    def __init__(self, folder: Path, recipe: Recipe, model: str, kind: str, data: Data, seeds: int, say):
        self.recipe, self.model, self.kind, self.data, self.seeds, self.say = recipe, model, kind, data, seeds, say
        self.results = Results(folder / f"{model}-{kind.replace(',', '').replace(' ', '_')}.json", asdict(recipe))
        self.network = cache(partial(network, model, recipe))

    def run(self, rate: float, seed: int) -> dict:
        """Train a network unless it has been done.

        Returns:
            Its accuracies on the test images and on those of the choice, from 0 to 1, its loss in each epoch, and its number
            of weights.
        """

        def train():
            model = self.network().untrained(self.kind, seed)
            losses = self.train(model, rate, seed)
            accuracy, choice = (self.accuracy(model, *part) for part in (self.data.test, self.data.choice))
            self.say(f"{self.model}, {self.kind}, rate {rate:g}, seed {seed}: {accuracy:.4f}, loss {losses[-1]:.3f}")
            return {"accuracy": accuracy, "choice": choice, "losses": losses, "weights": weights_of(model)}

        return self.results.once((self.model, self.kind, f"rate {rate:g}", f"seed {seed}"), train)

    def train(self, model: keras.Model, rate: float, seed: int) -> list[float]:
        """Train a network, and return its loss in each epoch."""
        epochs = self.recipe.epochs[self.model]
        batches = Crops(*self.data.train, self.recipe.batch[self.model], seed)
        steps = epochs * len(batches)
        rise = max(1, round(RISE * steps))
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - rise, warmup_target=1.0, warmup_steps=rise)
        model.compile(PeakedAdam(schedule, rate), "sparse_categorical_crossentropy")
        pruned = [layer for layer in model.layers if isinstance(layer, PrunedDense)]
        every = max(1, steps // PRUNINGS)
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start(epoch))]
        callbacks += [MagnitudePruning(pruned, self.network().kept, steps, every)] if pruned else []
        return model.fit(batches, epochs=epochs, verbose=0, callbacks=callbacks).history["loss"]

    def accuracy(self, model: keras.Model, images: np.ndarray, classes: np.ndarray) -> float:
        """Return the part of the images that a network classifies correctly."""
        return float(np.mean(model.predict(images, 500, verbose=0).argmax(-1) == classes))

    def best_rate(self) -> float:
        """Return the learning rate that is best with all seeds, on the images of the choice."""
        first = self.run(climb(RATES, START, lambda rate: self.run(rate, 0)["choice"], NEAR), 0)["choice"]
        near = [rate for rate in RATES if self.has(rate) and self.run(rate, 0)["choice"] > first - NEAR]
        return max(near, key=lambda rate: np.mean([self.run(rate, seed)["choice"] for seed in range(self.seeds)]))

    def has(self, rate: float) -> bool:
        """Return whether a network was trained with a learning rate."""
        return self.results.has((self.model, self.kind, f"rate {rate:g}", "seed 0"))

    def all_seeds(self) -> list[dict]:
        """Return the runs of all seeds at the best rate."""
        rate = self.best_rate()
        return [self.run(rate, seed) for seed in range(self.seeds)]


def network(name: str, recipe: Recipe) -> Network:
    """Return a network of `wide_models.py` in the sizes of a recipe."""
    others = {argument: value for argument, value in recipe.sizes[name].items() if argument != "width"}
    return Network(partial(wide_models.MODELS[name], **others), recipe.sizes[name]["width"], recipe.equal_latency.get(name))


def table(works: list[Work]) -> Table:
    """Return a table of all kinds: weights, mean and range of the accuracy on the test images, and the rate."""
    shown = Table("network", "wide layers", "weights", "accuracy", "rate", title=works[0].results.tree["machine"])
    for work in works:
        runs = work.all_seeds()
        values = [run["accuracy"] for run in runs]
        accuracy = f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"
        shown.add_row(work.model, work.kind, f"{runs[0]['weights']:,}", accuracy, f"{work.best_rate():g}")
    return shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with CIFAR-10. Default: it is downloaded.")
@click.option("--recipe", default="gpu", show_default=True, type=click.Choice(list(RECIPES)))
@click.option("--model", "models", multiple=True, type=click.Choice(list(wide_models.MODELS)), help="Repeatable. Default: all.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
def main(folder, data, recipe, models, kinds, seeds):
    console = Console(width=150)
    try:
        images = cifar.load_sample() if recipe == "quick" else cifar.load("cifar10", data)
        images = Data(images, RECIPES[recipe].images)
        works = [
            Work(folder, RECIPES[recipe], model, kind, images, seeds, partial(console.print, highlight=False))
            for model in models or wide_models.MODELS
            for kind in kinds or RECIPES[recipe].kinds(model)
        ]
        for work in works:
            work.all_seeds()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    console.print(table(works))


if __name__ == "__main__":
    main()
