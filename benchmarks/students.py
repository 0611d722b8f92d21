"""Which training makes a student more accurate: hints, longer training, averaged weights, rounding to int8, and others.

    python benchmarks/students.py FOLDER [--task NAME ...] [--variant NAME ...] [--seeds 3] [--data DATA] [--json docs/students]

Network: the features, two hidden dense layers of 1024 units with ReLU, a dense head. It is the teacher. Each seed has its own,
which is trained on the labels, or read from FOLDER/NAME-SEED.keras if it is there. The student has butterflies of radix 4 in
place of the hidden layers. They start from random weights.

Training: that of `distill`, from the teacher's outputs and the labels, with Adam and cosine decay. The teacher's outputs are
computed once, because the data are the same in each epoch. Each variant of `VARIANTS` changes one thing.

Output: NAME.json in the folder of `--json` has the test accuracy of each variant and seed. If the program is interrupted, start
it again to continue. `python benchmarks/students_page.py` makes the tables of docs/design.md of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import click
import keras
import numpy as np
from data_sets import load
from fronts import TASKS as NETWORKS
from fronts import Task
from fronts import trained as teacher
from keras import ops
from keras_butterfly_cli.datasets import Data
from results import Results

from keras_butterfly import Butterfly, export
from keras_butterfly.compression.distillation import difference, relative_error
from keras_butterfly.export import files
from keras_butterfly.structure import fusion, kernels

HIDDEN = ("hidden_0", "hidden_1")
# The best learning rate of the student in the benchmark of docs/evidence.md.
RATES = {"hapt": 1e-3, "fashion_mnist": 2e-3, "isolet": 5e-4}
TASKS = {name: NETWORKS[name] for name in RATES}
# What an int8 file rounds: the outputs of layers, those of the last one before the softmax ("logits"), the weights, and the
# values between two block factors of a butterfly.
OUTPUTS = ("inputs", *HIDDEN, "logits")
PLACES = (*OUTPUTS, "weights", "factors")
# Several steps in one call, because a step takes only a few milliseconds.
STEPS_PER_CALL = 10


@dataclass(frozen=True)
class Variant:
    """A way to train a student.

    Attributes:
        name: what it changes.
        structure: a key of `STRUCTURES`, the layers that replace the hidden ones.
        epochs: the length of the training, in multiples of the task's number of epochs.
        labels: whether the loss of the labels counts.
        soft, hint, temperature: as in `distill`. `soft` 0: the student learns from the labels alone.
        momentum: that of the moving average of the weights, or None for no average.
        decay: whether the learning rate decays to 0 by a cosine.
        rate: the learning rate, in multiples of the task's rate.
        one_by_one: whether the first butterfly is trained alone in the teacher's place, then the second one, and then the
            whole student, each for a third of the epochs.
        rounded: which of `PLACES` are rounded to int8 in the forward pass, with a straight-through gradient.
    """

    name: str
    structure: str = "radix 4"
    epochs: float = 1
    labels: bool = True
    soft: float = 1.0
    hint: float = 0.0
    temperature: float = 2.0
    momentum: float | None = None
    decay: bool = True
    rate: float = 1.0
    one_by_one: bool = False
    rounded: tuple[str, ...] = ()


PLAIN = Variant("plain")
VARIANTS = {
    variant.name: variant
    for variant in (
        PLAIN,
        Variant("hint 0.1", hint=0.1),
        Variant("hint 1", hint=1.0),
        Variant("layer after layer", one_by_one=True),
        Variant("average, momentum 0.99", momentum=0.99),
        Variant("average, momentum 0.999", momentum=0.999),
        Variant("constant rate", decay=False),
        Variant("constant rate, average, momentum 0.99", decay=False, momentum=0.99),
        Variant("constant rate, average, momentum 0.999", decay=False, momentum=0.999),
        Variant("second layer decreasing", "radix 4, second layer decreasing"),
        Variant("sum of two", "sum of two"),
        Variant("sum of two, alternating", "sum of two, alternating"),
        Variant("product of two", "product of two"),
        Variant("product of two, alternating", "product of two, alternating"),
        Variant("temperature 1", temperature=1.0),
        Variant("temperature 4", temperature=4.0),
        Variant("soft 0.5", soft=0.5),
        Variant("soft 2", soft=2.0),
        Variant("no labels", labels=False),
        Variant("no labels, temperature 1", labels=False, temperature=1.0),
        Variant("labels only", soft=0.0),
        Variant("twice the epochs", epochs=2),
        Variant("labels only, twice the epochs", soft=0.0, epochs=2),
        Variant("three times the epochs", epochs=3),
        Variant("labels only, three times the epochs", soft=0.0, epochs=3),
        Variant("rounded outputs", rounded=OUTPUTS),
        Variant("all rounded", rounded=PLACES),
        Variant("radix 2", "radix 2"),
        Variant("radix 2, rounded outputs", "radix 2", rounded=OUTPUTS),
        Variant("two stages", "two stages"),
        Variant("two stages, rounded outputs", "two stages", rounded=OUTPUTS),
        # These start from the teacher's weights.
        Variant("dense", "dense", epochs=0),
        Variant("dense, rounded outputs", "dense", epochs=1 / 3, rate=0.25, rounded=OUTPUTS),
    )
}
# Variants of which it is also found what each rounding costs alone.
BY_PLACE = (PLAIN.name, "radix 2", "two stages", "dense")
# Variants whose students are exported in int8 too.
EXPORTED = (*BY_PLACE, *(name for name, variant in VARIANTS.items() if variant.rounded))
CALIBRATION = 512  # examples
# name -> arguments of `export.to_tflite`: what computes in float32 is up to the export, or only the head is kept in int8, or
# everything is.
PRECISIONS: dict[str, dict] = {
    "int8": {},
    "int8 outputs": {"integer_io": True},
    "int8 throughout": {"integer_io": True, "lowering": "fused"},
}


def butterfly(old: keras.layers.Dense, seed: int, **arguments) -> Butterfly:
    """Return a butterfly of random weights in place of the layer `old`."""
    return Butterfly(old.units, "relu", name=old.name, seed=seed, **arguments)


def decreasing_second(old: keras.layers.Dense, seed: int) -> Butterfly:
    """Return a butterfly whose order of strides is decreasing in the second layer."""
    return butterfly(old, seed, order="decreasing" if old.name == HIDDEN[1] else "increasing")


class Sum(keras.layers.Layer):
    """The sum of two butterflies, with a bias and ReLU."""

    def __init__(self, units: int, orders: tuple[str, str], seed: int, **kwargs):
        super().__init__(**kwargs)
        # Half the variance each, as in the stacks of a `Butterfly`.
        self.terms = [Butterfly(units, use_bias=not i, order=order, seed=seed + i) for i, order in enumerate(orders)]

    def call(self, inputs):
        return ops.relu(ops.add(*(term(inputs) for term in self.terms)) / np.sqrt(2))


class Product(keras.layers.Layer):
    """Two butterflies one after the other, with a bias and ReLU behind the second one."""

    def __init__(self, units: int, orders: tuple[str, str], seed: int, **kwargs):
        super().__init__(**kwargs)
        first = Butterfly(units, use_bias=False, order=orders[0], seed=seed)
        self.factors = [first, Butterfly(units, "relu", order=orders[1], seed=seed + 1)]

    def call(self, inputs):
        return self.factors[1](self.factors[0](inputs))


SAME, ALTERNATING = ("increasing", "increasing"), ("increasing", "decreasing")
# name -> a function (the old layer, a seed) -> the layer that replaces it.
STRUCTURES: dict[str, Callable[[keras.layers.Dense, int], keras.layers.Layer]] = {
    "dense": lambda old, seed: keras.layers.Dense.from_config(old.get_config()),
    "radix 4": partial(butterfly, radix=4),
    "radix 2": partial(butterfly, radix=2),
    "two stages": partial(butterfly, radix="auto"),
    "radix 4, second layer decreasing": decreasing_second,
    "sum of two": lambda old, seed: Sum(old.units, SAME, seed, name=old.name),
    "sum of two, alternating": lambda old, seed: Sum(old.units, ALTERNATING, seed, name=old.name),
    "product of two": lambda old, seed: Product(old.units, SAME, seed, name=old.name),
    "product of two, alternating": lambda old, seed: Product(old.units, ALTERNATING, seed, name=old.name),
}


def student(original: keras.Model, structure: str, seed: int, where: Sequence[str] = HIDDEN) -> keras.Model:
    """Return a copy of the teacher with other layers of random weights at the places `where`."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in where:
            return STRUCTURES[structure](layer, 10 * seed + 2 * HIDDEN.index(layer.name))
        return type(layer).from_config(layer.get_config())

    model = keras.models.clone_model(original, clone_function=copied)
    for layer in model.layers:
        if layer.name not in where or structure == "dense":
            layer.set_weights(original.get_layer(layer.name).get_weights())
    return model


