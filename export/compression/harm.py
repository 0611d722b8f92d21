"""How much the outputs of a model suffer if one of its layers is replaced."""

from typing import NamedTuple

import keras
import numpy as np

from keras_butterfly.compression.replace import replace_dense
from keras_butterfly.utils.keras_internals import all_layers, held_layers, held_variables
from keras_butterfly.utils.model_inputs import sample
from keras_butterfly.utils.model_walk import layer_at

from .imitation import Lesson, divergence, imitate
from .replaceable import Replaceable
from .structures import Structure

# The brief training of one layer. Larger steps than those of a long training reach further in a short time.
STEPS, LEARNING_RATE = 200, 3e-3
# Examples to which low-rank layers are fitted before that.
FITTED = 512


class Trial(NamedTuple):
    """A layer that was replaced and trained briefly.

    Attributes:
        harm: the divergence of the model's outputs from the original's, 0 or more. Infinite if the training diverged.
        weights: the weights of the new layer.
    """

    harm: float
    weights: list[np.ndarray]


def try_layer(
    model: keras.Model,
    place: Replaceable,
    structure: Structure,
    lesson: Lesson,
    held_back: Lesson,
    batch_size: int,
    seed: int | None,
) -> Trial:
    """Replace one layer of `model`, train the new layer alone for a few steps, and return the trial.

    Args:
        model: the original, which is not changed.
        place: the layer.
        structure: what it becomes.
        lesson: what the new layer learns from.
        held_back: the examples on which the harm is measured.
        batch_size: number of examples of a step.
        seed: seed of the random weights.
    """
    student, _ = replace_dense(
        model,
        where=lambda layer: layer is place.layer,
        data=sample(lesson.x, FITTED),
        steps=0,
        seed=seed,
        progress=False,
        **structure.settings,
    )
    new = layer_at(student, place.path)
    train_only(student, new)
    epochs = max(1, round(STEPS / -(-len(lesson) // batch_size)))
    try:
        imitate(student, lesson, epochs=epochs, batch_size=batch_size, learning_rate=LEARNING_RATE, compiled=False)
    except ValueError:  # the training has diverged
        return Trial(float("inf"), new.get_weights())
    return Trial(divergence(student, held_back), new.get_weights())


def train_only(model: keras.Model, layer: keras.layers.Layer) -> None:
    """Freeze all weights of `model` but those of `layer`."""
    layer.trainable = True
    inside = {id(each) for each in all_layers(layer)}
    for other in all_layers(model):
        if id(other) in inside:
            continue
        if not held_layers(other):  # freezing a container would freeze `layer` in it
            other.trainable = False
        for variable in held_variables(other):
            variable.trainable = False
