"""SE-ResNet152 for images of 32 x 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100 (models/senet.py).

A residual network with squeeze-and-excitation. Its final layer has 2048 inputs, and 100 classes for CIFAR-100.

Reference: Hu, Shen, Albanie, Sun, Wu, *Squeeze-and-Excitation Networks*, 2018.
"""

import cifar
import keras
from convolution import classified, convolution, images, normalized, squeezed_and_excited, stages
from keras import layers

CHANNELS, EXPANSION, REDUCTION = (64, 128, 256, 512), 4, 16


def se_resnet152(classes: int = 100, *, width: float = 1.0, layer=layers.Dense, blocks=(3, 8, 36, 3)) -> keras.Model:
    """Return an untrained SE-ResNet152.

    Args:
        classes: number of classes.
        width: factor on the number of channels of every convolution. 1: the original.
        layer: class of the final layer.
        blocks: number of blocks in each of the four stages.

    Input: images (batch, 32, 32, 3) from 0 to 255. Output: logits (batch, classes).
    """
    inputs, x = images(cifar.SIDE, cifar.MEAN, cifar.DEVIATION)
    x = normalized(convolution(x, round(width * CHANNELS[0]), 3, use_bias=True), "relu")
    x = stages(x, _block, tuple(round(width * channels) for channels in CHANNELS), blocks)
    return classified(inputs, x, classes, layer, "se_resnet152")


def _block(inputs, channels: int, strides: int):
    outputs = EXPANSION * channels
    x = normalized(convolution(inputs, channels, 1, use_bias=True), "relu")
    x = normalized(convolution(x, channels, 3, strides, use_bias=True), "relu")
    x = normalized(convolution(x, outputs, 1, use_bias=True), "relu")
    x = squeezed_and_excited(x, outputs // REDUCTION)
    same = strides == 1 and inputs.shape[-1] == outputs
    shortcut = inputs if same else normalized(convolution(inputs, outputs, 1, strides, use_bias=True))
    return layers.ReLU()(layers.Add()([x, shortcut]))
