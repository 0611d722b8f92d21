"""A layer of the last axis on several last axes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_butterfly import Butterfly
from keras_butterfly.layers.flattened_axes import FlattenedAxes


def test_any_number_of_leading_axes_may_be_unknown(rng):
    inner = layers.Dense(6, use_bias=False)
    inputs = keras.Input((None, None, 2, 4))
    model = keras.Model(inputs, FlattenedAxes(inner, 2, (3, 2), activation="softmax")(inputs))
    assert model.output_shape == (None, None, None, 3, 2)
    for leading in ((2, 3, 1), (1, 4, 2)):
        x = rng.standard_normal((*leading, 2, 4)).astype("float32")
        wanted = (x.reshape(*leading, 8) @ ops.convert_to_numpy(inner.kernel)).reshape(*leading, 3, 2)
        wanted = np.exp(wanted) / np.exp(wanted).sum(-1, keepdims=True)
        np.testing.assert_allclose(ops.convert_to_numpy(model(x)), wanted, atol=1e-5)
        np.testing.assert_allclose(model.predict(x, verbose=0), wanted, atol=1e-5)


def test_a_mask_passes():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(4, 6, mask_zero=True)(inputs)
    y = FlattenedAxes(Butterfly(8, seed=0), 1, (2, 4))(x)
    model = keras.Model(inputs, y)
    output = model(np.array([[1, 2, 3, 0, 0]]))
    assert ops.convert_to_numpy(output._keras_mask).tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"axes": 0, "sizes": (8,)}, None, "`axes` must be a positive integer"),
        ({"axes": 1, "sizes": (0, 8)}, None, "`sizes` must be a positive integer"),
        ({"axes": 2, "sizes": (8,)}, (3, 4), "whose last 2 axes are known, with at least one axis before"),
        ({"axes": 2, "sizes": (8,)}, (None, None, 4), "whose last 2 axes are known"),
        (
            {"axes": 2, "sizes": (3, 4)},
            (None, 2, 4),
            r"a layer of 12 units, for sizes=\(3, 4\). Received: 'inner', which has 8",
        ),
    ],
)
def test_bad_arguments(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        FlattenedAxes(Butterfly(8, name="inner"), **arguments).build(shape)
