"""How good the outputs of an exported model are: its accuracy, or how well it agrees with the original."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_butterfly.utils.labels import check_labels
from keras_butterfly.utils.model_inputs import as_array

from ..model import TFLiteModel
from ..tflite.parity import Decision


def accuracy(labels, outputs, decision: Decision | None = None) -> float:
    """Return the part of the examples that the outputs classify correctly.

    The guess is the class of the largest output. A model with a single output guesses class 1 if the output is above 1/2, or
    above 0 if `decision` is "positive".

    Raises:
        ValueError: if the labels are neither one integer for each example nor one-hot, or beyond the classes, or if the model
            has several outputs.
    """
    if isinstance(outputs, list):
        raise ValueError(
            f"Expected a model of one output, the argument `metric`, or no labels. Received: {len(outputs)} outputs and labels."
        )
    labels = as_integers(labels, outputs)
    is_fraction = np.issubdtype(labels.dtype, np.floating) and np.mod(labels, 1).any()
    if is_fraction or (labels.shape == outputs.shape and labels.ndim > 1 and labels.shape[-1] > 1):
        raise ValueError(
            "Expected labels that are classes, integers or one-hot, to count the correct outputs. Received numbers that are "
            f"neither, of shape {labels.shape}. Leave the labels out, or give the argument `metric`."
        )
    guesses = outputs[..., 0] > border(decision) if outputs.shape[-1] == 1 else outputs.argmax(-1)
    flat = labels.reshape(-1) if labels.size == guesses.size and labels.ndim else labels
    return float(np.mean(guesses.reshape(-1) == check_labels(flat, guesses.size, max(outputs.shape[-1], 2))))


def as_integers(labels, outputs) -> np.ndarray:
    """Return labels that are one-hot in the shape of the outputs as integers, and all others as they are."""
    array = np.asarray(labels)
    one_hot = array.shape == outputs.shape and array.shape[-1] > 1 and np.isin(array, (0, 1)).all()
    return array.argmax(-1) if one_hot and (array.sum(-1) == 1).all() else array


def border(decision: Decision | None) -> float:
    """Return the value above which a single output decides for class 1."""
    return 0.0 if decision == "positive" else 0.5


def check_scorable(labels, outputs: list, examples: int) -> None:
    """Check that `accuracy` can score `labels`, given each output on the first of the examples.

    Raises:
        ValueError: as `accuracy`.
    """
    accuracy(labels, outputs if len(outputs) > 1 else np.broadcast_to(outputs[0][:1], (examples, *outputs[0].shape[1:])))


@dataclass(frozen=True)
class Score:
    """A function of an exported model: a number that says how good the model is. Higher is better.

    Attributes:
        x: the inputs that models are scored on.
        y: their labels, or None.
        metric: function of (y, outputs). None: the accuracy. Without labels: how well the model agrees with the original.
        expected: without labels, the outputs of the original on `x`, in the order of the model's outputs.
        decisions: how each output decides about a class, or None where that is not known.
    """

    x: Any
    y: Any
    metric: Callable | None
    expected: tuple[np.ndarray, ...] = ()
    decisions: tuple[Decision | None, ...] = ()

    @property
    def name(self) -> str:
        """The name of the score in tables and sentences, such as "accuracy"."""
        if self.metric is not None:
            return "score"
        return "accuracy" if self.y is not None else "agreement with the original"

    def __call__(self, exported: TFLiteModel) -> float:
        """Return the score of `exported`."""
        flat = keras.tree.flatten(self.x)
        outputs = exported.predict(flat if len(flat) > 1 else flat[0])
        if self.metric is not None:
            return self._by_metric(outputs)
        if self.y is not None:
            return accuracy(self.y, outputs, *self.decisions)
        listed = outputs if isinstance(outputs, list) else [outputs]
        pairs = zip(self.expected, map(_as_floats, listed), self.decisions, strict=True)
        return float(np.mean([agreement(*pair) for pair in pairs]))

    def _by_metric(self, outputs) -> float:
        """Return the score of outputs by the user's metric.

        Raises:
            ValueError: if it is not a finite number.
        """
        if isinstance(self.metric, keras.metrics.Metric):  # It would count the outputs of the models before too.
            self.metric.reset_state()
        value = self.metric(self.y, outputs)  # type: ignore[misc]
        try:
            number = float(value) if np.size(value) == 1 else np.nan
        except (TypeError, ValueError):  # None, for example, or a text
            number = np.nan
        if not np.isfinite(number):
            raise ValueError(f"Expected a finite number from `metric`. Received: {value!r}")
        return number


def agreement(expected: np.ndarray, output: np.ndarray, decision: Decision | None) -> float:
    """Return how well an output agrees with that of the original. 1 is full agreement.

    It is the part of the examples on which both decide for the same class. If an output does not decide about a class, it is 1
    minus the relative error in the 2-norm.
    """
    if decision == "largest":
        return float(np.mean(expected.argmax(-1) == output.argmax(-1)))
    if decision is not None:
        return float(np.mean((expected > border(decision)) == (output > border(decision))))
    return 1.0 - float(np.linalg.norm(output - expected) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny))


def _as_floats(output) -> np.ndarray:
    return as_array(output, "an output").astype(np.float32)
