"""Tests that every layer of the catalogue must pass, or one layer of each class."""

import keras
import numpy as np
import oracles
import pytest
from backend import JIT, compiled, value_and_gradients
from catalogue import CATALOGUE, FEW, build, butterflies, close, draw, make, numpy

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope


def linear_and_gradients(layer, x, upstream):
    weights = [weight for weight in layer.weights if weight.name != "bias"]
    y, gradients = value_and_gradients(layer.linear, [x, *weights], upstream)
    return [y, *gradients]


@pytest.fixture(params=CATALOGUE)
def name(request):
    return request.param


few = pytest.mark.parametrize("name", FEW)


def test_implementations_agree_in_values_and_gradients(name, rng):
    x = draw(rng, name)
    reference = build(name, implementation="gather")
    upstream = rng.standard_normal(reference(x).shape).astype("float32")
    expected = linear_and_gradients(reference, x, upstream)
    for implementation in ("fused", "auto") if name in FEW else ("fused",):  # "auto" is one of the others
        layer = build(name, implementation=implementation)
        layer.set_weights(reference.get_weights())
        for found, value in zip(linear_and_gradients(layer, x, upstream), expected, strict=True):
            close(found, value)


def test_butterflies_equal_the_dense_oracle(name, rng):
    layer = build(name)
    for butterfly in butterflies(layer):
        stacks = keras.ops.convert_to_numpy(butterfly.gadget_weights).astype("float64")
        close(butterfly.kernel, sum(oracles.dense_matrix(butterfly.wiring, weights) for weights in stacks))


def test_kernel_is_the_matrix_of_the_linear_map(name, rng):
    layer, x = build(name), draw(rng, name)
    assert layer.kernel.shape == (CATALOGUE[name][0], layer(x).shape[-1])
    close(layer.linear(x), x @ numpy(layer.kernel))


def test_call_adds_bias_and_activation(name, rng):
    layer, x = build(name), draw(rng, name)
    expected = layer.linear(x) if layer.bias is None else layer.linear(x) + layer.bias
    close(layer(x), layer.activation(expected))


@few
def test_leading_axes_are_batch_axes(name, rng):
    layer = build(name)
    for leading in ((2, 3), (2, 1, 3)):
        x = draw(rng, name, leading)
        y = layer(x)
        assert y.shape == layer.compute_output_shape(x.shape) == (*leading, y.shape[-1])
        close(keras.ops.reshape(y, (6, -1)), layer(x.reshape(6, -1)))


@few
def test_unknown_batch_in_a_functional_model(name, rng):
    layer = make(name)
    inputs = keras.Input((None, CATALOGUE[name][0]))
    outputs = layer(inputs)
    assert outputs.shape == (None, None, layer.kernel.shape[-1])
    model = keras.Model(inputs, outputs)
    for leading in ((2, 3), (1, 5)):
        x = draw(rng, name, leading)
        close(model(x), layer(x))


@pytest.mark.parametrize("name", ["square", "expanded", "dense, narrowing"])
def test_output_shape_of_an_unbuilt_layer(name):
    features, _, arguments = CATALOGUE[name]
    units = arguments.get("units", features)
    assert make(name).compute_output_shape((None, 4, features)) == (None, 4, units)


