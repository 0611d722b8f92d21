"""Tests of the learning rate of butterfly weights: the stored weights, and how far a step changes the used weights."""

import keras
import numpy as np
import pytest
from backend import NAME, value_and_gradients

from keras_butterfly import Butterfly, ButterflyAutoencoder, ButterflyDense, Kaleidoscope
from keras_butterfly.layers.learning_rate import Multipliers, used_weights
from keras_butterfly.sketching import ButterflySketch

numpy = keras.ops.convert_to_numpy
# name -> (size of the input's last axis, arguments of Butterfly)
SHAPES = {
    "square": (16, {}),
    "truncated": (16, {"units": 5, "truncation": "random"}),
    "expanded": (6, {"units": 20}),
    "stacked": (16, {"units": 5, "stacks": 3}),
}
# name -> (maker, which of the two factors applies). Epsilon is near zero, so that Adam's step does not depend on the scale.
OPTIMIZERS = {
    "sgd": (keras.optimizers.SGD, "sgd"),
    "momentum": (lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), "sgd"),
    "adam": (lambda rate: keras.optimizers.Adam(rate, epsilon=1e-15), "adaptive"),
    "rmsprop": (lambda rate: keras.optimizers.RMSprop(rate, epsilon=1e-30), "adaptive"),
}
shapes = pytest.mark.parametrize("shape", SHAPES)
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)
# name -> (maker of a layer or model that takes `lr_multiplier`, function that returns its butterflies)
MAKERS = {
    "butterfly": (lambda **arguments: Butterfly(5, seed=0, **arguments), lambda layer: [layer]),
    "dense": (lambda **arguments: ButterflyDense(5, seed=0, **arguments), lambda layer: [layer.j1, layer.j2_t]),
    "product": (lambda **arguments: Kaleidoscope(5, width=2, seed=0, **arguments), lambda layer: layer.butterflies),
    "autoencoder": (lambda **arguments: ButterflyAutoencoder(2, seed=0, **arguments), lambda model: [model.butterfly]),
    "sketch": (lambda **arguments: ButterflySketch(5, seed=0, **arguments), lambda sketch: [sketch.butterfly]),
}
makers = pytest.mark.parametrize("maker", MAKERS)


def built(shape, **arguments):
    features, settings = SHAPES[shape]
    layer = Butterfly(**{"seed": 1, **settings, **arguments})
    layer.build((None, features))
    return layer


def train(layer, optimizer, steps=1):
    """Train a built layer alone, on the same data at every call."""
    rng, (features, units) = np.random.default_rng(0), layer.kernel.shape
    model = keras.Sequential([keras.Input((features,), dtype=layer.compute_dtype), layer])
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype=layer.compute_dtype), run_eagerly=NAME == "tensorflow")
    x, y = (rng.standard_normal((6, size)).astype(layer.compute_dtype) for size in (features, units))
    for _ in range(steps):
        model.train_on_batch(x, y)
    return layer


def close(found, expected, tolerance=1e-5):
    expected = numpy(expected)
    np.testing.assert_allclose(numpy(found), expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=1e-30))


@pytest.mark.parametrize("factors", [(1.0, 1.0), (4.0, 4.0), (10.0, 0.5), (2.0, 4.0), (0.1, 0.01)])
def test_used_has_the_value_of_one_factor_and_the_slope_of_the_other(factors, rng):
    adaptive, sgd = factors
    stored, upstream = rng.standard_normal((2, 7)).astype("float32")
    value, (gradient,) = value_and_gradients(lambda x: used_weights(x, Multipliers(adaptive, sgd)), [stored], upstream)
    close(value, adaptive * stored, 1e-6)
    close(gradient, sgd / adaptive * upstream, 1e-6)


@pytest.mark.parametrize("factors", [(0.01, 0.01), (1e-6, 1e-6), (0.1, 3.0)])
def test_used_is_precise_for_small_factors_too(factors, rng):
    stored = rng.standard_normal(100).astype("float32")
    close(used_weights(stored, Multipliers(*factors)), factors[0] * stored, 1e-6)