class Learner(keras.Model):
    """A model that trains a student by the loss of `distill`. `fit` is given the teacher's outputs instead of the teacher.

    Args:
        trained: the student.
        variant: the terms of the loss.
    """

    def __init__(self, trained: keras.Model, variant: Variant, **kwargs):
        super().__init__(**kwargs)
        self.trained, self.variant = trained, variant

    def call(self, inputs, training=False):
        if training and self.variant.rounded:
            return rounded_outputs(self.trained, inputs, self.variant.rounded)
        outputs = {}
        for layer in self.trained.layers:
            inputs = outputs[layer.name] = layer(inputs)
        return {name: outputs[name] for name in (*HIDDEN, "class")}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss, variant, output = 0.0, self.variant, y_pred["class"]
        if variant.labels:
            loss += ops.mean(keras.losses.sparse_categorical_crossentropy(y["labels"], output))
        if variant.soft:
            loss += variant.soft * difference(y["class"], output, True, variant.temperature)
        if variant.hint:
            loss += variant.hint * sum(relative_error(y[name], y_pred[name]) for name in HIDDEN)
        return loss


def rounded_outputs(model: keras.Model, x, places: Sequence[str]) -> dict:
    """Return the outputs of each layer with some values rounded as in an int8 file, and straight-through gradients.

    The ranges of activations are those of the batch. The softmax is not rounded.

    Args:
        model: a network of `Butterfly` and `Dense` layers, whose last layer is a Dense with softmax.
        x: the inputs.
        places: what is rounded, see `PLACES`.
    """

    def at(place: str, values):
        return round_range(values) if place in places else values

    x, outputs = at("inputs", x), {}
    for layer in model.layers:
        if isinstance(layer, Butterfly):
            x = rounded_butterfly(layer, x, places)
        else:
            x = ops.matmul(x, round_symmetric(layer.kernel, 0) if "weights" in places else layer.kernel)
        x = x + layer.bias
        is_last = layer is model.layers[-1]
        x = outputs[layer.name] = ops.softmax(at("logits", x)) if is_last else at(layer.name, ops.relu(x))
    return outputs


