"""Classifiers of images whose final dense layer is replaced, and the recipes by which they are trained from scratch.

`NETWORKS` has the networks of the paper, `KINDS` what becomes of their final layer, and `RECIPES` the ways to train them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import keras
import numpy as np
from convolution import FINAL
from efficientnet import efficientnet_b0
from keras import ops
from preact_resnet import preact_resnet18
from pruning import PrunedDense
from se_resnet import se_resnet152

from keras_butterfly import replace_dense


@dataclass(frozen=True)
class Network:
    """A network is a function that builds it, and the data set on which it is trained.

    Attributes:
        build: a function of `classes`, `width` and `layer`, which returns an untrained model.
        data: name of the data set, see cifar.py.
    """

    build: Callable[..., keras.Model]
    data: str


# SENet154 is in senet.py. It is not among these, because it is not trained.
NETWORKS = {
    "preact_resnet18": Network(preact_resnet18, "cifar10"),
    "efficientnet_b0": Network(efficientnet_b0, "cifar10"),
    "se_resnet152": Network(se_resnet152, "cifar100"),
}


@dataclass(frozen=True)
class Recipe:
    """A recipe is a width of the network, and how it is trained.

    The optimizer is SGD with momentum 0.9. Its learning rate follows a cosine to zero.

    Attributes:
        width: factor on the number of channels.
        images: number of training images, the first of the data set. None: all that are not held out.
        batch, epochs: images in a batch, and passes over the training images.
        rates: learning rates, rising, of which every kind gets its best. The search begins in the middle.
        warm_up: part of the training in which the rate rises from zero.
        nesterov: whether the momentum is Nesterov's.
        precision: Keras's dtype policy of all layers but the final one.
        backup: number of epochs between two backups.
        weight_decay: factor on the weights that is added to their gradients.
    """

    width: float
    images: int | None
    batch: int
    epochs: int
    rates: tuple[float, ...]
    warm_up: float
    nesterov: bool
    precision: str
    backup: int
    weight_decay: float = 5e-4


RECIPES = {
    "paper": Recipe(1.0, None, 128, 200, (1e-3,), 0.0, False, "float32", 5),
    "gpu": Recipe(1.0, None, 256, 12, (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4), 0.2, True, "mixed_bfloat16", 4),
    "cpu": Recipe(0.25, 5_000, 64, 6, (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4), 0.2, True, "float32", 1),
    "quick": Recipe(0.125, None, 20, 4, (0.05,), 0.2, True, "float32", 1),
}

DENSE, PAPER, PAPER_LARGER = "dense", "J2^T W' J1", "J2^T W' J1, full rank"
BUTTERFLY, LOW_RANK, PRUNED = "butterfly", "low rank", "dense, pruned"
KINDS = (DENSE, PAPER, PAPER_LARGER, BUTTERFLY, LOW_RANK, PRUNED)


def classifier(kind: str, network: str, recipe: Recipe, seed: int, classes: int = 10) -> keras.Model:
    """Return an untrained classifier of a kind.

    "dense": the original.
    "J2^T W' J1": the paper's, `ButterflyDense` in the final layer, with the sizes k that are its default.
    "J2^T W' J1, full rank": the same with k1 and k2 equal to the number of classes.
    "butterfly": `Butterfly` in the final layer.
    "low rank": two thin matrices with at most as many weights as the paper's final layer.
    "dense, pruned": a final layer that keeps as many weights as the paper's. It must be trained with `MagnitudePruning`.

    All kinds of one seed start from the same weights in all other layers.

    Args:
        kind: one of `KINDS`.
        network: name in `NETWORKS`.
        recipe: width and precision of the network.
        seed: seed of the initial weights.
        classes: number of classes.
    """
    keras.utils.set_random_seed(seed)
    with _policy(recipe.precision):
        layer = PrunedDense if kind == PRUNED else keras.layers.Dense
        model = NETWORKS[network].build(classes, width=recipe.width, layer=layer)
    if kind == PAPER:
        return _replaced(model, seed, kind="butterfly_dense")
    if kind == PAPER_LARGER:
        return _replaced(model, seed, kind="butterfly_dense", k=classes)
    if kind == BUTTERFLY:
        return _replaced(model, seed, kind="butterfly")
    if kind == LOW_RANK:
        inputs, outputs = model.get_layer(FINAL).kernel.shape
        rank = (final_weights(_replaced(model, seed, kind="butterfly_dense")) - outputs) // (inputs + outputs)
        return _replaced(model, seed, kind="low_rank", rank=max(1, rank))
    return model


@contextmanager
def _policy(precision: str) -> Iterator[None]:
    """Let layers that are made within have the dtype policy `precision`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _replaced(model: keras.Model, seed: int, **settings) -> keras.Model:
    return replace_dense(model, where=FINAL, initialize="fresh", seed=seed, progress=False, **settings)[0]


def weights_of(model: keras.Model) -> int:
    """Return the number of trainable weights. Of a pruned layer it is the number of those that are left."""
    masks = [ops.convert_to_numpy(layer.mask) for layer in model.layers if isinstance(layer, PrunedDense)]
    return sum(prod(each.shape) for each in model.trainable_variables) - sum(mask.size - int(mask.sum()) for mask in masks)


def final_weights(model: keras.Model) -> int:
    """Return the number of weights of the final layer, of a pruned layer those that are left."""
    layer = model.get_layer(FINAL)
    pruned = int(np.sum(ops.convert_to_numpy(layer.mask) == 0)) if isinstance(layer, PrunedDense) else 0
    return sum(prod(each.shape) for each in layer.trainable_variables) - pruned


class DecayedSGD(keras.optimizers.SGD):
    """SGD whose weight decay is added to the gradients, before the momentum, as in PyTorch.

    With `weight_decay` of Keras the weights themselves decay, which with momentum 0.9 is ten times weaker.
    """

    def __init__(self, learning_rate, decay: float, **settings):
        super().__init__(learning_rate, **settings)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient + self.decay * ops.cast(variable, gradient.dtype), variable, learning_rate)


def optimizer_of(recipe: Recipe, rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe.

    Args:
        recipe: the recipe.
        rate: largest learning rate.
        steps: number of steps of the whole training.
    """
    rising = round(recipe.warm_up * steps)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    if rising:
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - rising, warmup_target=rate, warmup_steps=rising)
    return DecayedSGD(schedule, recipe.weight_decay, momentum=0.9, nesterov=recipe.nesterov)


def loss_of_logits() -> keras.losses.Loss:
    """Return the loss of all recipes: the cross entropy of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_classifier(path: Path) -> keras.Model:
    """Return a classifier that was saved."""
    return keras.models.load_model(path, custom_objects={"PrunedDense": PrunedDense}, compile=False)
