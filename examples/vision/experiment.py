"""Section 5.1 of the paper, vision: image classifiers whose final dense layer is replaced, trained from scratch.

    python examples/vision/experiment.py FOLDER [--data DATA] [--model NAME ...] [--recipe cpu] [--kind NAME ...] [--seeds 3]
        [--rate RATE ...] [--measure] [--quick]

On a GPU, PreActResNet18 with all kinds of final layers and three seeds is trained by

    KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=/tmp/jax_cache python examples/vision/experiment.py FOLDER --data DATA \
        --recipe gpu

Training needs no TensorFlow. DATA is a folder that holds cifar10/cifar10_residual.npz, see cifar.py. Without it, Keras
downloads the images. SE-ResNet152 is trained on CIFAR-100, which is always downloaded.

Kinds of final layers: see `classifier` in classifier.py. Recipes: "paper" is that of the paper, "gpu" has fewer epochs
and larger rates, "cpu" a narrower network and fewer images. See `RECIPES`.

Training: the last tenth of the training images is held out. The best rate of a kind is the one with the best accuracy on the
held-out images after the last epoch, with seed 0. The search begins in the middle of the rates and ends in each direction at a
rate that is no better. The other seeds are trained at the best rate. The accuracy on the test images after the last epoch is
reported.

`--measure` exports the classifiers of seed 0 and measures their files: size, latency, and accuracy on the first test images.
Classifiers that have not been trained get no accuracy. It needs the TensorFlow backend.
`--quick` takes a small sample of CIFAR-10, which is part of this repository, and a tiny network.

Output: every run is kept in FOLDER/MODEL-RECIPE.json, and its classifier in FOLDER/MODEL-RECIPE. If the program is interrupted,
start it again: it goes on after the last backup. vision_page.py makes docs/vision.md from the JSON files.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import cifar
from augmentation import Crops
from classifier import (
    DENSE,
    KINDS,
    NETWORKS,
    PAPER,
    PRUNED,
    RECIPES,
    Recipe,
    classifier,
    final_weights,
    load_classifier,
    loss_of_logits,
    optimizer_of,
    weights_of,
)
from convolution import FINAL
from pruning import MagnitudePruning
from results import Results, machine
from runs import Runs

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
# Training images for calibration, and test images on which files are scored.
CALIBRATION, SCORED = 256, 1000
# One training image in ten is held out.
HELD_OUT = 10
PREDICTED = 500


class Work(Runs):
    """The runs of one network with one recipe."""

    def __init__(
        self,
        folder: Path,
        network: str,
        images: cifar.Images,
        origin: str,
        recipe: str,
        rates: tuple[float, ...],
        say: Callable[[str], None],
    ):
        self.network, self.recipe, self.name = network, RECIPES[recipe], f"{network}-{recipe}"
        self.classes = cifar.CLASSES[NETWORKS[network].data]
        self.training, self.splits = split(images, self.recipe)
        settings = {"model": network, "recipe": recipe, "data": origin, "loss": "of logits", **facts_of(self.recipe)}
        results = Results(folder / f"{self.name}.json", settings)
        super().__init__(folder / self.name, results, tuple(sorted(rates)) or self.recipe.rates, say)
        self.results.once(
            ("images",), lambda: {part: len(y) for part, (_, y) in (("train", self.training), *self.splits.items())}
        )

    def train(self, kind: str, rate: float, seed: int) -> tuple[keras.Model, dict]:
        """Train a classifier. Return it, and what it reached after each epoch and on the test images."""
        model, crops = self.compiled(kind, rate, seed), Crops(*self.training, self.recipe.batch, seed)
        epochs = self.fit(model, crops, self.backup(kind, rate, seed), self.epochs(kind, rate, seed))
        reached = {"test": self.accuracy(predicted(model), "test"), "weights": weights_of(model)}
        reached |= {"final weights": final_weights(model), "steps": len(crops)}
        return model, reached | {name: [epoch[name] for epoch in epochs] for name in epochs[0]}

    def untrained(self, kind: str, seed: int) -> keras.Model:
        """Return an untrained classifier."""
        return classifier(kind, self.network, self.recipe, seed, self.classes)

    def compiled(self, kind: str, rate: float, seed: int) -> keras.Model:
        """Return an untrained classifier that is ready for training."""
        model = self.untrained(kind, seed)
        # On TensorFlow, XLA takes long to compile convolutions and does not make them faster.
        jit = False if keras.backend.backend() == "tensorflow" else "auto"
        model.compile(optimizer_of(self.recipe, rate, self.steps), loss_of_logits(), jit_compile=jit)
        return model

    @property
    def steps(self) -> int:
        """Number of steps of a training."""
        return self.recipe.epochs * (len(self.training[0]) // self.recipe.batch)

    def fit(self, model: keras.Model, crops: Crops, folder: Path, kept: Results) -> list[dict[str, float]]:
        """Train `model`, or go on where its training was interrupted. Return loss, accuracy and duration of each epoch.

        Durations are in seconds, by the clock ("seconds") and by the processors ("processor seconds"), without the accuracy on
        the held-out images. The first epoch includes the compilation. `folder` and `kept` keep the state of the training.
        """
        progress = Progress(crops, kept, lambda: self.accuracy(predicted(model), "dev"))
        backup = Backup(str(folder), self.recipe.backup)
        callbacks = [*self.pruning(model), progress, backup]
        model.fit(crops, epochs=self.recipe.epochs, shuffle=False, callbacks=callbacks, verbose=0)
        kept.path.unlink()
        return [kept.tree[f"{epoch}"] for epoch in range(self.recipe.epochs)]

    def pruning(self, model: keras.Model) -> list[keras.callbacks.Callback]:
        """Return the pruning of a classifier whose final layer is pruned. It keeps as many weights as the paper's has."""
        layer = model.get_layer(FINAL)
        if not hasattr(layer, "mask"):
            return []
        kept = final_weights(self.untrained(PAPER, 0)) - self.classes
        return [MagnitudePruning([layer], min(kept, int(np.prod(layer.kernel.shape))), self.steps, max(1, self.steps // 20))]

    def accuracy(self, predict: Callable[[np.ndarray], np.ndarray], part: str, most: int | None = None) -> float:
        """Return the part of the images of "dev" or "test" whose class is predicted right.

        Args:
            predict: function from images, float32, to logits of the classes.
            part: "dev" or "test".
            most: number of images, the first ones. None: all.
        """
        x, y = (each[:most] for each in self.splits[part])
        starts = range(0, len(x), PREDICTED)
        found = [np.argmax(predict(x[start : start + PREDICTED].astype("float32")), -1) for start in starts]
        return float(np.mean(np.concatenate(found) == y))

    def measure(self, kinds: list[str], runs: int = 100) -> None:
        """Export the classifier of seed 0 of each kind, and measure the files of one precision in turn.

        A kind that has not been trained is exported untrained, because the values of the weights change neither size nor
        latency. It gets no accuracy.
        """
        self.results.once(("exports on",), machine)
        models = {kind: self.exported_classifier(kind) for kind in kinds}
        for precision, quantize in PRECISIONS.items():
            self.results.once(("exports", precision), partial(self.files_of, models, quantize, runs))
            self.say(f"{self.name}, {precision}: measured")

    def exported_classifier(self, kind: str) -> keras.Model:
        """Return the classifier of seed 0 of a kind: trained at its best rate, if it has been trained."""
        rate = self.known_rate(kind)
        return self.untrained(kind, 0) if rate is None else load_classifier(self.path(kind, rate, 0))

    def files_of(self, models: dict[str, keras.Model], quantize: str | None, runs: int) -> dict[str, dict]:
        """Return size, latency, accuracy and operators of the files of some classifiers."""
        from keras_butterfly import export

        calibration, exported = self.training[0][:CALIBRATION].astype("float32"), {}
        for kind, model in models.items():
            settings = {"quantize": quantize, "representative_data": calibration, "progress": False}
            if self.known_rate(kind) is None:
                settings["tolerance"] = 1.0  # Before the training, rounding is amplified from layer to layer.
            try:
                exported[kind] = export.to_tflite(model, **settings)
            except export.ParityError as error:
                # Left out of the results: a file that disagrees with Keras is not returned.
                self.say(f"{self.name}, {kind}, {quantize or 'float32'}: refused. {error}")
        if not exported:
            return {}
        latencies = export.compare(exported, runs=runs, progress=False).latencies
        return {kind: self.figures(kind, file, latencies[kind].median) for kind, file in exported.items()}

    def figures(self, kind: str, file, seconds: float) -> dict:
        """Return the figures of one file. Those of trained classifiers have an accuracy."""
        found = {"bytes": file.size_bytes, "seconds": seconds, "operators": len(file.operators)}
        found["difference"] = max(output.relative_error for output in file.parity.outputs)
        if self.known_rate(kind) is not None:
            found["accuracy"] = self.accuracy(file.predict, "test", SCORED)
            found["images"] = min(SCORED, len(self.splits["test"][0]))
        return found


class Progress(keras.callbacks.Callback):
    """A callback that starts every epoch in its own order, and keeps what was reached after it.

    Args:
        crops: the training images.
        kept: results of the epochs, by their numbers.
        accuracy: function that returns the accuracy on the held-out images.
    """

    def __init__(self, crops: Crops, kept: Results, accuracy: Callable[[], float]):
        super().__init__()
        self.crops, self.kept, self.accuracy = crops, kept, accuracy

    def on_epoch_begin(self, epoch, logs=None):
        self.crops.start(epoch)
        restart_dropout(self.model, self.crops.seed, epoch)
        self.began = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        loss = float(logs["loss"])  # waits for the last step
        ended = time.perf_counter(), time.process_time()
        durations = dict(zip(("seconds", "processor seconds"), np.subtract(ended, self.began).tolist(), strict=True))
        # An epoch that was trained again after an interruption replaces the one that was lost.
        self.kept.tree.pop(f"{epoch}", None)
        self.kept.once((f"{epoch}",), lambda: {"loss": loss, "dev": self.accuracy(), **durations})


class Backup(keras.callbacks.BackupAndRestore):
    """A callback that saves the state of a training after every few epochs, and goes on from it.

    Args:
        folder: folder of the backup.
        every: number of epochs between two backups.
    """

    # It does nothing after a batch. Keras, which cannot see that, would wait for the device after every batch.
    async_safe = True

    def __init__(self, folder: str, every: int):
        super().__init__(folder, double_checkpoint=True)
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            super().on_epoch_end(epoch, logs)


def restart_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Let the random numbers of dropout depend on the seed and the epoch alone. A backup does not hold their state."""
    rng = np.random.default_rng((seed, epoch))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            state = layer.seed_generator.state
            state.assign(rng.integers(2**31, size=2).astype(keras.backend.standardize_dtype(state.dtype)))


def predicted(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a batch of images to the logits of their classes."""
    return lambda images: keras.ops.convert_to_numpy(model.predict_on_batch(images))


def split(images: cifar.Images, recipe: Recipe) -> tuple[tuple, dict[str, tuple]]:
    """Return images and classes for training, and those of "dev", which are held out, and "test"."""
    held_out = len(images.x_train) // HELD_OUT
    training = images.x_train[:-held_out][: recipe.images], images.y_train[:-held_out][: recipe.images]
    dev = images.x_train[-held_out:], images.y_train[-held_out:]
    return training, {"dev": dev, "test": (images.x_test, images.y_test)}


def facts_of(recipe: Recipe) -> dict:
    """Return a recipe as a dict, without its rates and how often it is backed up, which change no run."""
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__ if name not in ("rates", "backup")}


def images_of(network: str, data: Path | None, quick: bool) -> tuple[cifar.Images, str]:
    """Return the images of a network, and in words where they are from."""
    if quick and data is None and NETWORKS[network].data == "cifar10":
        return cifar.load_sample(), "the sample in examples/data"
    return cifar.load(NETWORKS[network].data, data), NETWORKS[network].data


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="See cifar.py.")
@click.option(
    "--model", "networks", multiple=True, type=click.Choice(list(NETWORKS)), help="Repeatable. Default: preact_resnet18."
)
@click.option("--recipe", default="cpu", show_default=True, type=click.Choice(list(RECIPES)))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--rate", "rates", multiple=True, type=click.FloatRange(min=0, min_open=True), help="Repeatable. Default: the recipe's."
)
@click.option("--measure", is_flag=True, help="Export the classifiers and measure their files, instead of training.")
@click.option("--quick", is_flag=True, help="The sample of the data, a tiny network, one seed.")
def main(folder, data, networks, recipe, kinds, seeds, rates, measure, quick):
    console = Console(width=150)
    if quick:
        recipe, seeds, kinds = "quick", 1, kinds or (DENSE, PAPER, PRUNED)
    try:
        for network in networks or ("preact_resnet18",):
            images, origin = images_of(network, data, quick)
            work = Work(folder, network, images, origin, recipe, rates, partial(console.print, highlight=False))
            chosen = list(kinds or KINDS)
            if measure:
                work.measure(chosen)
            else:
                for kind in chosen:
                    work.all_seeds(kind, seeds)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