@few
def test_fit_takes_a_step_in_a_graph(name, rng):
    layer = make(name)
    model = keras.Sequential([keras.Input(CATALOGUE[name][:1]), layer, keras.layers.Dense(1)])
    before = layer.get_weights()
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=False)
    history = model.fit(draw(rng, name), rng.standard_normal((5, 1)), batch_size=5, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for old, new in zip(before, layer.get_weights(), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("implementation", ["gather", "fused"])
@pytest.mark.parametrize("name", ["padded in block factors", "truncated", "dense, narrowing"])
def test_xla_agrees(name, implementation, rng):
    layer, x = build(name, implementation=implementation), draw(rng, name)
    close(compiled(layer)(x), layer(x))


@few
@pytest.mark.parametrize("implementation", ["gather", "fused"])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(name, implementation, rng):
    layer, x = build(name, dtype="mixed_bfloat16", implementation=implementation), draw(rng, name)
    y = layer(x)
    linear = layer.linear(keras.ops.cast(x, "bfloat16"))
    assert {keras.backend.standardize_dtype(value.dtype) for value in (y, linear)} == {"bfloat16"}
    assert {weight.dtype for weight in layer.weights} <= {"float32"}
    reference = build(name, implementation=implementation)
    expected = keras.ops.convert_to_numpy(reference(x))
    # bfloat16 has 8 bits, and the errors of about ten roundings add up.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")), expected, atol=0.06 * max(1.0, np.abs(expected).max())
    )


@few
def test_mask_passes_through(name):
    seen = []

    class Probe(keras.layers.Layer):
        supports_masking = True

        def call(self, inputs, mask=None):
            seen.append(mask)
            return inputs

    features = CATALOGUE[name][0]
    embedded = keras.layers.Embedding(4, features, mask_zero=True)(np.array([[1, 2, 0], [3, 0, 0]]))
    Probe()(make(name)(embedded))
    np.testing.assert_array_equal(seen[0], [[True, True, False], [True, False, False]])


def test_config_round_trip_restores_the_layer(name, rng):
    layer, x = build(name), draw(rng, name)
    restored = type(layer).from_config(layer.get_config())
    assert restored.get_config() == layer.get_config()
    # The layers have seeds, so the restored layer starts from the same weights too.
    np.testing.assert_array_equal(numpy(restored(x)), numpy(layer(x)))


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_config_round_trip_keeps_every_argument(cls):
    arguments = {
        "name": "hidden",
        "dtype": "mixed_bfloat16",
        "trainable": False,
        "activation": "relu",
        "use_bias": True,
        "implementation": "gather",
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(0.25),
        "bias_regularizer": keras.regularizers.L1(0.5),
        "activity_regularizer": keras.regularizers.L2(0.125),
        "kernel_constraint": keras.constraints.NonNeg(),
        "bias_constraint": keras.constraints.MaxNorm(3),
        "lr_multiplier": 0.5,
        "seed": 11,
    }
    if cls is ButterflyDense:
        arguments |= {
            "k1": 3,
            "k2": 2,
            "kernel_initializer": "he_normal",
            "butterfly_initializer": "orthogonal",
            "butterfly_regularizer": keras.regularizers.L1(0.75),
            "butterfly_constraint": keras.constraints.UnitNorm(),
            "truncation_seeds": [5, 6],
        }
    else:
        arguments |= {"stacks": 2, "transposed": True, "order": "increasing", "truncation_seed": 5, "truncation": [3, 0, 2, 1]}
    layer = cls(4, **arguments)
    config = layer.get_config()
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert restored.get_config() == config
    assert restored.name == "hidden"
    assert restored.dtype_policy.name == "mixed_bfloat16"
    assert restored.trainable is False
    assert restored.kernel_regularizer.l2 == 0.25
    assert restored.bias_regularizer.l1 == 0.5
    assert restored.activity_regularizer.l2 == 0.125
    assert isinstance(restored.kernel_constraint, keras.constraints.NonNeg)
    assert restored.bias_constraint.max_value == 3
    assert restored.activation is keras.activations.relu
    assert (restored.lr_multiplier, restored.seed) == (0.5, 11)
    if cls is ButterflyDense:
        for butterfly, seed in ((restored.j1, 5), (restored.j2_t, 6)):
            assert butterfly.truncation_seed == seed
            assert butterfly.lr_multiplier == 0.5
            assert butterfly.kernel_regularizer.l1 == 0.75
            assert isinstance(butterfly.kernel_constraint, keras.constraints.UnitNorm)
            assert butterfly.implementation == "gather"
            assert butterfly.dtype_policy.name == "mixed_bfloat16"
    else:
        assert (restored.stacks, restored.transposed, restored.order) == (2, True, "increasing")
        assert restored.truncation_seed == 5
        assert list(restored.truncation) == [3, 0, 2, 1]


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_frozen_from_the_start_leaves_a_model_nothing_to_train(cls):
    model = keras.Sequential([keras.Input((8,)), cls(4, trainable=False)])
    assert model.weights
    assert model.trainable_variables == []


def test_weights_are_the_effective_parameters_and_the_bias(name):
    layer = build(name)
    bias = layer.bias.shape[0] if layer.use_bias else 0
    assert layer.count_params() == layer.effective_parameters + bias


def test_effective_parameters_are_exact():
    truncated = build("truncated")
    assert truncated.effective_parameters == oracles.effective_count(truncated.wiring)
    papers = build("truncated", radix=2)
    assert papers.effective_parameters == oracles.papers_count(16, papers.wiring.outputs)
    stacked = build("stacked")
    assert stacked.effective_parameters == 3 * oracles.effective_count(stacked.wiring)
    dense = build("dense, narrowing")
    ends = oracles.effective_count(dense.j1.wiring) + oracles.effective_count(dense.j2_t.wiring)
    assert dense.effective_parameters == ends + 5 * 2  # ceil(log2 20), ceil(log2 3)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize("implementation", ["gather", "fused"])
@pytest.mark.parametrize("name", ["truncated", "dense, narrowing"])
def test_integers_are_taken_as_numbers(name, implementation, dtype, rng):
    layer = build(name, implementation=implementation)
    x = rng.integers(0, 2, (5, CATALOGUE[name][0])).astype(dtype)
    y = layer(keras.ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    close(y, layer(x.astype("float32")))
    inputs = keras.Input((CATALOGUE[name][0],), dtype=dtype)
    close(keras.Model(inputs, layer(inputs))(x), y)


def test_an_empty_batch_gives_an_empty_batch():
    for name in ("square in block factors", "truncated", "dense, narrowing"):
        layer = build(name)
        assert layer(np.zeros((0, CATALOGUE[name][0]), "float32")).shape == (0, layer.kernel.shape[1])


@pytest.mark.parametrize("name", ["square", "dense, narrowing", "product"])
def test_quantize_names_the_alternative(name):
    with pytest.raises(NotImplementedError, match=r"cannot be quantized to int8 in Keras.*export\.to_tflite"):
        build(name).quantize("int8")


def test_quantizing_a_model_warns_and_quantizes_the_other_layers(rng):
    model = keras.Sequential([keras.Input((16,)), Butterfly(), keras.layers.Dense(4)])
    with pytest.warns(UserWarning, match="cannot be quantized to int8"):
        model.quantize("int8")
    assert model.layers[1].dtype_policy.quantization_mode == "int8"
    assert model(rng.standard_normal((2, 16)).astype("float32")).shape == (2, 4)


@pytest.mark.parametrize(
    ("cls", "optimizer"),
    [
        (Butterfly, "adam"),
        (ButterflyDense, "sgd"),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((Butterfly, "sgd"), (ButterflyDense, "adam"))),
        *(pytest.param(Kaleidoscope, name, marks=pytest.mark.long) for name in ("adam", "sgd")),
    ],
)
def test_usual_learning_rates_lower_the_loss(cls, optimizer, rng):
    keras.utils.set_random_seed(0)
    x = rng.standard_normal((256, 64)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((64, 1)) / 8)
    model = keras.Sequential([keras.Input((64,)), cls(64, activation="relu"), keras.layers.Dense(1)])
    rates = {"adam": keras.optimizers.Adam(1e-3), "sgd": keras.optimizers.SGD(1e-2, momentum=0.9)}
    model.compile(rates[optimizer], "mse", jit_compile=JIT)
    losses = model.fit(x, y, batch_size=32, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
