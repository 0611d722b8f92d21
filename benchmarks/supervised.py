"""Training a classifier on the labels of a data set, in the way that the benchmarks have in common."""

from math import ceil

import keras
from keras_butterfly_cli.datasets import Data


def fit(
    model: keras.Model, data: Data, rate: float, epochs: int, batch: int, *, optimizer=keras.optimizers.Adam, callbacks=()
) -> keras.callbacks.History:
    """Train a model by the cross-entropy with the labels, with cosine decay of the learning rate, and return the history."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * ceil(len(data.x_train) / batch))
    model.compile(optimizer(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=True)
    return model.fit(data.x_train, data.y_train, batch, epochs, verbose=0, callbacks=list(callbacks))
