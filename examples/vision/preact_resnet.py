"""PreActResNet18 for images of 32 x 32 pixels, in the form of github.com/kuangliu/pytorch-cifar (models/preact_resnet.py).

A residual network whose blocks normalize before they convolve. Its final layer has 512 inputs.

Reference: He, Zhang, Ren, Sun, *Identity Mappings in Deep Residual Networks*, 2016.
"""

import cifar
import keras
from convolution import classified, convolution, images, normalized, stages
from keras import layers

CHANNELS = (64, 128, 256, 512)


def preact_resnet18(classes: int = 10, *, width: float = 1.0, layer=layers.Dense, blocks=(2, 2, 2, 2)) -> keras.Model:
    """Return an untrained PreActResNet18.

    Args:
        classes: number of classes.
        width: factor on the number of channels of every convolution. 1: the original.
        layer: class of the final layer.
        blocks: number of blocks in each of the four stages.

    Input: images (batch, 32, 32, 3) from 0 to 255. Output: logits (batch, classes).
    """
    inputs, x = images(cifar.SIDE, cifar.MEAN, cifar.DEVIATION)
    x = convolution(x, round(width * CHANNELS[0]), 3)
    x = stages(x, _block, tuple(round(width * channels) for channels in CHANNELS), blocks)
    return classified(inputs, x, classes, layer, "preact_resnet18")


def _block(x, channels: int, strides: int):
    activated = normalized(x, "relu")
    same = strides == 1 and x.shape[-1] == channels
    shortcut = x if same else convolution(activated, channels, 1, strides)
    x = convolution(activated, channels, 3, strides)
    return layers.Add()([convolution(normalized(x, "relu"), channels, 3), shortcut])