def rounded_butterfly(layer: Butterfly, x, places: Sequence[str]):
    """Return `layer.linear(x)`, with rounded block factors or values between them if `places` says so."""
    wiring, factors = layer.wiring, fusion.best_factors(layer.wiring)
    x = kernels.place_inputs(x, wiring, factors[0].nodes_in)
    blocks = kernels.block_factors(wiring, layer.gadget_weights[0], factors)
    for factor, block in zip(factors, blocks, strict=True):
        x = ops.transpose(ops.reshape(x, (-1, factor.high, factor.inputs, factor.low)), (1, 3, 0, 2))
        x = ops.matmul(x, round_symmetric(block, 2) if "weights" in places else block)
        x = ops.reshape(ops.transpose(x, (2, 0, 3, 1)), (-1, factor.nodes_out))
        x = round_range(x) if "factors" in places and factor is not factors[-1] else x
    return kernels.read_outputs(x, wiring, factors[-1].nodes_out)


def round_range(x):
    """Round activations to 256 steps over their range and 0."""
    low, high = ops.minimum(ops.min(x), 0), ops.maximum(ops.max(x), 0)
    return round_to(x, ops.maximum(high - low, 1e-6) / 255)


def round_symmetric(weights, axis: int):
    """Round weights to -127 .. 127 times a scale, one for each slice along `axis`."""
    return round_to(weights, ops.maximum(ops.max(ops.abs(weights), axis=axis, keepdims=True), 1e-6) / 127)


