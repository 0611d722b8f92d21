"""Tests of regularizers and constraints."""

import keras
import numpy as np
import pytest
from catalogue import squares

from keras_butterfly import Butterfly, ButterflyDense


def test_butterfly_regularizers_add_losses(rng):
    layer = Butterfly(
        5,
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_regularizer=keras.regularizers.L2(0.25),
        activity_regularizer=keras.regularizers.L2(0.125),
    )
    y = layer(rng.standard_normal((3, 16)))
    reference = keras.layers.Activation("linear", activity_regularizer=keras.regularizers.L2(0.125))
    reference(y)  # versions of Keras scale an activity loss by the batch size in different ways
    expected = 0.5 * squares(layer.gadgets) + 0.25 * 5 + float(sum(reference.losses))
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


def test_dense_regularizers_add_losses():
    layer = ButterflyDense(
        5,
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_regularizer=keras.regularizers.L2(0.25),
        butterfly_regularizer=keras.regularizers.L2(0.125),
    )
    layer.build((None, 16))
    butterflies = squares(layer.j1.gadgets) + squares(layer.j2_t.gadgets)
    expected = 0.5 * squares(layer.middle_kernel) + 0.25 * 5 + 0.125 * butterflies
    np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_constraints_hold_after_a_step(cls):
    constraints = {"kernel_constraint": "non_neg", "bias_constraint": "non_neg"}
    if cls is ButterflyDense:
        constraints["butterfly_constraint"] = "non_neg"
    layer = cls(5, **constraints)
    layer.build((None, 16))
    assert min(weights.min() for weights in layer.get_weights()) < 0
    gradients = [keras.ops.ones(weight.shape) for weight in layer.trainable_weights]
    keras.optimizers.SGD(0.01).apply(gradients, layer.trainable_weights)
    for weights in layer.get_weights():
        assert weights.min() >= 0
    assert any(weights.max() > 0 for weights in layer.get_weights())
