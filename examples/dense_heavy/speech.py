"""Spoken digits from the raw waveform: which trainable front end is worth its weights?

    python examples/dense_heavy/speech.py FOLDER [--data DATA] [--split NAME ...] [--kind NAME ...] [--seeds 3] [--export]
        [--quick]

The network: frames of 256 samples that overlap by half, the front end, squares, weighted sums of them in 32 bands, logarithms,
two convolutions over time, and a dense layer of ten classes. `front_ends.py` has the kinds of front ends.

Training: Adam with cosine decay from 2e-3. The front end and the bands, which start near what they should be, have a smaller
learning rate: every kind its own best one of one grid.

Splits: "speakers" tests on people whom the network has never heard: seed 0 holds out the first two of six speakers, seed 1 the
next two, and seed 2 the last two. "official" is that of the data set: of each speaker the recordings 0 to 4 of each digit are
for testing. The rates are chosen on "speakers", by the mean accuracy of all seeds.

`--export` exports the networks of seed 0 in float32, "dynamic" and "int8", and measures the files in turn. It needs the
TensorFlow backend; the training runs on any.

Output: every run is kept in FOLDER/speech.json, and the networks in FOLDER/speech. If the program is interrupted, start it
again to continue. `python examples/dense_heavy/dense_heavy_page.py` makes the tables and plots of docs/dense-heavy.md.
"""

import sys
from functools import cache, partial
from math import ceil
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import front_ends
import speech_data
from pruning import MagnitudePruning, PrunedDense
from results import Results
from search import climb

from keras_butterfly import export
from keras_butterfly.export import files

LENGTH = 4096  # samples, 0.51 s
HOP = front_ends.FRAME // 2
FLOOR = 0.01  # added to the squares before the logarithm; a waveform has a mean square of 1
RATE = 2e-3
# Learning rates of the front end and of the bands.
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
START = 1e-4
SLOW = ("front_end/", "bands/")
BATCH = 32
SPEAKERS, OFFICIAL = "speakers", "official"
HELD_OUT = 2  # speakers
PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
CALIBRATION = 512  # examples


class TwoRates(keras.optimizers.Adam):
    """An optimizer like Adam that multiplies the learning rate of the weights of the front end and of the bands by `factor`."""

    def __init__(self, learning_rate, factor: float):
        super().__init__(learning_rate)
        self.factor = factor
        self.factors: list[float] = []

    def build(self, variables):
        super().build(variables)
        self.factors = [self.factor if variable.path.startswith(SLOW) else 1.0 for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self.factors[self._get_variable_index(variable)])


