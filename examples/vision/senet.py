"""SENet154 for ImageNet, in the form of github.com/Cadene/pretrained-models.pytorch (pretrainedmodels/models/senet.py).

A residual network with squeeze-and-excitation and grouped convolutions. Its final layer has 2048 inputs and 1000 classes. It is
built, counted and exported here, and not trained.

Reference: Hu, Shen, Albanie, Sun, Wu, *Squeeze-and-Excitation Networks*, 2018.
"""

from functools import partial

import keras
from convolution import classified, convolution, images, normalized, squeezed_and_excited, stages
from keras import layers

SIDE = 224
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CHANNELS, EXPANSION, REDUCTION, GROUPS = (64, 128, 256, 512), 4, 16, 64
DROPOUT = 0.2


def senet154(
    classes: int = 1000, *, width: float = 1.0, layer=layers.Dense, blocks=(3, 8, 36, 3), side: int = SIDE
) -> keras.Model:
    """Return an untrained SENet154.

    Args:
        classes: number of classes.
        width: factor on the number of channels of every convolution, and on the number of groups. 1: the original.
        layer: class of the final layer.
        blocks: number of blocks in each of the four stages.
        side: height and width of the images in pixels.

    Input: images (batch, side, side, 3) from 0 to 255. Output: logits (batch, classes).
    """
    inputs, x = images(side, MEAN, DEVIATION)
    first, groups = round(width * CHANNELS[0]), round(width * GROUPS)
    for channels, strides in ((first, 2), (first, 1), (2 * first, 1)):
        x = normalized(convolution(x, channels, 3, strides), "relu")
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = stages(x, partial(_block, groups), tuple(round(width * channels) for channels in CHANNELS), blocks)
    x = layers.Dropout(DROPOUT)(layers.GlobalAveragePooling2D()(x))
    return classified(inputs, x, classes, layer, "senet154")


def _block(groups: int, inputs, channels: int, strides: int):
    outputs = EXPANSION * channels
    x = normalized(convolution(inputs, 2 * channels, 1), "relu")
    x = normalized(convolution(x, outputs, 3, strides, groups=groups), "relu")
    x = squeezed_and_excited(normalized(convolution(x, outputs, 1)), outputs // REDUCTION)
    same = strides == 1 and inputs.shape[-1] == outputs
    # The first stage keeps the size, and its shortcut looks at one pixel.
    shortcut = inputs if same else normalized(convolution(inputs, outputs, 1 if strides == 1 else 3, strides))
    return layers.ReLU()(layers.Add()([x, shortcut]))
