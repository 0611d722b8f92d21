"""Recovering a model's accuracy after its layers were replaced: training against the original."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from ..layers.butterfly import Butterfly
from ..layers.butterfly_dense import ButterflyDense
from ..utils.labels import check_labels
from ..utils.model_inputs import check_data, is_stream, read_examples
from ..utils.model_walk import named_layers
from ..utils.progress import Progress
from ..utils.recording import recorded
from ..utils.validation import check_finite, positive_integer, positive_number
from .checkpoint import Checkpoint, SaveEachEpoch, state_of
from .replace import check_model

# Probabilities below it count as it, so that logarithms stay finite.
SMALLEST = 1e-7
# How far the sum of an output may be from 1 to count as probabilities.
SUM_TOLERANCE = 1e-3

Pairs = Sequence[tuple[keras.layers.Layer, keras.layers.Layer]]


class Distiller(keras.Model):
    """A student that learns from a teacher; `compile` and `fit` train it like any model.

    Loss: `soft` * D + `hint` * H + what `compile` says of labels, where `fit` is given any. D compares the outputs: where they
    are probabilities by T^2 KL(teacher || student), both softened by the temperature T (p^(1/T), normalised), else by the mean
    squared error relative to the teacher's mean square. H is the same relative error of the outputs of each pair of layers,
    added up.

    Args:
        student, teacher: built models that take the same inputs and give outputs of the same structure.
        pairs: layers of the student, each with the teacher's whose outputs it is to give; see `matching_layers`.
        soft, hint: weights of the two terms, 0 or more.
        temperature: T, above 0; above 1 the teacher's small probabilities count more.
        probabilities: for each output whether it is probabilities over the last axis.

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
        temperature: float = 2.0,
        probabilities: Sequence[bool] = (True,),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.student = student
        self.soft, self.hint, self.temperature = soft, hint, temperature
        self.probabilities = tuple(probabilities)
        pairs = list(pairs) if hint else []
        keys = [(id(own), id(others)) for own, others in pairs]
        # Functions, because Keras would track models and layers held as attributes, and save the teacher with the student.
        self._taught = lambda x: _run(teacher, x, [others for _, others in pairs], False)
        self._learned = lambda x: _run(student, x, [own for own, _ in pairs], True)
        self._paired = lambda own, others: [
            call for a, b in keys for call in zip(own.get(a, ()), others.get(b, ()), strict=True)
        ]

    def call(self, inputs, training=False):
        if not training:
            return self.student(inputs, training=False)
        wanted, theirs = self._taught(inputs)
        outputs, own = self._learned(inputs)
        flat = zip(keras.tree.flatten(wanted), keras.tree.flatten(outputs), self.probabilities, strict=True)
        for target, output, probabilities in flat:
            difference = self._divergence if probabilities else relative_error
            self.add_loss(self.soft * difference(ops.stop_gradient(target), output))
        for mine, other in self._paired(own, theirs):
            self.add_loss(self.hint * relative_error(ops.stop_gradient(other.outputs), mine.outputs))
        return outputs

    def _divergence(self, target, output):
        """T^2 KL of the softened probabilities: the factor keeps the gradient's size whatever T."""
        wanted, given = (ops.log_softmax(_log(p) / self.temperature) for p in (target, output))
        return self.temperature**2 * ops.mean(ops.sum(ops.exp(wanted) * (wanted - given), axis=-1))


