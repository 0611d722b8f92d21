"""Recovering the accuracy of a model whose layers were replaced, by training it to imitate the original."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from ..utils.keras_internals import all_layers
from ..utils.labels import check_against_loss, in_output_order, label_arrays, loss_name, validation_arrays
from ..utils.model_checks import check_finite_weights, check_model
from ..utils.model_inputs import check_data, example_count, examples_at, first_outputs
from ..utils.model_walk import named_layers
from ..utils.progress import Progress
from ..utils.quiet import quiet_tensorflow, warnings_not_raised
from ..utils.recording import recorded
from ..utils.streams import is_stream, read_examples
from ..utils.validation import integer_up_to, positive_integer, positive_number
from .checkpoint import Checkpoint, SaveEachEpoch, fingerprint, fingerprint_of_weights, state_of
from .cloning import config_without
from .dense_map import KINDS

LEARNING_RATE = 1e-3
MAX_EPOCHS = 1_000_000
# Smaller probabilities and mean squares are replaced by this number, so that logarithms and quotients stay finite.
MIN_DIVISOR = 1e-7
# Largest difference from 1 of the sum of outputs that count as probabilities. In bfloat16 each is off by up to a part in 500.
SUM_TOLERANCE = 5e-3

Pairs = Sequence[tuple[keras.layers.Layer, keras.layers.Layer]]


class Distiller(keras.Model):
    """A model that trains a student to imitate a teacher. `compile` and `fit` train it like any model.

    Loss: `soft` * D + `hint` * H + the loss of the labels that `compile` sets, if `fit` is given labels.

    - D compares the outputs. For probabilities it is T^2 KL(teacher || student), both softened by the temperature T
      (p^(1/T), normalized). For other outputs it is the mean squared error over the mean square of the teacher's outputs.
    - H is the sum, over the pairs of layers, of the mean squared error of their outputs over the teacher's mean square.

    Args:
        student, teacher: built models that take the same inputs and give outputs of the same structure.
        pairs: pairs (layer of the student, layer of the teacher), whose outputs H compares. See `matching_layers`.
        soft, hint: weights of the two terms, 0 or more.
        temperature: T, above 0. Default 1. Above 1 the teacher's small probabilities count more.
        probabilities: for each output, whether it is probabilities over the last axis.

    Reference: Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015 (outputs); Romero et al., *FitNets:
        Hints for Thin Deep Nets*, ICLR 2015 (layer by layer).
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        pairs: Pairs = (),
        soft: float = 1.0,
        hint: float = 0.0,
        temperature: float = 1.0,
        probabilities: Sequence[bool] = (True,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.student = student
        self.soft, self.hint, self.temperature = soft, hint, temperature
        self.probabilities = tuple(probabilities)
        student_layers, teacher_layers = ([pair[i] for pair in pairs] if hint else [] for i in (0, 1))
        # Functions, because Keras tracks models and layers that are attributes, and would save the teacher with the student.
        self._run_student = lambda x: _outputs_and_calls(student, x, student_layers, training=True)
        self._run_teacher = lambda x: _outputs_and_calls(teacher, x, teacher_layers, training=False)
        ids = [(id(a), id(b)) for a, b in zip(student_layers, teacher_layers, strict=True)]
        self._pair_calls = lambda student_calls, teacher_calls: [
            calls for a, b in ids for calls in zip(student_calls.get(a, ()), teacher_calls.get(b, ()), strict=True)
        ]

    def call(self, inputs, training=False):
        if not training:
            return self.student(inputs, training=False)
        teacher_outputs, teacher_calls = self._run_teacher(inputs)
        student_outputs, student_calls = self._run_student(inputs)
        outputs = zip(keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs), self.probabilities, strict=True)
        for teacher_output, student_output, of_probabilities in outputs:
            target = ops.stop_gradient(teacher_output)
            self.add_loss(self.soft * difference(target, student_output, of_probabilities, self.temperature))
        for student_call, teacher_call in self._pair_calls(student_calls, teacher_calls):
            self.add_loss(self.hint * relative_error(ops.stop_gradient(teacher_call.outputs), student_call.outputs))
        return student_outputs


