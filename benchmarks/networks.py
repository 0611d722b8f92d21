"""The dense networks that `benchmarks/fronts.py` compresses, and the inputs that they take.

Each network has one argument for the widths of all of its wide layers.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras_butterfly_cli.datasets import Data

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "dense_heavy"))

import wide_models

HEADS = 4  # of the attention
BLOCKS = 2
# The width of the head of the VGG-like network for each channel of its first convolutions.
UNITS_PER_CHANNEL = 128
# Of a window of HAPT: its channels, the samples of each channel, and how many samples make a token.
CHANNELS, SAMPLES, PATCH = 6, 128, 8


def perceptron(data: Data, width: int) -> keras.Model:
    """Return a network of two dense hidden layers of `width` units with ReLU, for rows of features."""
    hidden = [layers.Dense(width, activation="relu", name=f"hidden_{index}") for index in range(2)]
    head = layers.Dense(data.classes, activation="softmax", name="class")
    return keras.Sequential([keras.Input(data.x_train.shape[1:]), *hidden, head])


def transformer(data: Data, width: int) -> keras.Model:
    """Return a transformer of two pre-norm blocks with `width` channels, a multiple of 4, for rows of tokens.

    A convolution with zeros before the first token and behind the last one tells the tokens where they are.
    """
    tokens = keras.Input(data.x_train.shape[1:])
    x = layers.Dense(width, name="embedding")(tokens)
    x = x + layers.DepthwiseConv1D(3, padding="same", name="positions")(x)
    for block in range(BLOCKS):
        normal = layers.LayerNormalization(name=f"before_{block}")(x)
        x = x + layers.MultiHeadAttention(HEADS, width // HEADS, name=f"attention_{block}")(normal, normal)
        normal = layers.LayerNormalization(name=f"norm_{block}")(x)
        x = x + wide_models.feed_forward(normal, 4 * width, layers.Dense, f"channels_{block}")
    return wide_models.classifier(tokens, x, "transformer", data.classes)


def vgg(data: Data, width: int) -> keras.Model:
    """Return a VGG-like network with a head of two layers of `width` units, for images of 32 x 32 pixels.

    Its convolutions become narrower with its head: there are 8, 16 and 32 channels for a width of 1024.
    """
    channels = max(1, width // UNITS_PER_CHANNEL)
    return wide_models.vgg(width, (channels, 2 * channels, 4 * channels))


def tokens(x: np.ndarray) -> np.ndarray:
    """Return windows of HAPT, in rows with channel after channel, as tokens: (windows, 16, 48).

    A token is 8 successive samples of all 6 channels.
    """
    samples = x.reshape(-1, CHANNELS, SAMPLES).transpose(0, 2, 1)  # (windows, samples, channels)
    return samples.reshape(len(x), SAMPLES // PATCH, PATCH * CHANNELS).astype(np.float32)


def pixels(x: np.ndarray) -> np.ndarray:
    """Return images in rows, with values from 0 to 1, as images of 32 x 32 pixels with values from 0 to 255."""
    return 255 * x.reshape(-1, *wide_models.IMAGE)
