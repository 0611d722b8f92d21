"""Networks for images of 32 x 32 pixels in which dense layers are most of the cost: VGG-like, an MLP-Mixer, a transformer."""

from collections.abc import Callable

import keras
from keras import layers

IMAGE = (32, 32, 3)
CLASSES = 10
PATCH = 4  # pixels
TOKENS = (IMAGE[0] // PATCH) ** 2


def vgg(width: int = 4096, channels: tuple[int, ...] = (32, 64, 64)) -> keras.Model:
    """Return a VGG-like classifier: two 3 x 3 convolutions for each of `channels`, and a head of two dense layers.

    Args:
        width: units of each dense layer of the head.
        channels: channels of the convolutions. Behind each pair the image is halved.
    """
    x = images = keras.Input(IMAGE, name="image")
    for stage, count in enumerate(channels):
        for each in range(2):
            x = layers.Conv2D(count, 3, padding="same", activation="relu", name=f"conv_{stage}_{each}")(x)
        x = layers.MaxPooling2D(name=f"pool_{stage}")(x)
    x = layers.Flatten(name="flat")(x)
    for each in range(2):
        x = layers.Dense(width, activation="relu", name=f"head_{each}")(x)
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax", name="class")(x), name="vgg")


def patches(width: int):
    """Return the input of a network and its tokens, (batch, TOKENS, width): patches of 4 x 4 pixels, embedded.

    A convolution with zeros around the image tells the tokens where they are.
    """
    images = keras.Input(IMAGE, name="image")
    x = layers.Conv2D(width, PATCH, strides=PATCH, name="embedding")(images)
    x = x + layers.DepthwiseConv2D(3, padding="same", name="positions")(x)
    return images, layers.Reshape((TOKENS, width), name="tokens")(x)


def two_layers(x, hidden: int, name: str):
    """Return the outputs of two dense layers on the last axis, the first one with `hidden` units and GELU."""
    units = x.shape[-1]
    return layers.Dense(units, name=f"{name}_out")(layers.Dense(hidden, activation="gelu", name=f"{name}_in")(x))


def head(images, x, name: str) -> keras.Model:
    """Return the classifier whose last layers take the mean of the tokens."""
    x = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax", name="class")(x), name=name)


def mixer(width: int = 512, hidden: int = 2048, blocks: int = 4) -> keras.Model:
    """Return an MLP-Mixer: dense layers across the tokens in turn with dense layers across the channels.

    Args:
        width: channels of each token.
        hidden: units of the first dense layer across the channels; that across the tokens has a quarter of `width`.
        blocks: number of blocks.

    Reference: Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, 2021.
    """
    images, x = patches(width)
    for block in range(blocks):
        mixed = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = x + layers.Permute((2, 1))(two_layers(mixed, width // 4, f"tokens_{block}"))
        x = x + two_layers(layers.LayerNormalization()(x), hidden, f"channels_{block}")
    return head(images, x, "mixer")


def transformer(width: int = 512, hidden: int = 2048, blocks: int = 4, heads: int = 8) -> keras.Model:
    """Return a vision transformer: attention in turn with two dense layers on each token.

    Args:
        width: channels of each token.
        hidden: units of the first of the two dense layers.
        blocks: number of blocks.
        heads: number of heads of the attention, which divides `width`.
    """
    images, x = patches(width)
    for block in range(blocks):
        normal = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")(normal, normal)
        x = x + two_layers(layers.LayerNormalization()(x), hidden, f"channels_{block}")
    return head(images, x, "transformer")


MODELS: dict[str, Callable[..., keras.Model]] = {"vgg": vgg, "mixer": mixer, "transformer": transformer}
