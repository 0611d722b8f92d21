"""The demonstration: a dense, a butterfly and a narrow dense network, from training to measured .tflite files."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from keras_butterfly_cli.datasets import Data, load
from rich.console import Console

from keras_butterfly import Butterfly
from keras_butterfly.export import files
from keras_butterfly.export.convert import to_tflite
from keras_butterfly.export.measurement import plots
from keras_butterfly.export.measurement.comparison import Comparison, compare
from keras_butterfly.export.model import TFLiteModel
from keras_butterfly.export.tflite.parity import compare_outputs
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable

WIDTH = 1024
CLASSES = 10
# Adam's initial rates. Each is the best of 5e-4, 1e-3, 2e-3, 5e-3, 1e-2 for its network on the default data set: the one with
# the highest mean accuracy (3 seeds, dense 2) on 10,000 held-out images, those after the sample's in the official training set
# of Fashion-MNIST. The test images had no part in the choice.
LEARNING_RATES = {"dense": 1e-3, "butterfly": 2e-3, "narrow dense": 5e-3}
EPOCHS = {"fashion_mnist_sample": 12, "digits": 40, "mnist": 5, "fashion_mnist": 5}
RUNS = 200


def _model_name(kind: str) -> str:
    return kind.replace(" ", "_")


FILES = (*(f"{_model_name(kind)}.tflite" for kind in LEARNING_RATES), "report.json", "report.png")


@dataclass(frozen=True)
class Outcome:
    """The result of one network.

    Attributes:
        accuracy: of the .tflite on the test images, 0 .. 1.
        standard_error: of the accuracy, 0 .. 1, because the test images are a random sample of limited size.
        width: number of units of each hidden layer.
        weights: number of trainable values of the Keras model.
        learning_rate: the initial one.
        max_error: largest difference of any .tflite output to Keras, on the test images.
        losses: training loss per epoch.
    """

    accuracy: float
    standard_error: float
    width: int
    weights: int
    learning_rate: float
    max_error: float
    losses: list[float]


def build(kind: str, features: int, seed: int = 0) -> keras.Model:
    """Return a network of two hidden ReLU layers and a softmax over 10 classes.

    Args:
        kind: "dense": hidden `Dense(1024)`. "butterfly": hidden `Butterfly(1024)`. "narrow dense": hidden `Dense` layers of
            the width at which the network has as many weights as the butterfly network.
        features: size of an input.
        seed: of Python, NumPy and TensorFlow, which is set here. Initial weights and the order of the training examples
            so do not depend on the networks before.
    """
    hidden = Butterfly if kind == "butterfly" else keras.layers.Dense
    width = narrow_width(features) if kind == "narrow dense" else WIDTH
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((features,), name="image"),
            hidden(width, activation="relu", name="hidden_1"),
            hidden(width, activation="relu", name="hidden_2"),
            keras.layers.Dense(CLASSES, activation="softmax", name="scores"),
        ],
        name=_model_name(kind),
    )


def narrow_width(features: int) -> int:
    """Return the width of hidden layers at which a dense network's number of weights is nearest to the butterfly network's."""
    target = build("butterfly", features).count_params()

    def weights(width: int) -> int:
        return (features + 1) * width + (width + 1) * width + (width + 1) * CLASSES

    return min(range(1, WIDTH), key=lambda width: abs(weights(width) - target))


def train(model: keras.Model, rate: float, data: Data, epochs: int, advance: Callable[[], object]) -> list[float]:
    """Train `model` with Adam and cosine decay, and return the training loss of each epoch.

    A batch has 64 examples, or 128 if there are at least 10,000. `advance` is called after each epoch.
    """
    batch = 64 if len(data.x_train) < 10_000 else 128
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(data.x_train) // batch))
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    each_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: advance())
    return model.fit(data.x_train, data.y_train, batch, epochs, verbose=0, callbacks=[each_epoch]).history["loss"]


def evaluate(model: keras.Model, exported: TFLiteModel, rate: float, data: Data, losses: list[float]) -> Outcome:
    """Run the exported model on all test images and return its accuracy and its difference to Keras."""
    outputs = exported.predict(data.x_test)
    parity = compare_outputs([model.predict(data.x_test, verbose=0)], [outputs])
    accuracy = float(np.mean(outputs.argmax(-1) == data.y_test))
    error = (accuracy * (1 - accuracy) / len(data.y_test)) ** 0.5
    return Outcome(accuracy, error, model.layers[0].units, model.count_params(), rate, parity.max_error, losses)


def run(dataset: str, output: Path, *, epochs: int | None = None, seed: int = 0, overwrite: bool = False) -> None:
    """Train, export and measure the networks, print one table, and write the files to the folder `output`.

    Raises:
        ValueError: before any work, if `output` is a file, or holds a file of an earlier run and `overwrite` is False.
    """
    _check_plots()
    _check_output(output, overwrite)
    data = load(dataset)
    epochs = epochs or EPOCHS[dataset]
    console = Console()
    console.print(f"{dataset}: {len(data.x_train):,} training and {len(data.x_test):,} test images, epochs: {epochs}")
    exported: dict[str, TFLiteModel] = {}
    outcomes: dict[str, Outcome] = {}
    for kind in LEARNING_RATES:
        exported[kind], outcomes[kind] = _demonstrate(kind, data, epochs, seed)
        width, rate, error = outcomes[kind].width, LEARNING_RATES[kind], outcomes[kind].max_error
        console.print(f"{kind}: width {width}, learning rate {rate:g}, largest difference from Keras {error:.1e}")
    comparison = compare(exported, runs=RUNS)
    console.print(table(outcomes, comparison))
    for path in _write(output, dataset, exported, outcomes, comparison, overwrite):
        console.print(f"wrote {path}")


def table(outcomes: dict[str, Outcome], comparison: Comparison) -> TextTable:
    """Return a table of the networks, one a row."""
    facts = comparison.latencies[comparison.baseline]
    conditions = f"float32, batch 1, threads {facts.threads}, {facts.runtime}, {facts.machine}"
    title = f"Test accuracy and latency of the exported models\n{conditions}"
    error = max(outcome.standard_error for outcome in outcomes.values())
    caption = f"One standard error of an accuracy on so many test images is {100 * error:.1f} points."
    result = TextTable(title=title, caption=caption, title_justify="left", caption_justify="left", pad_edge=False)
    result.add_column("network", no_wrap=True)
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


@plots.style()
def figure(outcomes: dict[str, Outcome], comparison: Comparison):
    """Return a matplotlib Figure of training loss, test accuracy, latency and file size, in one color per network."""
    picture, (loss_axes, accuracy_axes, time_axes, size_axes) = plots.panels(4, height=2.3)
    _draw_losses(loss_axes, outcomes)
    _draw_accuracies(accuracy_axes, outcomes)
    comparison.draw(time_axes, size_axes)
    picture.legend(handles=loss_axes.lines, loc="outside upper center", ncols=len(outcomes))
    return picture


def _draw_losses(axes, outcomes: dict[str, Outcome]) -> None:
    for (kind, outcome), marker in zip(outcomes.items(), "osD", strict=True):
        epochs = range(1, len(outcome.losses) + 1)
        axes.plot(epochs, outcome.losses, color=plots.colors(outcomes)[kind], marker=marker, markersize=4, label=kind)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="training loss, nats", ylim=(0, None))


def _draw_accuracies(axes, outcomes: dict[str, Outcome]) -> None:
    for kind in reversed(outcomes):  # the axis runs upwards
        percent, error = 100 * outcomes[kind].accuracy, 100 * outcomes[kind].standard_error
        axes.errorbar(percent, kind, xerr=error, color=plots.colors(outcomes)[kind], marker="o", capsize=3)
        axes.annotate(f"{percent:.2f}", (percent, kind), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="test accuracy and one standard error, %")
    axes.margins(y=0.3)
    axes.grid(visible=False, axis="y")


def _demonstrate(kind: str, data: Data, epochs: int, seed: int) -> tuple[TFLiteModel, Outcome]:
    """Build, train and export the network of one kind, and return the exported model and its figures on the test data."""
    model, rate = build(kind, data.x_train.shape[1], seed), LEARNING_RATES[kind]
    with Progress() as bars, bars.task(f"train {kind}", epochs) as advance:
        losses = train(model, rate, data, epochs, lambda: advance(1))
    exported = to_tflite(model)
    return exported, evaluate(model, exported, rate, data, losses)


def _check_plots() -> None:
    if find_spec("matplotlib") is None:
        raise ValueError("The report's picture needs matplotlib: pip install 'keras-butterfly[examples]'")


def _check_output(output: Path, overwrite: bool) -> None:
    """Make the folder, and check before the work that the files can be written to it."""
    try:
        if os.path.lexists(output) and not output.is_dir():
            raise ValueError(f"Expected an output folder. Received a file: '{output}'. Choose another --output.")
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"Expected an output folder that can be made. Received: '{output}': {error.strerror}.") from error
    existing = [name for name in FILES if os.path.lexists(output / name)]
    if existing and not overwrite:
        raise ValueError(f"'{output}' already holds {', '.join(existing)}. Choose another --output, or pass --overwrite.")
    files.check_distinct({name: output / name for name in FILES}, {})
    for name in FILES:
        files.check_writable(output / name, overwrite=True)


def _write(output: Path, dataset: str, exported, outcomes, comparison: Comparison, overwrite: bool) -> list[Path]:
    """Write the models, the report and the picture, and return their paths."""
    report = {
        "dataset": dataset,
        "outcomes": {kind: asdict(outcome) for kind, outcome in outcomes.items()},
        "plans": {
            kind: [{"layer": plan.layer, "lowering": str(plan.lowering)} for plan in model.plan]
            for kind, model in exported.items()
        },
        "comparison": comparison.to_dict(),
    }
    models = [exported[kind].save(output / f"{_model_name(kind)}.tflite", overwrite) for kind in exported]
    picture = figure(outcomes, comparison)
    return [
        *models,
        files.write(output / "report.json", json.dumps(report, indent=2).encode(), overwrite),
        plots.save(picture, output / "report.png", overwrite),
    ]
