"""The cost of a model before its training is that after it."""

import keras
import numpy as np
from keras import layers

from keras_butterfly import export
from keras_butterfly.export.compression.costs import make_different


def test_an_untrained_file_is_as_large_as_a_trained_one(rng):
    """In an untrained network many biases and scales are equal, and the file would hold each of them once."""
    inputs = x = keras.Input((8,))
    for _ in range(6):
        x = layers.LayerNormalization()(layers.Dense(8, "relu")(x))
    model = keras.Model(inputs, x)
    untrained = export.to_tflite(model, progress=False).size_bytes
    make_different(model)
    different = export.to_tflite(model, progress=False).size_bytes
    model.set_weights([rng.uniform(0.5, 1, weights.shape) for weights in model.get_weights()])
    assert different == export.to_tflite(model, progress=False).size_bytes > untrained


def test_weights_that_differ_are_not_changed():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    kernel = model.layers[0].get_weights()[0]
    make_different(model)
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)
    assert len(set(np.asarray(model.layers[0].bias).tolist())) == 3
    assert (np.asarray(model.layers[1].moving_variance) > 0).all()
