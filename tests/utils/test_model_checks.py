"""Checks of models, the same at every public function that takes one."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import distill, export, replace_dense, summary, two_phase_fit

X = np.zeros((4, 8), "float32")


def dense():
    return keras.Sequential([keras.Input((8,)), layers.Dense(3)])


class OfKeras2:
    """What a model of tf_keras looks like from outside."""

    built = True
    __module__ = "tf_keras.src.engine.training"


FUNCTIONS = [
    lambda model: replace_dense(model),
    lambda model: distill(model, dense(), X),
    lambda model: distill(dense(), model, X),
    lambda model: two_phase_fit(model, X, X, epochs=(1, 1)),
    lambda model: summary(model),
    lambda model: export.to_tflite(model),
    lambda model: export.pareto_front(model),
    lambda model: export.compress(model, (X, [0] * 4), target_size=1),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_model_of_keras_3(function):
    with pytest.raises(ValueError, match=r'must be a model of Keras 3. .*load_model\("m.h5", compile=False\)'):
        function(OfKeras2())
    with pytest.raises(ValueError, match=r"must be a keras.Model. Received: Dense. Wrap a layer"):
        function(layers.Dense(3))
