"""Every lowering of every kind of layer: equal to Keras, and made of exactly the operators it says."""

from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, export
from keras_butterfly.export import verify
from keras_butterfly.export.convert import convert
from keras_butterfly.export.lowering import Lowering, candidates, lower
from keras_butterfly.export.plan import butterfly_layers

KINDS = ("gather", "fused", "folded", "dense")


def built(layer, n):
    layer.build((None, n))
    for weight in layer.trainable_weights:
        weight.assign(np.random.default_rng(1).standard_normal(weight.shape) * 0.7)
    return layer


LAYERS = {
    "full": lambda: built(Butterfly(), 64),
    "single node": lambda: built(Butterfly(), 1),
    "two nodes": lambda: built(Butterfly(), 2),
    "truncated": lambda: built(Butterfly(10), 64),
    "expanding": lambda: built(Butterfly(100), 24),
    "padded": lambda: built(Butterfly(), 50),
    "transposed": lambda: built(Butterfly(transposed=True), 64),
    "stacks": lambda: built(Butterfly(32, stacks=3), 32),
    "increasing, expanding": lambda: built(Butterfly(32, order="increasing"), 8),
    "sandwich": lambda: built(ButterflyDense(48), 80),
    "sandwich, thinner left": lambda: built(ButterflyDense(48, 3, 7), 80),
    "sandwich, thinner right": lambda: built(ButterflyDense(48, 7, 3), 80),
    "sandwich with lora": lambda: built(ButterflyDense(48, 7, 3, lora_rank=2), 80),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("leading", [(1,), (3,), (2, 5), (2, 3, 4)])
def test_equals_the_dense_product(name, kind, leading, rng):
    layer = LAYERS[name]()
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    x = rng.standard_normal((*leading, kernel.shape[0])).astype("float32")
    actual = np.asarray(lower(layer, Lowering(kind))(keras.ops.convert_to_tensor(x)))
    expected = x.astype("float64") @ kernel
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("operator", ["conv", "matmul"])
@pytest.mark.parametrize("counts", [(6,), (3, 3), (1, 5), (2, 1, 3), (2, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_every_grouping_of_a_fused_butterfly(counts, operator, transposed, rng):
    layer = built(Butterfly(transposed=transposed), 64)
    x = rng.standard_normal((3, 64)).astype("float32")
    actual = np.asarray(lower(layer, Lowering("fused", counts, operator))(keras.ops.convert_to_tensor(x)))
    expected = x.astype("float64") @ keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("width", [0, 2, 3, 16])
@pytest.mark.parametrize("name", ["sandwich, thinner left", "sandwich, thinner right"])
def test_padding_the_middle_of_a_folded_sandwich_changes_nothing(name, width, rng):
    layer = LAYERS[name]()
    x = rng.standard_normal((3, 80)).astype("float32")
    actual = np.asarray(lower(layer, Lowering("folded", width=width))(keras.ops.convert_to_tensor(x)))
    expected = x.astype("float64") @ keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


def test_a_padded_middle_is_a_candidate_where_it_is_wider_than_the_rank():
    def widths(k):
        return [lowering.width for lowering in candidates(built(ButterflyDense(512, k, k), 512)) if lowering.kind == "folded"]

    assert [widths(10), widths(16), widths(17)] == [[0, 16], [0], [0, 32]]


def test_a_padded_middle_costs_one_slice():
    lowering = Lowering("folded", width=16)
    content = convert(lower(built(ButterflyDense(512), 512), lowering), [tf.TensorSpec((1, 512), name="x")])
    assert verify.operators(content) == ("FULLY_CONNECTED", "STRIDED_SLICE", "FULLY_CONNECTED")


def operators_of(layer, n, **settings):
    model = keras.Sequential([keras.Input((n,)), layer])
    return Counter(export.to_tflite(model, **settings).operators)


@pytest.mark.parametrize(
    ("lowering", "expected"),
    [
        ("gather", {"MUL": 16, "GATHER": 8, "ADD": 8}),
        ("fused", {"RESHAPE": 5, "CONV_2D": 2, "TRANSPOSE": 2}),
        ("folded", {"FULLY_CONNECTED": 1}),
        ("dense", {"FULLY_CONNECTED": 1}),
    ],
)
def test_operators_of_a_full_butterfly_are_pinned(lowering, expected):
    assert operators_of(Butterfly(), 256, lowering=lowering) == expected


@pytest.mark.parametrize("operator", ["conv", "matmul"])
def test_one_transpose_between_two_factors_and_one_at_the_end(operator):
    name = {"conv": "CONV_2D", "matmul": "BATCH_MATMUL"}[operator]
    layer = built(Butterfly(), 512)
    content = convert(lower(layer, Lowering("fused", (3, 3, 3), operator)), [tf.TensorSpec((1, 512), name="x")])
    operators = Counter(verify.operators(content))
    assert operators[name] == 3
    assert operators["TRANSPOSE"] == 3


def test_bias_and_relu_of_a_folded_sandwich_are_fused_into_two_operators():
    layer = ButterflyDense(64, activation="relu")
    assert operators_of(layer, 64, lowering="folded") == {"FULLY_CONNECTED": 2}


@pytest.mark.parametrize("lowering", KINDS)
def test_a_product_is_lowered_butterfly_by_butterfly(lowering):
    """Export itself compares with Keras; a butterfly's bias is stored divided by its gain, a product's is not."""
    layers = [Kaleidoscope(16, use_bias=True, bias_initializer="ones"), Butterfly(use_bias=True, bias_initializer="ones")]
    exported = export.to_tflite(keras.Sequential([keras.Input((16,)), *layers]), lowering=lowering)
    assert [plan.layer for plan in exported.plan] == [f"{layers[0].name}_0", f"{layers[0].name}_1", layers[1].name]


def test_candidates_leave_out_what_costs_far_more():
    small, large = built(Butterfly(), 256), built(Butterfly(), 4096)
    assert Lowering("dense") in candidates(small)
    assert Lowering("dense") not in candidates(large)
    assert all(lowering.kind != "gather" for lowering in candidates(small))


def test_a_layer_is_found_wherever_it_sits():
    """Shared, nested, inside TimeDistributed and Bidirectional; the parts of a ButterflyDense are not listed."""
    shared, inner, wrapped = Butterfly(name="shared"), Butterfly(name="inner"), Butterfly(name="wrapped")
    sandwich = ButterflyDense(8, name="sandwich")
    block = keras.Sequential([keras.Input((6, 16)), inner])
    x = inputs = keras.Input((6, 16))
    x = keras.layers.TimeDistributed(wrapped)(block(shared(shared(x))))
    model = keras.Model(inputs, sandwich(x))
    found = butterfly_layers(model, [tf.TensorSpec((1, 6, 16))], lambda x: model(x))
    assert {layer.name for layer in found} == {"shared", "inner", "wrapped", "sandwich"}
    assert found[shared] == [(1, 6, 16), (1, 6, 16)]