@warnings_not_raised()
@quiet_tensorflow()
def distill(
    student: keras.Model,
    teacher: keras.Model,
    x,
    y=None,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    learning_rate: float | None = None,
    loss=None,
    metrics=(),
    class_weight: dict[int, float] | None = None,
    validation_data=None,
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
    soft: float = 1.0,
    hint: float = 0.0,
    temperature: float = 1.0,
    checkpoint=None,
    jit_compile="auto",
    progress: bool | None = None,
) -> keras.callbacks.History:
    """Train `student`, in place, to give the same outputs as `teacher`. The loss is that of `Distiller`.

    Args:
        student: a built model, such as the one that `replace_dense` returns.
        teacher: the original model. It is not changed.
        x: inputs (examples, ...), as `model.predict` takes them. Or a stream of batches that ends: a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator. It is read once. Its elements may be tuples (inputs,
            labels).
        y: labels. None (default): the labels of the stream, or if it has none, no labels: the student learns from the
            teacher's outputs alone.
        epochs, batch_size: as in `fit`.
        optimizer: as in `compile`. None (default): Adam, whose learning rate decays from `learning_rate` to 0 by a cosine.
        learning_rate: initial learning rate of the default optimizer. None (default): 1e-3.
        loss, metrics: loss and metrics of the labels, as in `compile`. Without labels they are not used. Default: the loss that
            the teacher is compiled with; else, for integer labels and one output of probabilities, sparse categorical
            cross-entropy. For the latter labels the default metric is accuracy.
        class_weight: as in `fit`: maps a class to the weight of its examples in the loss of the labels.
        validation_data: (x, y), or a stream of such tuples, evaluated after every epoch.
        callbacks: as in `fit`. Their `model` is a `Distiller`, whose `student` is the student. A checkpoint does not hold the
            state of a callback, such as the patience that is left.
        verbose: as in `fit`. Default: 0, because a progress bar is shown instead.
        soft, hint, temperature: see `Distiller`. `hint` compares each butterfly layer with the teacher's layer of its path.
        checkpoint: a folder, which must be empty or not exist. After each epoch the state of the training is saved to one file
            in it. After an interruption, a call with the same arguments, data and models continues from that file, and any
            other call is an error. Streams are not compared, because they may be shuffled. The file is removed at the end. If a
            `checkpoint.Checkpoint` is given instead of a path, its file is kept until its `remove()` is called: call it once
            the student is saved.
        jit_compile: as in `compile`.
        progress: True: show a progress bar on stderr. False: show none. None (default): show one if stderr is a terminal and
            `verbose` is 0.

    Returns:
        The history that `fit` returns, of the epochs that this call ran.

    Raises:
        ValueError: if a model is not built, the outputs of the models differ in shape, the data do not fit, an argument is out
            of range, or the training has made weights NaN or infinite.

    Example:
        >>> teacher = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)])
        >>> student, report = replace_dense(teacher, seed=0)
        >>> x = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
        >>> history = distill(student, teacher, x, epochs=2)
        >>> len(history.history["loss"])
        2
    """
    for name, model in (("student", student), ("teacher", teacher)):
        check_model(model, name)
        check_finite_weights(model)
    # A stream may be shuffled, or give other batches each time, and then goes on all the same.
    same_data = checkpoint is not None and not is_stream(x)
    x, stream_labels = read_examples(student, x)
    x, y = check_data(student, x), stream_labels if y is None else y
    epochs, batch_size = integer_up_to(epochs, "epochs", MAX_EPOCHS), positive_integer(batch_size, "batch_size")
    count = example_count(x)
    steps = -(-count // batch_size)
    distiller, shapes = _distiller(student, teacher, x, soft, hint, temperature)
    used_optimizer = _optimizer(optimizer, learning_rate, epochs * steps)
    y = None if y is None else in_output_order(student, label_arrays(y, count, len(shapes)))
    if validation_data is not None:
        validation_x, labels, *weights = validation_arrays(student, validation_data, len(shapes))
        validation_data = (validation_x, in_output_order(student, labels), *weights)
    given_labels = [labels for labels in (y, None if validation_data is None else validation_data[1]) if labels is not None]
    compiled = {} if not given_labels else label_loss(loss, metrics, student, teacher, distiller.probabilities, given_labels[0])
    for labels in given_labels:
        check_against_loss(labels, compiled["loss"], shapes)
    if class_weight is not None and y is None:
        raise ValueError("Expected labels with `class_weight`, which weights their loss. Received none. Give `y`.")
    distiller.compile(used_optimizer, jit_compile=jit_compile, **compiled)
    # This builds it, because a checkpoint holds the weights of a built model.
    distiller(examples_at(x, slice(1)))
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch size": batch_size,
        "optimizer": type(used_optimizer).__name__,
        "learning rate": None if learning_rate is None else float(learning_rate),
        "soft": float(soft),
        "hint": float(hint),
        "temperature": float(temperature),
        "examples": count,
        "labels": y is not None,
        "loss": _names(compiled.get("loss")),
        "class weight": None if class_weight is None else {str(key): float(weight) for key, weight in class_weight.items()},
        "layers": [type(layer).__name__ for layer in all_layers(student)],
    }
    saved = checkpoint if isinstance(checkpoint, Checkpoint) or checkpoint is None else Checkpoint(checkpoint)
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or ())
    shown = False if progress is None and verbose not in (0, "0") else progress
    with nullcontext() if saved is None else saved.held():
        first = 0
        if saved is not None:
            settings |= _fingerprints(teacher, optimizer, *((x, y) if same_data else (None, None)))
            first = saved.restore(state_of(distiller), settings)
            # After the user's callbacks, whose changes, such as a lower learning rate, are then part of the checkpoint.
            given.append(SaveEachEpoch(saved, settings))
        with Progress(shown) as bars, bars.task("distill", epochs * steps) as advance:
            advance(first * steps)
            history = distiller.fit(
                x,
                y,
                batch_size,
                epochs,
                initial_epoch=first,
                verbose=verbose,
                class_weight=class_weight,
                validation_data=validation_data,
                callbacks=[*given, _ShowProgress(advance, epochs)],
            )
        check_finite_weights(student)
        if saved is not None and saved is not checkpoint:
            saved.remove()
    return history


