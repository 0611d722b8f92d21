"""The demonstration: a dense network and its butterfly twin on handwriting, from training to measured .tflite files."""

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keras_butterfly import Butterfly

from . import files
from .convert import to_tflite
from .model import TFLiteModel
from .report import Comparison, compare
from .verify import compare_outputs

WIDTH = 1024
FILES = ("dense.tflite", "butterfly.tflite", "report.json", "report.png")
KINDS = ("dense", "butterfly")
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Data:
    """Flattened images in 0 .. 1, float32 (examples, features), and integer labels (examples,) of 10 classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What one network came to.

    Attributes:
        accuracy: of the .tflite on the test data, 0 .. 1.
        weights: trainable values of the Keras model.
        max_error: largest difference of any .tflite output to Keras, on the test data.
        losses: training loss per epoch.
    """

    accuracy: float
    weights: int
    max_error: float
    losses: list[float]


def load(dataset: str) -> Data:
    """The data set "digits" (1,797 real 8 x 8 images from scikit-learn, a quarter for testing), "mnist" or "fashion_mnist"."""
    if dataset == "digits":
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise ValueError("The digits data needs scikit-learn: pip install 'keras-butterfly[examples]'") from error
        x, y = load_digits(return_X_y=True)
        x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=0.25, stratify=y, random_state=0)
    else:
        try:
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, dataset).load_data()
        except Exception as error:  # Keras raises a plain Exception when a download fails
            raise ValueError(f"{dataset} could not be loaded: {error}. Go online, or use --dataset digits.") from error
        x_train, x_test = x_train / 255, x_test / 255
    flat = [x.reshape(len(x), -1).astype("float32") for x in (x_train, x_test)]
    return Data(flat[0], y_train, flat[1], y_test)


def build(kind: str, features: int, seed: int) -> keras.Model:
    """Two hidden ReLU layers of width 1024 and a softmax over 10 classes; hidden layers "dense" or "butterfly"."""

    def hidden(index: int):
        if kind == "dense":
            return keras.layers.Dense(WIDTH, activation="relu", name=f"hidden_{index}")
        return Butterfly(WIDTH, activation="relu", use_bias=True, seed=seed + index, name=f"hidden_{index}")

    return keras.Sequential(
        [
            keras.Input((features,), name="image"),
            hidden(1),
            hidden(2),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ],
        name=kind,
    )


