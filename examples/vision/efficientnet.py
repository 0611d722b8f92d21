"""EfficientNet-B0 for images of 32 x 32 pixels, in the form of github.com/kuangliu/pytorch-cifar (models/efficientnet.py).

Unlike the original, the first convolution keeps the size of the image, and the final layer follows the last block: it has 320
inputs instead of 1280.

Reference: Tan, Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, 2019.
"""

from typing import NamedTuple

import cifar
import keras
from convolution import classified, convolution, depthwise_convolution, images, normalized, squeezed_and_excited
from keras import layers

# Part of the features that are dropped before the final layer, and of the blocks that are dropped in the last stage.
DROPOUT = 0.2


class Stage(NamedTuple):
    """A stage is a number of blocks with the same sizes. Only its first block has the strides."""

    expansion: int
    channels: int
    blocks: int
    size: int
    strides: int


STAGES = (
    Stage(1, 16, 1, 3, 1),
    Stage(6, 24, 2, 3, 2),
    Stage(6, 40, 2, 5, 2),
    Stage(6, 80, 3, 3, 2),
    Stage(6, 112, 3, 5, 1),
    Stage(6, 192, 4, 5, 2),
    Stage(6, 320, 1, 3, 1),
)


def efficientnet_b0(classes: int = 10, *, width: float = 1.0, layer=layers.Dense, stages=STAGES) -> keras.Model:
    """Return an untrained EfficientNet-B0.

    Args:
        classes: number of classes.
        width: factor on the number of channels of every convolution. 1: the original.
        layer: class of the final layer.
        stages: the stages of blocks.

    Input: images (batch, 32, 32, 3) from 0 to 255. Output: logits (batch, classes).
    """
    inputs, x = images(cifar.SIDE, cifar.MEAN, cifar.DEVIATION)
    x = normalized(convolution(x, round(width * 32), 3), "swish")
    total, done = sum(stage.blocks for stage in stages), 0
    for stage in stages:
        for block in range(stage.blocks):
            strides = stage.strides if block == 0 else 1
            x = _block(x, stage.expansion, round(width * stage.channels), stage.size, strides, DROPOUT * done / total)
            done += 1
    x = layers.Dropout(DROPOUT)(layers.GlobalAveragePooling2D()(x))
    return classified(inputs, x, classes, layer, "efficientnet_b0")


def _block(x, expansion: int, channels: int, size: int, strides: int, dropped: float):
    """Return the outputs of a block: expansion, a convolution of each channel, squeeze-and-excitation, and projection."""
    inputs, before = x, x.shape[-1]
    if expansion > 1:
        x = normalized(convolution(x, expansion * before, 1), "swish")
    x = normalized(depthwise_convolution(x, size, strides), "swish")
    x = squeezed_and_excited(x, max(1, before // 4), "swish")
    x = normalized(convolution(x, channels, 1))
    if strides > 1 or before != channels:
        return x
    # The whole block is dropped for an image, so that only its inputs are passed on.
    return layers.Add()([layers.Dropout(dropped, noise_shape=(None, 1, 1, 1))(x) if dropped else x, inputs])