def round_to(x, scale):
    """Round to multiples of `scale`. The gradient is that of the identity."""
    return x + ops.stop_gradient(ops.round(x / scale) * scale - x)


def lesson(original: keras.Model, data: Data, hints: bool) -> dict[str, np.ndarray]:
    """Return what a student of the teacher `original` learns: the labels, the outputs, and if wanted those of hidden layers."""
    names = (*HIDDEN, "class") if hints else ("class",)
    outputs = keras.Model(original.inputs, {name: original.get_layer(name).output for name in names})
    return {"labels": data.y_train, **outputs.predict(data.x_train, 1000, verbose=0)}


def train(
    models: Sequence[keras.Model],
    lessons: Sequence[dict],
    seeds: Sequence[int],
    data: Data,
    task: Task,
    variant: Variant,
    epochs: int,
) -> None:
    """Train models of one structure, one after the other, in place, each on its own lesson with its own seed.

    They are compiled only once.
    """
    model, steps = models[0], epochs * -(-len(data.x_train) // task.batch)
    rate = variant.rate * RATES.get(task.name, 1e-3)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps) if variant.decay else rate
    average = {} if variant.momentum is None else {"use_ema": True, "ema_momentum": variant.momentum}
    optimizer = keras.optimizers.Adam(schedule, **average)
    optimizer.build(model.trainable_variables)
    starts = [each.get_weights() for each in models]
    unused = [variable.numpy() for variable in optimizer.variables]
    learner = Learner(model, variant)
    learner.compile(optimizer, jit_compile=True, steps_per_execution=STEPS_PER_CALL)
    results = []
    for start, wanted, seed in zip(starts, lessons, seeds, strict=True):
        keras.utils.set_random_seed(seed)
        model.set_weights(start)
        for variable, value in zip(optimizer.variables, unused, strict=True):
            variable.assign(value)
        learner.fit(data.x_train, wanted, task.batch, epochs, verbose=0)
        results.append(model.get_weights())
    for each, weights in zip(models, results, strict=True):
        each.set_weights(weights)


def trained(
    originals: Sequence[keras.Model], seeds: Sequence[int], data: Data, task: Task, variant: Variant
) -> list[keras.Model]:
    """Return the student of each teacher, trained as `variant` says."""
    lessons = [lesson(original, data, bool(variant.hint)) for original in originals]
    students = [student(original, variant.structure, seed) for original, seed in zip(originals, seeds, strict=True)]
    epochs = round(variant.epochs * task.epochs)
    if variant.one_by_one:
        epochs = epochs // (len(HIDDEN) + 1)
        for count in range(1, len(HIDDEN) + 1):
            parts = [
                student(original, variant.structure, seed, HIDDEN[:count])
                for original, seed in zip(originals, seeds, strict=True)
            ]
            copy_layers(students, parts, HIDDEN[: count - 1])
            for layer in (layer for part in parts for layer in part.layers):
                layer.trainable = layer.name == HIDDEN[count - 1]
            train(parts, lessons, seeds, data, task, variant, epochs)
            copy_layers(parts, students, HIDDEN[count - 1 : count])
    if epochs:
        train(students, lessons, seeds, data, task, variant, epochs)
    return students


def copy_layers(sources: Sequence[keras.Model], targets: Sequence[keras.Model], names: Sequence[str]) -> None:
    """Copy the weights of the layers `names` from each network of `sources` to the one of `targets` at the same place."""
    for source, target in zip(sources, targets, strict=True):
        for name in names:
            target.get_layer(name).set_weights(source.get_layer(name).get_weights())