def network(front_end: front_ends.FrontEnd) -> keras.Model:
    """Return an untrained network from waveforms (batch, LENGTH) to the probabilities of ten digits."""
    trained, (outputs, bands) = front_end.layer.trainable, front_end.bands.shape
    gather = keras.layers.Dense(bands, use_bias=False, kernel_constraint="non_neg", trainable=trained, name="bands")
    gather.build((None, outputs))
    gather.kernel.assign(front_end.bands)
    waveform = keras.Input((LENGTH,), name="waveform")
    halves = keras.layers.Reshape((LENGTH // HOP, HOP))(waveform)
    pairs = [keras.layers.Cropping1D(crop)(halves) for crop in ((0, 1), (1, 0))]
    spectrum = front_end.layer(keras.layers.Concatenate(name="frames")(pairs))
    x = keras.layers.BatchNormalization()(keras.ops.log(gather(keras.ops.square(spectrum)) + FLOOR))
    for _ in range(2):
        x = keras.layers.Conv1D(64, 5, strides=2, activation="relu")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling1D()(x))
    return keras.Model(waveform, keras.layers.Dense(10, activation="softmax", name="digit")(x))


def frames(waves: np.ndarray) -> np.ndarray:
    """Return all frames of some waveforms, (frames, FRAME)."""
    return np.lib.stride_tricks.sliding_window_view(waves, front_ends.FRAME, axis=1)[:, ::HOP].reshape(-1, front_ends.FRAME)


class Task:
    """The recordings for training and for testing, and how long the networks are trained."""

    def __init__(self, recordings: speech_data.Recordings, split: str, seed: int, epochs: int, copies: int):
        held_out = HELD_OUT * (seed % 3) + np.arange(HELD_OUT)
        test = recordings.index < 5 if split == OFFICIAL else np.isin(recordings.speaker, held_out)
        clips, rng = recordings.clips, np.random.default_rng(seed)
        training = [clips[place] for place in np.flatnonzero(~test)]
        self.x_train = np.concatenate([speech_data.waveforms(training, LENGTH, rng) for _ in range(copies)])
        self.y_train = np.tile(recordings.digit[~test], copies)
        self.x_test = speech_data.waveforms([clips[place] for place in np.flatnonzero(test)], LENGTH)
        self.y_test = recordings.digit[test]
        self.epochs, self.steps = epochs, epochs * ceil(len(self.x_train) / BATCH)

    def untrained(self, kind: str, seed: int) -> keras.Model:
        """Return an untrained network with a front end of the given kind."""
        keras.utils.set_random_seed(seed)
        outputs = frames(self.x_train[: len(self.x_train) // 8]) @ front_ends.transform()
        return network(front_ends.KINDS[kind](outputs))

    def train(self, model: keras.Model, rate: float) -> list[float]:
        """Train a network, its front end at the learning rate `rate`, and return its loss after each epoch."""
        pruned = [layer for layer in model.layers if isinstance(layer, PrunedDense)]
        pruning = [MagnitudePruning(pruned, front_ends.butterfly_weights(), self.steps)] if pruned else []
        optimizer = TwoRates(keras.optimizers.schedules.CosineDecay(RATE, self.steps), rate / RATE)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=True)
        return model.fit(self.x_train, self.y_train, BATCH, self.epochs, verbose=0, callbacks=pruning).history["loss"]

    def accuracy(self, predict) -> float:
        """Return the part of the test recordings that `predict`, a function of waveforms, classifies correctly."""
        return float(np.mean(np.argmax(predict(self.x_test), -1) == self.y_test))


class Work:
    """All runs of the experiment, and a JSON file of their results."""

    def __init__(self, folder: Path, recordings: speech_data.Recordings, seeds: int, epochs: int, copies: int, say):
        self.folder, self.seeds, self.say = folder / "speech", seeds, say
        settings = {"epochs": epochs, "copies": copies, "batch": BATCH, "recordings": len(recordings.clips)}
        self.results = Results(folder / "speech.json", settings)
        self.task = cache(partial(Task, recordings, epochs=epochs, copies=copies))

    def run(self, split: str, kind: str, rate: float, seed: int) -> dict:
        """Train a network unless it has been done, and return its test accuracy, from 0 to 1, its losses and its weights."""

        def train():
            task = self.task(split, seed)
            model = task.untrained(kind, seed)
            before = task.accuracy(partial(model.predict, batch_size=500, verbose=0))
            losses = task.train(model, rate)
            self.folder.mkdir(exist_ok=True)
            files.write(self.path(split, kind, rate, seed), model.save, overwrite=True)
            accuracy = task.accuracy(partial(model.predict, batch_size=500, verbose=0))
            self.say(f"{split}, {kind}, rate {rate:g}, seed {seed}: {accuracy:.4f}, loss {losses[-1]:.3f}")
            weights = {"front end": weights_of(model.get_layer("front_end")), "others": others(model)}
            return {"accuracy": accuracy, "accuracy before": before, "losses": losses, "weights": weights}

        return self.results.once((split, kind, f"rate {rate:g}", f"seed {seed}"), train)

    def path(self, split: str, kind: str, rate: float, seed: int) -> Path:
        """Return the path of a trained network."""
        return self.folder / f"{split}-{kind.replace(', ', '_').replace(' ', '_')}-{rate:g}-{seed}.keras"

    def mean(self, kind: str, rate: float) -> float:
        """Return the mean accuracy of all seeds on new speakers."""
        return float(np.mean([self.run(SPEAKERS, kind, rate, seed)["accuracy"] for seed in range(self.seeds)]))

    def best_rate(self, kind: str) -> float:
        """Return the best learning rate of a kind of front end. A fixed one has none."""
        if kind == front_ends.FIXED:
            return 0.0
        return climb(RATES, START, partial(self.mean, kind))

    def export(self, kinds: list[str], split: str = SPEAKERS) -> None:
        """Export the network of seed 0 of each kind, and measure all files of one precision in turn."""
        task = self.task(split, 0)
        for precision, quantize in PRECISIONS.items():
            exported = {}
            for kind in kinds:
                path = self.path(split, kind, self.best_rate(kind), 0)
                model = keras.models.load_model(path, {"PrunedDense": PrunedDense}, compile=False)
                data = task.x_train[:CALIBRATION]
                exported[kind] = export.to_tflite(model, quantize=quantize, representative_data=data, tolerance=1.0)
            latencies = export.compare(exported, runs=200).latencies
            for kind, file in exported.items():
                figures = {"bytes": file.size_bytes, "seconds": latencies[kind].median, "accuracy": task.accuracy(file.predict)}
                figures["lowerings"] = [str(plan.lowering) for plan in file.plan]
                self.results.once(("exports", precision, kind), partial(dict, figures))


def weights_of(layer: keras.layers.Layer) -> int:
    """Return the number of weights of a front end, of a pruned one those that are left."""
    if isinstance(layer, PrunedDense):
        return int(np.sum(keras.ops.convert_to_numpy(layer.mask)))
    return layer.count_params()


def others(model: keras.Model) -> int:
    """Return the number of weights outside the front end."""
    return model.count_params() - model.get_layer("front_end").count_params()


def table(work: Work, splits, kinds) -> Table:
    """Return a table of the kinds: weights of the front end, and for each split the mean accuracy, its range and the rate."""
    shown = Table("front end", "weights", *splits, title=f"{work.seeds} seeds, {work.results.tree['machine']}")
    for kind in kinds:
        rate, cells = work.best_rate(kind), []
        for split in splits:
            runs = [work.run(split, kind, rate, seed) for seed in range(work.seeds)]
            values = [run["accuracy"] for run in runs]
            cells.append(f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}) at {rate:g}")
        shown.add_row(kind, f"{runs[0]['weights']['front end']:,}", *cells)
    return shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the recordings. Default: they are downloaded.")
@click.option("--split", "splits", multiple=True, type=click.Choice([SPEAKERS, OFFICIAL]), help="Repeatable. Default: both.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(front_ends.KINDS)), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--export", "exports", is_flag=True, help="Also export the networks and measure the files.")
@click.option("--quick", is_flag=True, help="The sample of the recordings, new speakers, two epochs at one rate, one seed.")
def main(folder, data, splits, kinds, seeds, exports, quick):
    console = Console(width=150)
    kinds, splits = list(kinds or front_ends.KINDS), splits or (SPEAKERS, OFFICIAL)
    epochs, copies = 6, 4
    if quick:
        data, splits, seeds, epochs, copies = data or "sample", (SPEAKERS,), 1, 2, 2
    try:
        work = Work(folder, speech_data.load(data), seeds, epochs, copies, partial(console.print, highlight=False))
        if quick:
            work.best_rate = lambda kind: START  # type: ignore[method-assign]
        for kind in kinds:
            for split in splits:
                for seed in range(seeds):
                    work.run(split, kind, work.best_rate(kind), seed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if exports:
        work.export(kinds)
    console.print(table(work, splits, kinds))


if __name__ == "__main__":
    main()