@shapes
@pytest.mark.parametrize("lr_multiplier", [None, 4, 0.25])
def test_weights_are_stored_divided_by_the_factor_for_adam(shape, lr_multiplier):
    layer = built(shape, lr_multiplier=lr_multiplier)
    close(layer._multipliers.adaptive * numpy(layer.gadgets), layer.gadget_weights, 1e-6)


@pytest.mark.parametrize(
    ("optimizer", "lr_multiplier", "shape"),
    [
        *((optimizer, None, "stacked") for optimizer in OPTIMIZERS),
        *((optimizer, None, shape) for optimizer in ("sgd", "adam") for shape in ("square", "truncated", "expanded")),
        ("sgd", 0.25, "truncated"),
        ("adam", 4, "stacked"),
    ],
    ids=str,
)
def test_steps_are_those_at_the_multiplied_learning_rate(optimizer, shape, lr_multiplier):
    """Compare with a layer whose two factors are 1, trained with the learning rate times the factor of the optimizer."""
    make, kind = OPTIMIZERS[optimizer]
    found, expected = (
        built(shape, use_bias=False, lr_multiplier=multiplier, dtype="float64") for multiplier in (lr_multiplier, 1)
    )
    before, factor = numpy(found.gadget_weights), getattr(found._multipliers, kind)
    assert (expected._multipliers.adaptive, expected._multipliers.sgd) == (1, 1)
    assert lr_multiplier in (None, factor)
    assert factor != 1
    expected.set_gadget_weights(before)  # initial weights are in float32
    train(found, make(0.001), steps=3)
    train(expected, make(0.001 * factor), steps=3)
    moved, wanted = numpy(found.gadget_weights) - before, numpy(expected.gadget_weights) - before
    assert np.abs(wanted).max() > 1e-4
    assert np.linalg.norm(moved - wanted) < (1e-3 if NAME == "torch" else 1e-4) * np.linalg.norm(wanted)


@optimizers
@pytest.mark.parametrize(("lr_multiplier", "stacks"), [(None, 1), (None, 3), (4, 3)])
def test_bias_learns_at_the_plain_rate(optimizer, lr_multiplier, stacks):
    """Compare with the bias of a Dense layer of the same kernel."""
    layer = Butterfly(5, stacks=stacks, lr_multiplier=lr_multiplier, bias_initializer="ones", seed=1)
    dense = keras.layers.Dense(5, bias_initializer="ones")
    for each in (layer, dense):
        each.build((None, 16))
    dense.kernel.assign(layer.kernel)
    for each in (layer, dense):
        train(each, OPTIMIZERS[optimizer][0](0.01))
    assert np.abs(numpy(dense.bias) - 1).max() > 1e-3
    close(numpy(layer.bias) - 1, numpy(dense.bias) - 1, 1e-4)


def test_bias_is_a_plain_variable():
    layer = built("stacked", bias_initializer="ones")
    assert any(layer.bias is weight for weight in layer.trainable_weights)
    np.testing.assert_array_equal(numpy(layer.weights[1]), np.ones(5))
    layer.bias.assign(np.arange(5.0))
    np.testing.assert_array_equal(numpy(layer.affine(np.zeros((1, 16), "float32")))[0], np.arange(5.0))
    assert built("stacked", use_bias=False).bias is None


@pytest.mark.parametrize(
    ("features", "arguments", "nodes", "fan_ins", "spread"),
    [
        (64, {"units": 64}, 64, 4 + 4 + 4, 1),
        (1024, {"units": 1024, "radix": 2}, 1024, 10 * 2, 1),
        (784, {"units": 1024}, 1024, 5 * 4, 1),  # 784 and 1024 have the same power of two
        (1024, {"units": 1024, "radix": (32, 32)}, 1024, 32 + 32, 1),
        (1024, {"units": 64}, 1024, 5 * 4, 1),  # a layer that narrows spreads nothing
        (48, {"units": 1024}, 1024, 5 * 4, 16),
        (1, {"units": 16}, 16, 4 + 4, 16),
        (64, {"units": 1024, "transposed": True, "truncation": "random"}, 1024, 5 * 4, 16),
    ],
    ids=str,
)
def test_the_factor_for_adam_grows_with_the_nodes_over_the_sum_of_the_radices(features, arguments, nodes, fan_ins, spread):
    layer = Butterfly(**arguments)
    layer.build((None, features))
    assert layer._multipliers.adaptive == pytest.approx(2.7 * np.cbrt(nodes / fan_ins) / np.sqrt(spread))