def train(model: keras.Model, data: Data, epochs: int, advance=lambda: None) -> list[float]:
    """Adam with cosine decay, batches of 64, or 128 of large data. Calls `advance` after each epoch; returns the losses."""
    batch = 64 if len(data.x_train) < 10_000 else 128
    steps = epochs * -(-len(data.x_train) // batch)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: advance())
    history = model.fit(data.x_train, data.y_train, batch, epochs, verbose=0, callbacks=[each_epoch])
    return history.history["loss"]


def evaluate(model: keras.Model, exported: TFLiteModel, data: Data, losses: list[float]) -> Outcome:
    """Runs the exported model on all test data."""
    outputs = exported.predict(data.x_test)
    parity = compare_outputs([model.predict(data.x_test, verbose=0)], [outputs])
    accuracy = float(np.mean(outputs.argmax(-1) == data.y_test))
    return Outcome(accuracy, model.count_params(), parity.max_error, losses)


def run(dataset: str, output: Path, *, epochs: int | None = None, seed: int = 0, overwrite: bool = False) -> None:
    """Trains, exports, compares, prints one table, writes `FILES` to the folder `output`.

    Raises:
        ValueError: before any work, if `output` is a file, or holds one of `FILES` and `overwrite` is False.
    """
    console = Console()
    _check_plots()
    _check_output(output, overwrite)
    keras.utils.set_random_seed(seed)
    data = load(dataset)
    epochs = epochs or (40 if dataset == "digits" else 5)
    console.print(f"{dataset}: {len(data.x_train):,} training and {len(data.x_test):,} test images, {epochs} epochs")
    exported: dict[str, TFLiteModel] = {}
    outcomes: dict[str, Outcome] = {}
    bars = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    with Progress(*bars, console=console, disable=not console.is_terminal) as progress:
        for kind in KINDS:
            task = progress.add_task(f"train {kind}", total=epochs)
            model = build(kind, data.x_train.shape[1], seed)
            losses = train(model, data, epochs, lambda task=task: progress.advance(task))
            exported[kind] = to_tflite(model, progress=False)  # these bars are on the terminal already
            outcomes[kind] = evaluate(model, exported[kind], data, losses)
            console.print(f"{kind}: trained, exported, equal to Keras within {outcomes[kind].max_error:.1e}")
        runs = 200
        task = progress.add_task("measure latency", total=runs)
        comparison = compare(exported, runs=runs, progress=lambda done: progress.update(task, completed=done))
    console.print(table(outcomes, comparison))
    for path in _write(output, dataset, exported, outcomes, comparison, overwrite):
        console.print(f"wrote {path}")


def table(outcomes: dict[str, Outcome], comparison: Comparison) -> Table:
    """The one table of the demonstration."""
    facts = comparison.latencies[comparison.baseline]
    conditions = f"float32, batch 1, threads {facts.threads}, {facts.runtime}, {facts.machine}"
    title = f"Test accuracy and latency of the exported models\n{conditions}"
    result = Table(title=title, title_justify="left")
    result.add_column("hidden", no_wrap=True)
    for column in ("accuracy", "weights", "KiB", "median us", "speed-up", "max error"):
        result.add_column(column, justify="right", no_wrap=True)
    for kind, outcome in outcomes.items():
        result.add_row(
            kind,
            f"{outcome.accuracy:.2%}",
            f"{outcome.weights:,}",
            f"{comparison.sizes[kind] / 1024:,.0f}",
            f"{comparison.latencies[kind].median * 1e6:,.1f}",
            f"{comparison.speedup(kind):.1f}x",
            f"{outcome.max_error:.1e}",
        )
    return result


def figure(outcomes: dict[str, Outcome], comparison: Comparison):
    """Training loss, latency and file size, as a matplotlib Figure."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(13, 3.2), layout="constrained")
    loss_axes, time_axes, size_axes = picture.subplots(1, 3)
    for kind, outcome in outcomes.items():
        epochs = range(1, len(outcome.losses) + 1)
        loss_axes.plot(epochs, outcome.losses, label=f"{kind}, test accuracy {outcome.accuracy:.2%}")
    loss_axes.set(yscale="log", xlabel="epoch", ylabel="training loss")
    loss_axes.legend()
    comparison.draw(time_axes, size_axes)
    return picture


def _check_plots() -> None:
    if find_spec("matplotlib") is None:
        raise ValueError("The report's picture needs matplotlib: pip install 'keras-butterfly[examples]'")


def _check_output(output: Path, overwrite: bool) -> None:
    """Makes the folder, so that one that cannot be made or written to is found before the work, not after."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"Expected an output folder. Received a file: '{output}'. Choose another --output.")
    existing = [name for name in FILES if (output / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"'{output}' already holds {', '.join(existing)}. Choose another --output, or pass --overwrite.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"Expected an output folder that can be made. Received: '{output}': {error.strerror}.") from error
    for name in FILES:
        files.check_writable(output / name, overwrite=True)


def _write(output: Path, dataset: str, exported, outcomes, comparison: Comparison, overwrite: bool) -> list[Path]:
    report = {
        "dataset": dataset,
        "outcomes": {kind: asdict(outcome) for kind, outcome in outcomes.items()},
        "plans": {
            kind: [{"layer": plan.layer, "lowering": str(plan.lowering)} for plan in model.plan]
            for kind, model in exported.items()
        },
        "comparison": comparison.to_dict(),
    }
    models = [exported[kind].save(output / f"{kind}.tflite", overwrite) for kind in exported]
    picture = figure(outcomes, comparison)
    return [
        *models,
        files.write(output / "report.json", json.dumps(report, indent=2).encode(), overwrite),
        files.write(output / "report.png", lambda temporary: picture.savefig(temporary, dpi=150), overwrite),
    ]