def _names(losses):
    """Return the names of the losses, in the structure that `compile` takes."""
    return keras.tree.map_structure(lambda loss: None if loss is None else loss_name(loss), losses)


def _fingerprints(teacher: keras.Model, optimizer, x, y) -> dict[str, Any]:
    """Return what a training depends on beside plain arguments. Large values are told apart by fingerprints."""
    return {
        "the optimizer's settings": _optimizer_settings(optimizer),
        "the teacher's weights": fingerprint_of_weights(teacher),
        "the inputs": None if x is None else fingerprint(keras.tree.flatten(x)),
        "the labels": None if y is None else fingerprint(keras.tree.flatten(y)),
    }


def _optimizer_settings(optimizer) -> dict | None:
    """Return an optimizer's config as plain values, or None if it is no optimizer object or cannot be serialized."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    try:
        settings = keras.optimizers.serialize(optimizer)["config"]
    except NotImplementedError:  # its learning rate is of a class without get_config
        return None
    # A default name counts the optimizers of the process.
    return config_without("name", json.loads(json.dumps(settings, default=lambda value: type(value).__name__)))


class _ShowProgress(keras.callbacks.Callback):
    """A callback that moves a progress bar on after each batch, and writes the loss of each epoch beside it."""

    def __init__(self, advance, epochs: int):
        super().__init__()
        self.advance, self.epochs = advance, epochs

    def on_train_batch_end(self, batch, logs=None):
        self.advance(1)

    def on_epoch_end(self, epoch, logs=None):
        self.advance(0, f"distill, epoch {epoch + 1} of {self.epochs}, loss {logs['loss']:.4f}")


def _distiller(student, teacher, x, soft: float, hint: float, temperature: float) -> tuple[Distiller, list[tuple]]:
    """Return a `Distiller` that is not compiled, and the shape of each output on a few examples.

    Raises:
        ValueError: if a number is out of range, the outputs differ in shape, or `hint` finds no layers to compare.
    """
    positive_number(temperature, "temperature")
    for name, value in (("soft", soft), ("hint", hint)):
        if value != 0:
            positive_number(value, name, "0 or ")
    probabilities, shapes = _compare_outputs(student, teacher, x)
    pairs = matching_layers(student, teacher)
    if hint and not pairs:
        raise ValueError("`hint` compares layers of the same path in both models. Expected such butterfly layers. Found none.")
    settings: dict[str, Any] = {"soft": soft, "hint": hint, "temperature": temperature, "probabilities": probabilities}
    return Distiller(student, teacher, pairs=pairs, **settings), shapes


def _optimizer(optimizer, learning_rate: float | None, steps: int) -> keras.optimizers.Optimizer:
    """Return the user's optimizer, or Adam with a cosine decay over `steps` steps.

    Raises:
        ValueError: if both an optimizer and a learning rate are given, or the rate is not positive.
    """
    if optimizer is not None:
        if learning_rate is not None:
            raise ValueError(
                "Expected `optimizer` or `learning_rate`, which is that of the default optimizer. Received both. Set the "
                "learning rate in the optimizer."
            )
        return keras.optimizers.get(optimizer)
    return default_optimizer(LEARNING_RATE if learning_rate is None else learning_rate, steps)


def default_optimizer(learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Return Adam with a learning rate that decays from `learning_rate` to 0 by a cosine over `steps` steps.

    Raises:
        ValueError: if the rate is not positive.
    """
    rate = positive_number(learning_rate, "learning_rate")
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def labels_and_loss(model: keras.Model, x, labels, loss=None) -> tuple[Any, Any]:
    """Return labels and their loss, in the order of the outputs, as `distill` trains a copy of `model` with them.

    Raises:
        ValueError: as `distill`.
    """
    outputs = first_outputs(model, x, 8)
    arrays = in_output_order(model, label_arrays(labels, example_count(x), len(outputs)))
    compiled = label_loss(loss, (), model, model, [are_probabilities(output) for output in outputs], arrays)
    check_against_loss(arrays, compiled["loss"], [output.shape for output in outputs])
    return arrays, compiled["loss"]


