"""Training a student to give outputs that were computed before by the original."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_butterfly.compression.distillation import are_probabilities, default_optimizer, difference, labels_and_loss
from keras_butterfly.utils.model_checks import check_finite_weights
from keras_butterfly.utils.model_inputs import examples_at, fixed_batch_size
from keras_butterfly.utils.quiet import quiet_tensorflow, warnings_not_raised

TEMPERATURE = 1.0
PREDICTED = 256


@dataclass(frozen=True)
class Lesson:
    """What a student learns from: examples, the outputs of the original on them, and labels if there are any.

    Attributes:
        x: inputs of the model.
        targets: the outputs of the original on `x`, in the order of the model's outputs.
        y: labels, or None.
        loss: the loss of the labels, as `compile` takes it. None: that of `distill`.
    """

    x: Any
    targets: tuple[np.ndarray, ...] = field(repr=False)
    y: Any = None
    loss: Any = None

    @classmethod
    def of(cls, model: keras.Model, x, y=None, loss=None) -> "Lesson":
        """Return the lesson that `model`, the original, gives on the inputs `x`.

        Raises:
            ValueError: if the labels `y` do not fit the loss.
        """
        labels = () if y is None else labels_and_loss(model, x, y, loss)
        return cls(x, outputs_of(model, x), *labels)

    @property
    def probabilities(self) -> tuple[bool, ...]:
        """Return for each output whether it is probabilities over the last axis."""
        return tuple(are_probabilities(target[:8]) for target in self.targets)

    def part(self, index) -> "Lesson":
        """Return the lesson of the examples at `index`, without labels."""
        return Lesson(examples_at(self.x, index), tuple(target[index] for target in self.targets))

    def __len__(self) -> int:
        return len(self.targets[0])


class Imitator(keras.Model):
    """A model that trains a student. `fit` is given the outputs of the original, so that these are computed only once.

    The loss is that of `distill`: the difference of the outputs, and the loss of the labels if `compile` was given one.

    Args:
        student: the model to train.
        probabilities: for each output, whether it is probabilities over the last axis.
    """

    def __init__(self, student: keras.Model, probabilities: Sequence[bool], **kwargs):
        super().__init__(**kwargs)
        self.student, self.probabilities = student, tuple(probabilities)

    def call(self, inputs, training=False):
        return self.student(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = keras.tree.flatten(y_pred)
        pairs = zip(y["targets"], outputs, self.probabilities, strict=True)
        loss = sum(difference(target, output, kind, TEMPERATURE) for target, output, kind in pairs)
        if "labels" in y:  # this adds the penalties of regularizers too
            return loss + super().compute_loss(x, y["labels"], y_pred, sample_weight, training)
        return loss + sum(self.losses)


class _EndIf(keras.callbacks.Callback):
    """A callback that ends the training after an epoch, but for the last, if `is_over` returns True."""

    def __init__(self, is_over: Callable[[], bool]):
        super().__init__()
        self.is_over = is_over

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.params["epochs"] and self.is_over():
            self.model.stop_training = True


@warnings_not_raised()
@quiet_tensorflow()
def imitate(
    student: keras.Model,
    lesson: Lesson,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    compiled: bool,
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Train `student`, in place, and return whether it has trained for all epochs.

    Adam's learning rate decays from `learning_rate` to 0 by a cosine.

    Args:
        student: a built model.
        lesson: what it learns from.
        epochs: passes over the examples.
        batch_size: number of examples of a step.
        learning_rate: the initial learning rate.
        compiled: whether to let XLA compile the step. This takes seconds, and makes each step faster.
        is_over: is called between epochs. If it returns True, the training ends.

    Raises:
        ValueError: if the training has made weights NaN or infinite.
    """
    imitator = Imitator(student, lesson.probabilities)
    optimizer = default_optimizer(learning_rate, epochs * -(-len(lesson) // batch_size))
    loss = {} if lesson.y is None else {"loss": lesson.loss}
    imitator.compile(optimizer, jit_compile="auto" if compiled else False, **loss)
    wanted: dict[str, Any] = {"targets": list(lesson.targets)}
    if lesson.y is not None:
        wanted["labels"] = lesson.y
    history = imitator.fit(lesson.x, wanted, batch_size, epochs, verbose=0, callbacks=[_EndIf(is_over)])
    check_finite_weights(student)
    return len(history.epoch) == epochs


def outputs_of(model: keras.Model, x) -> tuple[np.ndarray, ...]:
    """Return the outputs of `model` on the inputs `x` as float32 arrays, in the order of the model's outputs."""
    with quiet_tensorflow():
        outputs = model.predict(x, batch_size=fixed_batch_size(model) or PREDICTED, verbose=0)
    return tuple(np.asarray(output, np.float32) for output in keras.tree.flatten(outputs))


def divergence(student: keras.Model, lesson: Lesson) -> float:
    """Return how far the outputs of `student` are from those of the original, summed over the outputs.

    It is the mean Kullback-Leibler divergence of probabilities, and the relative squared error of other outputs.
    """
    outputs = outputs_of(student, lesson.x)
    pairs = zip(lesson.targets, outputs, lesson.probabilities, strict=True)
    return float(sum(keras.ops.convert_to_numpy(difference(target, output, kind, 1.0)) for target, output, kind in pairs))
