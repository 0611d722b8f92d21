"""Networks for images of 32 x 32 pixels in which dense layers are most of the cost: VGG-like, an MLP-Mixer, a transformer.

The networks take images with values from 0 to 255. In each of them the argument `width` sets the sizes of all wide layers, so a
smaller width gives the same network, narrower. The argument `dense` is the class of the wide layers. Their names begin as in
`WIDE`. Small layers are always `Dense`.
"""

from collections.abc import Callable

import cifar
import keras
from keras import layers

IMAGE = (cifar.SIDE, cifar.SIDE, 3)
CLASSES = 10
PATCH = 4  # pixels
TOKENS = (IMAGE[0] // PATCH) ** 2
HEADS = 8  # of the attention
WIDE = ("head_", "channels_", "attention_")


def head(width: int = 4096, features: int = 1024, dense=layers.Dense) -> keras.Model:
    """Return the head of the VGG-like classifier alone: two dense layers of `width` units, and one of the classes."""
    x = inputs = keras.Input((features,), name="features")
    return keras.Model(inputs, two_wide(x, width, dense), name="head")


def vgg(width: int = 4096, channels: tuple[int, ...] = (32, 64, 64), dense=layers.Dense) -> keras.Model:
    """Return a VGG-like classifier: two 3 x 3 convolutions for each of `channels`, and a head of two wide layers.

    Args:
        width: units of each wide layer.
        channels: channels of the convolutions. Behind each pair the image is halved.
        dense: class of the wide layers.
    """
    images, x = standardized()
    for stage, count in enumerate(channels):
        for each in range(2):
            x = layers.Conv2D(count, 3, padding="same", activation="relu", name=f"conv_{stage}_{each}")(x)
        x = layers.MaxPooling2D(name=f"pool_{stage}")(x)
    return keras.Model(images, two_wide(layers.Flatten(name="flat")(x), width, dense), name="vgg")


def standardized():
    """Return the input of a network, and its values with mean 0 and deviation 1 in each channel, as they are in CIFAR-10."""
    images = keras.Input(IMAGE, name="image")
    scale = [1 / deviation for deviation in cifar.DEVIATION]
    offset = [-mean / deviation for mean, deviation in zip(cifar.MEAN, cifar.DEVIATION, strict=True)]
    return images, layers.Rescaling(scale, offset, name="standardized")(images)


def two_wide(x, width: int, dense):
    """Return the probabilities of the classes: two wide layers with ReLU on `x`, and a layer with softmax."""
    for each in range(2):
        x = dense(width, activation="relu", name=f"head_{each}")(x)
    return layers.Dense(CLASSES, activation="softmax", name="class")(x)


def mixer(width: int = 512, blocks: int = 2, dense=layers.Dense) -> keras.Model:
    """Return an MLP-Mixer: two dense layers across the tokens in turn with two across the channels.

    Args:
        width: channels of each token. The first layer across the channels has 4 `width` units, and the first across the tokens
            `width` / 4.
        blocks: number of blocks.
        dense: class of the layers across the channels. Those across the tokens are small.

    Reference: Tolstikhin et al., *MLP-Mixer: An all-MLP Architecture for Vision*, 2021.
    """
    images, x = patches(width)
    for block in range(blocks):
        mixed = layers.Permute((2, 1), name=f"across_{block}")(layers.LayerNormalization(name=f"tokens_{block}_norm")(x))
        mixed = feed_forward(mixed, width // 4, layers.Dense, f"tokens_{block}")
        x = x + layers.Permute((2, 1), name=f"back_{block}")(mixed)
        x = x + feed_forward(layers.LayerNormalization(name=f"norm_{block}")(x), 4 * width, dense, f"channels_{block}")
    return classifier(images, x, "mixer")


def transformer(width: int = 512, blocks: int = 2, dense=layers.Dense) -> keras.Model:
    """Return a vision transformer: attention with 8 heads in turn with two dense layers on each token.

    Args:
        width: channels of each token, a multiple of 8. The first of two dense layers has 4 `width` units.
        blocks: number of blocks.
        dense: class of the dense layers, and of the four projections of the attention.

    Reference: Dosovitskiy et al., *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, 2021.
    """
    images, x = patches(width)
    for block in range(blocks):
        x = x + attention(layers.LayerNormalization(name=f"before_{block}")(x), dense, f"attention_{block}")
        x = x + feed_forward(layers.LayerNormalization(name=f"norm_{block}")(x), 4 * width, dense, f"channels_{block}")
    return classifier(images, x, "transformer")


def patches(width: int):
    """Return the input of a network and its tokens, (batch, TOKENS, width): patches of 4 x 4 pixels, embedded.

    A convolution with zeros around the image tells the tokens where they are.
    """
    images, x = standardized()
    x = layers.Conv2D(width, PATCH, strides=PATCH, name="embedding")(x)
    x = x + layers.DepthwiseConv2D(3, padding="same", name="positions")(x)
    return images, layers.Reshape((TOKENS, width), name="tokens")(x)


def feed_forward(x, hidden: int, dense, name: str):
    """Return the outputs of two dense layers on the last axis, the first one with `hidden` units and GELU."""
    units = x.shape[-1]
    return dense(units, name=f"{name}_out")(dense(hidden, activation="gelu", name=f"{name}_in")(x))


def attention(x, dense, name: str):
    """Return the attention of all tokens to all tokens, (batch, TOKENS, width).

    The projections are layers by themselves and not part of `MultiHeadAttention`, so that they can be of any class.
    """
    width = x.shape[-1]

    def heads(part: str):  # (batch, HEADS, TOKENS, width / HEADS)
        split = layers.Reshape((TOKENS, HEADS, width // HEADS), name=f"{name}_{part}_split")
        return layers.Permute((2, 1, 3), name=f"{name}_{part}_heads")(split(dense(width, name=f"{name}_{part}")(x)))

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 1, 3, 2))) * (width // HEADS) ** -0.5
    seen = layers.Permute((2, 1, 3), name=f"{name}_back")(keras.ops.matmul(keras.ops.softmax(scores), value))
    return dense(width, name=f"{name}_output")(layers.Reshape((TOKENS, width), name=f"{name}_join")(seen))


def classifier(inputs, x, name: str, classes: int = CLASSES) -> keras.Model:
    """Return the network whose last layers take the mean of the tokens."""
    x = layers.GlobalAveragePooling1D(name="mean")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="class")(x), name=name)


# Arguments of the networks whose latency is measured, and which are trained on a GPU.
SIZES = {"head": {"width": 4096}, "vgg": {"width": 4096}, "mixer": {"width": 512}, "transformer": {"width": 512}}
# The widths at which the networks with dense layers are as fast as with butterflies of radix 4: what wide_latency.py measured.
WIDTHS_OF_EQUAL_LATENCY = {"vgg": 480, "mixer": 224, "transformer": 224}
MODELS: dict[str, Callable[..., keras.Model]] = {"vgg": vgg, "mixer": mixer, "transformer": transformer}