def label_loss(loss, metrics, student, teacher, probabilities: Sequence[bool], labels) -> dict:
    """Return the arguments `loss` and `metrics` of `compile`, with the defaults that `distill` documents.

    Raises:
        ValueError: if no loss was given and none follows from teacher and labels.
    """
    integers = not isinstance(labels, dict | list) and np.issubdtype(np.asarray(labels).dtype, np.integer)
    are_classes = integers and list(probabilities) == [True]
    if not isinstance(metrics, dict):
        metrics = list(metrics) or (["accuracy"] if are_classes else [])
    if loss is None and teacher.compiled:
        loss = teacher.loss
    if loss is None and are_classes:
        loss = "sparse_categorical_crossentropy"
    if loss is None:
        raise ValueError(
            "Expected `loss` for these labels: the teacher is not compiled, and they are not integers for one output of "
            "probabilities. Give it, or leave the labels out to learn from the teacher alone. If they are one-hot, give "
            "y.argmax(-1)."
        )
    # The training knows the outputs by their order only.
    return {"loss": in_output_order(student, loss), "metrics": in_output_order(student, metrics)}


def matching_layers(student: keras.Model, teacher: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return pairs of a layer of the student that can replace a dense one and the teacher's layer of the same path."""
    teacher_layers = dict(named_layers(teacher))
    pairs = {
        id(layer): (layer, teacher_layers[path])
        for path, layer in named_layers(student)
        if path in teacher_layers and _may_replace(layer, teacher_layers[path])
    }
    return list(pairs.values())


def _may_replace(layer: keras.layers.Layer, old: keras.layers.Layer) -> bool:
    """Return whether `layer` is of a butterfly's kind, or holds such a layer where `old` is a single dense layer."""
    inside = all_layers(layer) if isinstance(old, KINDS) else [layer]
    return any(hasattr(each, "approximate") for each in inside)


def difference(target, output, of_probabilities: bool, temperature: float):
    """Return D of `Distiller`, the difference of a student's output and the teacher's, `target`, in float32."""
    target, output = ops.cast(target, "float32"), ops.cast(output, "float32")
    if not of_probabilities:
        return relative_error(target, output)
    # The factor T^2 makes the size of the gradient independent of T.
    teacher, student = (ops.log_softmax(_log(p) / temperature) for p in (target, output))
    return temperature**2 * ops.mean(ops.sum(ops.exp(teacher) * (teacher - student), axis=-1))


def relative_error(target, output):
    """Return the mean squared error of `output` over the mean square of `target`, in float32 whatever the layers compute in."""
    target, output = ops.cast(target, "float32"), ops.cast(output, "float32")
    return ops.mean(ops.square(output - target)) / ops.maximum(ops.mean(ops.square(target)), MIN_DIVISOR)


def _log(probabilities):
    return ops.log(ops.maximum(probabilities, MIN_DIVISOR))


def _outputs_and_calls(model, x, layers, training: bool):
    """Return the outputs of `model` on `x`, and the recorded calls of `layers`, see `recorded`."""
    with recorded(layers) as calls:
        return model(x, training=training), calls


def _compare_outputs(student, teacher, x) -> tuple[list[bool], list[tuple]]:
    """Return whether each output is probabilities on the first examples, and its shape.

    Raises:
        ValueError: if the outputs of the models differ in shape.
    """
    student_outputs, teacher_outputs = (first_outputs(model, x, 8) for model in (student, teacher))
    shapes = [[output.shape for output in outputs] for outputs in (student_outputs, teacher_outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Expected outputs of the same shapes. Received: student {shapes[0]}, teacher {shapes[1]}")
    return [are_probabilities(output) for output in teacher_outputs], shapes[1]


def are_probabilities(output) -> bool:
    """Return whether an array (examples, ..., classes) holds probabilities over its last axis."""
    return output.shape[-1] > 1 and bool(output.min() >= 0 and abs(output.sum(-1) - 1).max() < SUM_TOLERANCE)
