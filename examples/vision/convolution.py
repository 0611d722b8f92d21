"""The parts that the networks of this folder share: convolutions, normalization, squeeze-and-excitation, and the final layer.

Batches of images are (batch, height, width, channels). Every function takes and returns tensors of a Keras model.
"""

from collections.abc import Callable

import keras
from keras import layers

FINAL = "classes"


def images(side: int, mean: tuple[float, ...], deviation: tuple[float, ...]):
    """Return an input for square images of `side` pixels, and its standardized values.

    Args:
        side: height and width in pixels.
        mean, deviation: those of each channel, for values from 0 to 255.
    """
    inputs = keras.Input((side, side, len(mean)), name="image")
    scale = [1 / each for each in deviation]
    offset = [-center / each for center, each in zip(mean, deviation, strict=True)]
    return inputs, layers.Rescaling(scale, offset, dtype="float32", name="standardized")(inputs)


def convolution(x, filters: int, size: int, strides: int = 1, *, use_bias: bool = False, groups: int = 1):
    """Return a convolution of `x` with filters of `size` x `size`. The edges are padded with zeros."""
    settings = {"padding": "same", "use_bias": use_bias, "groups": groups, "kernel_initializer": "he_normal"}
    return layers.Conv2D(filters, size, strides, **settings)(x)


def depthwise_convolution(x, size: int, strides: int):
    """Return a convolution of each channel of `x` for itself."""
    return layers.DepthwiseConv2D(size, strides, padding="same", use_bias=False)(x)


def normalized(x, activation: str | None = None):
    """Return `x` after batch normalization, with the constants of PyTorch, and an activation."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return x if activation is None else layers.Activation(activation)(x)


def squeezed_and_excited(x, units: int, activation: str = "relu"):
    """Return `x` with each channel multiplied by a weight from 0 to 1, which two layers compute from the mean of all channels.

    Args:
        x: images.
        units: number of outputs of the first of the two layers.
        activation: activation of the first of the two layers.
    """
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(units, 1, activation=activation)(weights)
    weights = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(weights)
    return layers.Multiply()([x, weights])


def stages(x, block: Callable, channels: tuple[int, ...], blocks: tuple[int, ...]):
    """Return `x` after the stages of a residual network. The first block of each stage but the first halves the image.

    Args:
        x: images.
        block: function (x, channels, strides) of one block.
        channels, blocks: number of channels and of blocks, by stage.
    """
    for stage, (width, count) in enumerate(zip(channels, blocks, strict=True)):
        for number in range(count):
            x = block(x, width, 2 if stage and not number else 1)
    return x


def classified(inputs, x, classes: int, layer, name: str) -> keras.Model:
    """Return a model from `inputs` to logits of the classes: the mean of `x` over all pixels, and the final layer.

    There is no softmax. With probabilities, a network that is sure of a wrong class would get no gradient from the cross
    entropy, because Keras clips them.

    Args:
        inputs: input of the model.
        x: features of the pixels.
        classes: number of classes.
        layer: class of the final layer. It computes in float32.
        name: name of the model.
    """
    if x.ndim == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layer(classes, dtype="float32", name=FINAL)(x), name=name)