def test_stacks_share_the_rule_but_not_a_number():
    for stacks in (1, 4, 9):
        rule, one = built("square", stacks=stacks)._multipliers, built("square")._multipliers
        assert rule.adaptive == pytest.approx(one.adaptive / stacks**0.5)
        assert rule.sgd == pytest.approx(one.sgd / stacks**0.5)
        assert built("square", stacks=stacks, lr_multiplier=3)._multipliers == Multipliers(3.0, 3.0)


@shapes
def test_a_keras_initializer_fills_the_weights_as_used(shape):
    for lr_multiplier in (None, 4):
        layer = built(shape, kernel_initializer="ones", lr_multiplier=lr_multiplier)
        close(layer.gadget_weights, np.ones(layer.gadgets.shape))
        close(layer.gadgets, np.full(layer.gadgets.shape, 1 / layer._multipliers.adaptive))


@pytest.mark.parametrize("maker", ["butterfly", "dense", "product"])
def test_the_initial_map_is_the_same_whatever_the_multiplier(maker):
    kernels = []
    for lr_multiplier in (None, 1, 0.25):
        keras.utils.set_random_seed(0)
        layer = MAKERS[maker][0](lr_multiplier=lr_multiplier)
        layer.build((None, 16))
        kernels.append(numpy(layer.kernel))
    close(kernels[0], kernels[1])
    close(kernels[2], kernels[1])


def test_a_regularizer_decays_the_used_weights_with_sgd_as_fast_as_those_of_dense():
    layer, dense = built("stacked", kernel_regularizer="l2"), keras.layers.Dense(5, kernel_regularizer="l2")
    dense.build((None, 16))
    for each, weights in ((layer, lambda: layer.gadget_weights), (dense, lambda: dense.kernel)):
        model, before = keras.Sequential([keras.Input((16,)), each]), numpy(weights())
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(np.zeros((1, 16)), np.zeros((1, 5)))  # only the regularizer has a gradient
        close(weights(), (1 - 0.1 * 2 * 0.01) * before, 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_bfloat16"])
def test_used_weights_have_the_dtype_of_the_stored_ones(dtype):
    layer = built("square", dtype=dtype)
    assert keras.backend.standardize_dtype(layer.gadget_weights.dtype) == layer.variable_dtype == layer.gadgets.dtype


@makers
@pytest.mark.parametrize("lr_multiplier", [None, 3])
def test_config_keeps_none_and_numbers_and_every_butterfly_takes_them(maker, lr_multiplier):
    make, butterflies = MAKERS[maker]
    original = make(lr_multiplier=lr_multiplier)
    for made in (original, type(original).from_config(original.get_config())):
        assert made.get_config()["lr_multiplier"] == lr_multiplier
        made.build((None, 16) if maker != "sketch" else (16, 3))
        assert [butterfly.lr_multiplier for butterfly in butterflies(made)] == [lr_multiplier] * len(butterflies(made))
        for butterfly in butterflies(made):
            assert (butterfly._multipliers == Multipliers(3.0, 3.0)) == (lr_multiplier == 3)


def test_config_without_a_number_is_the_default():
    assert Butterfly(4).get_config()["lr_multiplier"] is None
    assert isinstance(Butterfly(4, lr_multiplier=3).get_config()["lr_multiplier"], float)


@makers
@pytest.mark.parametrize("lr_multiplier", [0, -1.0, float("inf"), float("nan"), "a", True])
def test_a_multiplier_must_be_a_positive_number(maker, lr_multiplier):
    with pytest.raises(
        ValueError, match=rf"`lr_multiplier` must be None or a positive number\. Received: lr_multiplier={lr_multiplier!r}"
    ):
        MAKERS[maker][0](lr_multiplier=lr_multiplier)


@makers
def test_there_is_no_gain(maker):
    with pytest.raises((TypeError, ValueError), match="gain"):
        MAKERS[maker][0](gain=2.0)