def accuracy(model: keras.Model | export.TFLiteModel, data: Data) -> float:
    """Return the part of the test examples that a network or a file classifies correctly."""
    outputs = model.predict(data.x_test, 1000, verbose=0) if isinstance(model, keras.Model) else model.predict(data.x_test)
    return float(np.mean(outputs.argmax(-1) == data.y_test))


def int8_accuracy(path: Path, data: Data, arguments: dict) -> dict[str, float]:
    """Return the test accuracy of a network in int8, and its largest error on examples held back from calibration."""
    examples = data.x_train[np.random.default_rng(0).permutation(len(data.x_train))[:CALIBRATION]]
    settings = {"quantize": "int8", "representative_data": examples, "effort": "estimate", "progress": False}
    file = export.to_tflite(keras.models.load_model(path), tolerance=1.0, **settings, **arguments)
    return {"accuracy": accuracy(file, data), "error": file.parity.relative_error}


def accuracy_by_place(path: Path, data: Data) -> dict[str, float]:
    """Return the test accuracy of a network by what is rounded: one of `PLACES`, "all", or "all but logits"."""
    model, found = keras.models.load_model(path), {}
    but_logits = tuple(place for place in PLACES if place != "logits")
    for name, places in {**{place: (place,) for place in PLACES}, "all": PLACES, "all but logits": but_logits}.items():
        outputs = ops.convert_to_numpy(rounded_outputs(model, ops.convert_to_tensor(data.x_test), places)["class"])
        found[name] = float(np.mean(outputs.argmax(-1) == data.y_test))
    return found


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--task", "names", multiple=True, type=click.Choice(list(TASKS)), default=list(TASKS), show_default=True)
@click.option("--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)), help="Repeatable. Default: all.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--data", "data_folder", type=click.Path(exists=True, path_type=Path), help="Folder with the data sets' files.")
@click.option("--json", "json_folder", type=click.Path(path_type=Path), default=Path("docs/students"), show_default=True)
def main(folder, names, variants, seeds, data_folder, json_folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        task, data = TASKS[name], load(name, data_folder)
        results = Results(json_folder / f"{name}.json", {"epochs": task.epochs, "batch": task.batch, "rate": RATES[name]})
        originals = [teacher(folder / f"{name}-{seed}.keras", task, data, seed) for seed in range(seeds)]
        for seed, original in enumerate(originals):
            results.once(("float32", "teacher", f"seed {seed}"), partial(accuracy, original, data))
        for variant in [VARIANTS[each] for each in variants or VARIANTS]:
            all_seeds(results, variant, task, data, originals, folder)


def all_seeds(
    results: Results, variant: Variant, task: Task, data: Data, originals: Sequence[keras.Model], folder: Path
) -> None:
    """Train the students of a variant that have not been trained, and keep and print the accuracies of all."""
    names = {seed: (variant.name, f"seed {seed}") for seed in range(len(originals))}
    paths = {seed: folder / f"{task.name}-{variant.name}-{seed}.keras" for seed in names}
    missing = [seed for seed in names if not results.has(("float32", *names[seed]))]
    if missing:
        students = trained([originals[seed] for seed in missing], missing, data, task, variant)
        for seed, model in zip(missing, students, strict=True):
            if variant.name in EXPORTED:
                files.write(paths[seed], model.save, overwrite=True)
            found = results.once(("float32", *names[seed]), partial(accuracy, model, data))
            click.echo(f"{task.name}, {variant.name}, seed {seed}: {found:.4f}")
    for seed in names if variant.name in BY_PLACE else ():
        results.once(("rounded", *names[seed]), partial(accuracy_by_place, paths[seed], data))
    for seed, (precision, arguments) in product(names, PRECISIONS.items()) if variant.name in EXPORTED else ():
        found = results.once((precision, *names[seed]), partial(int8_accuracy, paths[seed], data, arguments))
        click.echo(
            f"{task.name}, {variant.name}, seed {seed}, {precision}: {found['accuracy']:.4f}, error {found['error']:.3f}"
        )


if __name__ == "__main__":
    main()