def distill(
    student: keras.Model,
    teacher: keras.Model,
    x,
    y=None,
    *,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    loss=None,
    metrics=(),
    validation_data=None,
    soft: float = 1.0,
    hint: float = 0.0,
    temperature: float = 2.0,
    checkpoint=None,
    jit_compile="auto",
    progress: bool | None = None,
) -> keras.callbacks.History:
    """Trains `student` in place to do what `teacher` does: Adam with cosine decay, `Distiller`'s loss.

    Args:
        student: a built model, such as `replace_dense` returns.
        teacher: the original; it is not changed.
        x: inputs (examples, ...), as `model.predict` takes them; or a stream of batches that ends, see
            `model_inputs.read_examples`, which is read once. Its elements may be tuples (inputs, labels).
        y: labels, or None to learn from the teacher alone, or from the labels that a stream holds.
        epochs, batch_size, learning_rate: the rate is that before the decay.
        loss, metrics: of the labels, as in `compile`; without labels not used. Default: the loss the teacher is compiled with,
            else sparse categorical cross-entropy of integer labels where the one output is probabilities. There accuracy too.
        validation_data: (x, y), or a stream of such tuples, evaluated after every epoch.
        soft, hint, temperature: see `Distiller`. `hint` pairs the butterfly layers with the teacher's layers of the same path.
        checkpoint: a folder, empty or not there yet. After each epoch the state of the training is kept in one file there. A
            call with the same arguments after an interruption goes on from that file, which is removed at the end. With a
            `checkpoint.Checkpoint` instead of a path the file is kept until its `remove()` is called: do so once the student
            is saved.
        jit_compile: as in `compile`.
        progress: show bars on stderr. Default: where it is a terminal.

    Returns:
        Keras's history of the epochs run now.

    Raises:
        ValueError: for models that are not built or whose outputs differ in shape, data that do not fit, or an argument out of
            range.
    """
    for model in (student, teacher):
        check_model(model)
    x, labels = read_examples(x)
    x, y = check_data(student, x), labels if y is None else y
    if is_stream(validation_data):
        validation_data = read_examples(validation_data)
    epochs, batch_size = positive_integer(epochs, "epochs"), positive_integer(batch_size, "batch_size")
    positive_number(temperature, "temperature")
    for name, value in (("soft", soft), ("hint", hint)):
        if value != 0:
            positive_number(value, name, "0 or ")
    count = len(keras.tree.flatten(x)[0])
    y = None if y is None else keras.tree.map_structure(np.asarray, y)
    parts = [] if y is None else keras.tree.flatten(y)
    if any(part.ndim == 0 or len(part) != count for part in parts):
        raise ValueError(f"Expected as many labels as examples, {count}. Received: {[np.shape(part) for part in parts]}")
    for part in parts:
        check_finite(part, "the labels")
    probabilities, classes = _compared_outputs(student, teacher, x)
    pairs = matching_layers(student, teacher)
    if hint and not pairs:
        raise ValueError("`hint` compares layers of the same path in both models. Expected such butterfly layers. Found none.")
    distiller = Distiller(
        student,
        teacher,
        pairs=pairs,
        soft=soft,
        hint=hint,
        temperature=temperature,
        probabilities=probabilities,
    )
    steps = -(-count // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(positive_number(learning_rate, "learning_rate"), epochs * steps)
    judged = y if y is not None else np.asarray(validation_data[1]) if validation_data is not None else None
    compiled = {} if judged is None else _label_loss(loss, metrics, teacher, probabilities, judged)
    if judged is not None and str(compiled["loss"]).startswith("sparse_categorical"):
        check_labels(judged, count if y is not None else len(judged), classes)
    distiller.compile(keras.optimizers.Adam(rate), jit_compile=jit_compile, **compiled)
    distiller(keras.tree.map_structure(lambda array: array[:1], x))  # a checkpoint is of a built model
    settings: dict = {"epochs": epochs, "batch size": batch_size, "learning rate": learning_rate, "soft": soft, "hint": hint}
    settings |= {"temperature": temperature, "examples": count, "labels": y is not None}
    settings |= {"layers": [type(layer).__name__ for layer in student._flatten_layers()]}
    kept = checkpoint if isinstance(checkpoint, Checkpoint) or checkpoint is None else Checkpoint(checkpoint)
    first = 0 if kept is None else kept.restore(state_of(distiller), settings)
    callbacks = [] if kept is None else [SaveEachEpoch(kept, settings)]
    with Progress(progress) as bars, bars.task("distill", epochs * steps) as advance:
        advance(first * steps)

        def epoch_end(epoch, logs):
            advance(0, f"distill, epoch {epoch + 1} of {epochs}, loss {logs['loss']:.4f}")

        shown = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: advance(1), on_epoch_end=epoch_end)
        history = distiller.fit(
            x,
            y,
            batch_size,
            epochs,
            initial_epoch=first,
            verbose=0,
            validation_data=validation_data,
            callbacks=[*callbacks, shown],
        )
    if kept is not None and kept is not checkpoint:
        kept.remove()
    return history


def _label_loss(loss, metrics, teacher, probabilities: Sequence[bool], y) -> dict:
    """What `compile` takes for the labels.

    Raises:
        ValueError: if no loss was given and none follows from teacher and labels.
    """
    whole = not isinstance(y, dict | list) and np.issubdtype(np.asarray(y).dtype, np.integer)
    classes = whole and list(probabilities) == [True]
    metrics = list(metrics) or (["accuracy"] if classes else [])
    if loss is None and teacher.compiled:
        loss = teacher.loss
    if loss is None and classes:
        loss = "sparse_categorical_crossentropy"
    if loss is None:
        raise ValueError(
            "Expected `loss` for these labels: the teacher is not compiled, and they are not integers for one output of "
            "probabilities. Give it, or leave the labels out to learn from the teacher alone."
        )
    return {"loss": loss, "metrics": metrics}


def matching_layers(student: keras.Model, teacher: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """The student's butterfly layers, each with the teacher's layer of the same path."""
    theirs = dict(named_layers(teacher))
    pairs = {
        id(layer): (layer, theirs[path])
        for path, layer in named_layers(student)
        if isinstance(layer, Butterfly | ButterflyDense) and path in theirs
    }
    return list(pairs.values())


def relative_error(target, output):
    """Mean squared error over the target's mean square."""
    return ops.mean(ops.square(output - target)) / ops.maximum(ops.mean(ops.square(target)), SMALLEST)


def _log(probabilities):
    return ops.log(ops.maximum(probabilities, SMALLEST))


def _run(model, x, layers, training: bool):
    with recorded(layers) as calls:
        return model(x, training=training), calls


def _compared_outputs(student, teacher, x) -> tuple[list[bool], int]:
    """Return whether each output is probabilities, as the first examples show, and the size of the first output's last axis.

    Raises:
        ValueError: if the models give different shapes.
    """
    few = keras.tree.map_structure(lambda array: array[:8], x)
    own, theirs = (
        [ops.convert_to_numpy(output) for output in keras.tree.flatten(model(few, training=False))]
        for model in (student, teacher)
    )
    if [output.shape for output in own] != [output.shape for output in theirs]:
        shapes = [[output.shape for output in outputs] for outputs in (own, theirs)]
        raise ValueError(f"Expected outputs of the same shapes. Received: student {shapes[0]}, teacher {shapes[1]}")
    return [_are_probabilities(output) for output in theirs], theirs[0].shape[-1]


def _are_probabilities(output) -> bool:
    return output.shape[-1] > 1 and bool(output.min() >= 0 and abs(output.sum(-1) - 1).max() < SUM_TOLERANCE)
