"""The table of a model's layers: counts by hand, and against Keras's own."""

import json
import math
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, replace_dense
from keras_butterfly.compression.dense_map import little_saved
from keras_butterfly.model_summary import Row, summary


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """No test looks at the weights' values, and to draw them JAX compiles a program for each shape."""

    def ones(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.ones(shape, dtype))

    for initializer in (keras.initializers.VarianceScaling, keras.initializers.Orthogonal, keras.initializers.RandomUniform):
        monkeypatch.setattr(initializer, "__call__", ones)


def model_of(*parts, shape):
    return keras.Sequential([keras.Input(shape), *parts], name="model")


def rows_of(model) -> dict[str, Row]:
    return {row.layer: row for row in summary(model, show=False).rows}


def row_of(layer, shape) -> Row:
    (row,) = summary(model_of(layer, shape=shape), show=False).rows
    return row


def counts(model):
    return {name: row.multiply_adds for name, row in rows_of(model).items()}


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


# Keras says so of subclassed models, whatever they are.
subclassing = pytest.mark.filterwarnings("ignore:`build\\(\\)` was called")

# name -> (layer, input shape, output shape, multiply-adds by hand)
CATALOGUE = {
    "dense": (lambda: layers.Dense(7), (5,), (7,), 5 * 7),
    "dense, rank 3": (lambda: layers.Dense(7), (3, 5), (3, 7), 3 * 5 * 7),
    "dense, rank 4": (lambda: layers.Dense(2, use_bias=False), (4, 3, 5), (4, 3, 2), 4 * 3 * 5 * 2),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 6)), (3, 5), (3, 4, 6), 3 * 5 * 4 * 6),
    "einsum, ellipsis": (lambda: layers.EinsumDense("...x,xy->...y", 6), (2, 3, 5), (2, 3, 6), 2 * 3 * 5 * 6),
    "einsum, two sums": (lambda: layers.EinsumDense("abcd,cde->abe", (None, 6)), (3, 4, 5), (3, 6), 3 * 4 * 5 * 6),
    "einsum, a kernel each": (lambda: layers.EinsumDense("abc,bcd->abd", (3, 6)), (3, 5), (3, 6), 3 * 5 * 6),
    "conv 1": (lambda: layers.Conv1D(6, 3), (10, 4), (8, 6), 8 * 6 * 3 * 4),
    "conv 2": (lambda: layers.Conv2D(6, (3, 2), strides=2), (9, 6, 4), (4, 3, 6), 4 * 3 * 6 * 3 * 2 * 4),
    "conv 2, grouped": (lambda: layers.Conv2D(6, 1, groups=2), (5, 5, 4), (5, 5, 6), 5 * 5 * 6 * 2),
    "conv 3": (lambda: layers.Conv3D(2, 2), (3, 3, 3, 4), (2, 2, 2, 2), 8 * 2 * 8 * 4),
    "depthwise 1": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (6, 4), (4, 8), 4 * 8 * 3),
    "depthwise 2": (lambda: layers.DepthwiseConv2D(3), (5, 4, 6), (3, 2, 6), 3 * 2 * 6 * 9),
    "separable 1": (lambda: layers.SeparableConv1D(7, 3), (6, 4), (4, 7), 4 * (4 * 3 + 4 * 7)),
    "separable 2": (lambda: layers.SeparableConv2D(7, 3, depth_multiplier=2), (5, 4, 6), (3, 2, 7), 6 * (12 * 9 + 12 * 7)),
    "transposed 1": (lambda: layers.Conv1DTranspose(6, 3), (4, 5), (6, 6), 4 * 5 * 3 * 6),
    "transposed 2": (lambda: layers.Conv2DTranspose(6, 2, strides=2), (4, 3, 5), (8, 6, 6), 12 * 5 * 4 * 6),
    "transposed 3": (lambda: layers.Conv3DTranspose(2, 2), (2, 2, 2, 3), (3, 3, 3, 2), 8 * 3 * 8 * 2),
    "simple rnn": (lambda: layers.SimpleRNN(4), (6, 3), (4,), 6 * (3 * 4 + 4 * 4)),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), (6, 3), (6, 4), 6 * 4 * (3 * 4 + 4 * 4)),
    "gru": (lambda: layers.GRU(4), (6, 3), (4,), 6 * 3 * (3 * 4 + 4 * 4)),
    "two cells": (
        lambda: layers.RNN([layers.LSTMCell(4), layers.SimpleRNNCell(5)]),
        (6, 3),
        (5,),
        6 * (4 * (3 * 4 + 4 * 4) + 4 * 5 + 5 * 5),
    ),
    "convolutional lstm": (lambda: layers.ConvLSTM2D(2, 3), (4, 5, 6, 3), (3, 4, 2), 4 * 12 * 4 * 9 * (3 * 2 + 2 * 2)),
    "convolutional lstm, sequences": (
        lambda: layers.ConvLSTM1D(2, 3, return_sequences=True),
        (4, 6, 3),
        (4, 4, 2),
        4 * 4 * 4 * 3 * (3 * 2 + 2 * 2),
    ),
    "no matrix": (layers.BatchNormalization, (5,), (5,), 0),
    "nothing held": (layers.Flatten, (5, 3), (15,), 0),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_counts_are_those_by_hand(name):
    make, given, made, multiply_adds = CATALOGUE[name]
    layer = make()
    row = row_of(layer, given)
    assert (row.layer, row.kind) == (layer.name, type(layer).__name__)
    assert row.output_shape == (None, *made)
    assert row.weights == row.dense_weights == layer.count_params()
    assert row.multiply_adds == multiply_adds


def test_a_butterfly_multiplies_once_a_weight():
    row = row_of(Butterfly(64, stacks=2), (3, 64))
    assert row.weights - 64 == 2 * (2 * 64 * 6)  # two nodes join at each of log2 64 stages
    assert row.multiply_adds == 3 * 2 * (2 * 64 * 6)
    assert row.dense_weights == 64 * 64 + 64
    assert row.biases == 64


@pytest.mark.parametrize(
    ("layer", "units", "bias"),
    [
        (Butterfly(use_bias=False), 24, 0),
        (Butterfly(10), 10, 10),
        (Butterfly(10, truncation="random"), 10, 10),
        (ButterflyDense(10, k1=5, k2=3, seed=0), 10, 10),
        (ButterflyDense(40, use_bias=False, seed=0), 40, 0),
        (Kaleidoscope(), 24, 24),
        (Kaleidoscope(30, width=2, use_bias=False), 30, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.Layer) else None,
)
def test_a_butterfly_layer_is_one_row_beside_its_dense_equivalent(layer, units, bias):
    row = row_of(layer, (3, 24))
    assert row.output_shape == (None, 3, units)
    assert row.dense_weights == 24 * units + bias
    assert row.biases == bias
    assert row.weights == layer.count_params()
    assert row.multiply_adds == 3 * (layer.count_params() - bias)


def test_totals_are_keras_own_count():
    model = keras.applications.MobileNetV2(input_shape=(96, 96, 3), alpha=0.35, weights=None)
    found = summary(model, show=False)
    assert found.weights == found.dense_weights == model.count_params()
    assert found.compression == 1
    kernels = [layer for layer in model.layers if "Conv" in type(layer).__name__]  # none has a bias
    positions = [math.prod(layer.output.shape[1:3]) for layer in kernels]
    convolutions = sum(layer.count_params() * count for layer, count in zip(kernels, positions, strict=True))
    assert found.multiply_adds == convolutions + 1280 * 1000


def test_totals_sum_the_rows_and_compression_compares_with_dense():
    model = model_of(Butterfly(64), layers.ReLU(), layers.Dense(10), shape=(64,))
    found = summary(model, show=False)
    assert found.weights == model.count_params() == (2 * 64 * 6 + 64) + 650
    assert found.dense_weights == 64 * 64 + 64 + 650
    assert found.multiply_adds == 2 * 64 * 6 + 640
    assert found.compression == pytest.approx(4810 / 1482)
    assert found.size_bytes == {"float32": 4 * 1482, "float16": 2 * 1482, "int8": 1482 + 3 * 74}


def test_a_model_that_holds_nothing_is_not_compressed():
    found = summary(model_of(layers.Flatten(), shape=(3, 2)), show=False)
    assert (found.weights, found.multiply_adds, found.compression) == (0, 0, 1)


def test_a_shared_layer_holds_once_and_multiplies_for_each_call():
    dense = layers.Dense(4, name="shared")
    row = rows_of(model_of(dense, layers.GlobalAveragePooling1D(), dense, shape=(5, 4)))["shared"]
    assert row.weights == 20
    assert row.output_shape == (None, 5, 4)
    assert row.multiply_adds == (5 + 1) * 16


def test_a_layer_in_two_models_has_the_path_of_the_first():
    dense = layers.Dense(4, name="shared")
    blocks = [keras.Sequential([keras.Input((4,)), dense], name=name) for name in ("first", "second")]
    model = model_of(*blocks, shape=(4,))
    (row,) = summary(model, show=False).rows
    assert (row.layer, row.weights, row.multiply_adds) == ("first/shared", 20, 32)


def test_nested_layers_are_named_by_path():
    inner = keras.Sequential([layers.Dense(3, name="ffn_1"), keras.Sequential([layers.Dense(2, name="ffn_1")], name="deep")])
    inner.name = "block"
    model = model_of(inner, layers.TimeDistributed(layers.Dense(5, name="each"), name="time"), shape=(6, 4))
    assert counts(model) == {"block/ffn_1": 6 * 4 * 3, "block/deep/ffn_1": 6 * 3 * 2, "time/each": 6 * 2 * 5}
    assert rows_of(model)["block/deep/ffn_1"].output_shape == (None, 6, 2)
    assert rows_of(model)["time/each"].output_shape == (None, 5)


def test_equal_paths_are_told_apart():
    class Twins(layers.Layer):
        def __init__(self):
            super().__init__(name="twins")
            self.pair = [layers.Dense(3, name="same"), layers.Dense(2, name="same")]

        def call(self, x):
            return self.pair[1](self.pair[0](x))

    assert counts(model_of(Twins(), shape=(4,))) == {"twins/same": 12, "twins/same (2)": 6}


def test_what_a_composite_layer_holds_itself_is_a_row_after_its_parts():
    class Scaled(layers.Layer):
        def __init__(self):
            super().__init__(name="scaled")
            self.dense = layers.Dense(3, name="dense")

        def build(self, shape):
            self.dense.build(shape)
            self.scale = self.add_weight(shape=(3,), name="scale")

        def call(self, x):
            return self.dense(x) * self.scale

    found = rows_of(model_of(Scaled(), shape=(4,)))
    assert {name: row.weights for name, row in found.items()} == {"scaled/dense": 15, "scaled": 3}


def test_bidirectional_holds_two():
    model = model_of(layers.Bidirectional(layers.LSTM(4, name="lstm"), name="both"), shape=(6, 3))
    assert counts(model) == dict.fromkeys(["both/forward_lstm", "both/backward_lstm"], 6 * 4 * (3 + 4) * 4)


def test_attention_multiplies_in_its_projections_and_twice_itself():
    query, value = keras.Input((5, 8)), keras.Input((7, 6))
    depth = 3 if keras.backend.backend() == "jax" else 4  # JAX wants that of keys
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=depth, name="mha")
    model = keras.Model([query, value], attention(query, value))
    found = {name: count for name, count in counts(model).items() if count}
    assert found == {
        "mha/query": 5 * 8 * 2 * 3,
        "mha/key": 7 * 6 * 2 * 3,
        "mha/value": 7 * 6 * 2 * depth,
        "mha/attention_output": 5 * 2 * depth * 8,
        "mha": 2 * 5 * 7 * 3 + 2 * 5 * 7 * depth,
    }
    rows = rows_of(model)
    assert sum(row.weights for row in rows.values()) == model.count_params()
    assert rows["mha/query"].biases == 6


def test_grouped_attention_multiplies_once_for_each_head_of_the_queries():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    attention = layers.GroupQueryAttention(head_dim=3, num_query_heads=4, num_key_value_heads=2, name="gqa")
    model = keras.Model([query, value], attention(query, value))
    assert {name: count for name, count in counts(model).items() if count} == {
        "gqa/query": 5 * 8 * 4 * 3,
        "gqa/key": 7 * 8 * 2 * 3,
        "gqa/value": 7 * 8 * 2 * 3,
        "gqa/attention_output": 5 * 4 * 3 * 8,
        "gqa": 4 * 5 * 7 * 3 + 4 * 5 * 7 * 3,
    }


def test_butterflies_over_several_axes_count_as_those_over_one():
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layers.MultiHeadAttention(num_heads=2, key_dim=3, name="mha")(inputs, inputs))
    new, report = replace_dense(model, min_weights=1, initialize="fresh", progress=False)
    rows = rows_of(new)
    for each in report.replacements:
        row = rows[each.layer]
        assert (row.kind, row.weights, row.dense_weights) == ("Butterfly", each.weights_after, each.weights_before)
        assert row.multiply_adds == 5 * (each.weights_after - each.units)
    assert (rows["mha"].kind, rows["mha"].multiply_adds) == ("MultiHeadAttention", 2 * (2 * 5 * 5 * 3))
    assert len(rows) == 5


class Subclassed(keras.Model):
    def __init__(self, mixed):
        super().__init__(name="subclassed")
        self.table, self.mixed, self.unused = layers.Embedding(9, 4, name="table"), mixed, layers.Dense(3, name="unused")

    def call(self, inputs):
        return self.mixed(self.table(inputs["tokens"])) + inputs["others"][0]


@subclassing
def test_a_subclassed_model_is_called_as_it_was_first():
    model = Subclassed(layers.Dense(3, name="mixed"))
    model({"tokens": keras.ops.ones((2, 6), "int32"), "others": [keras.ops.ones((2, 1, 3))]})
    found = rows_of(model)
    assert {name: row.multiply_adds for name, row in found.items()} == {"table": 0, "mixed": 6 * 4 * 3}
    assert found["table"].output_shape == (None, 6, 4)
    assert sum(row.weights for row in found.values()) == model.count_params()


def test_a_model_that_takes_a_dict_of_inputs():
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((3,), name="a")}
    model = keras.Model(inputs, [layers.Dense(2, name=f"on_{name}")(x) for name, x in inputs.items()])
    assert counts(model) == {"on_b": 8, "on_a": 6}


def test_several_outputs_have_a_shape_each():
    assert row_of(layers.LSTM(4, return_state=True), (6, 3)).output_shape == ((None, 4),) * 3


def test_counts_that_depend_on_open_axes_are_unknown():
    tokens = keras.Input((None,))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(layers.Embedding(9, 4, name="table")(tokens))
    model = keras.Model(tokens, layers.Dense(3, name="dense")(layers.GlobalAveragePooling1D(name="mean")(x)))
    found = summary(model, show=False)
    assert {row.layer: row.multiply_adds for row in found.rows} == {"table": 0, "lstm": None, "mean": 0, "dense": 12}
    assert found.rows[1].output_shape == (None, None, 4)
    assert found.multiply_adds is None
    assert found.weights == model.count_params()


def test_a_fixed_batch_stays_in_the_shape_but_not_in_the_count():
    model = keras.Sequential([keras.Input(batch_shape=(4, 6, 3)), layers.LSTM(2, stateful=True)])
    (row,) = summary(model, show=False).rows
    assert (row.output_shape, row.multiply_adds) == ((4, 2), 6 * 4 * (3 + 2) * 2)


def test_layers_that_fold_an_axis_into_the_batch_count_all_of_it():
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layers.Dense(3, name="dense")(keras.ops.reshape(inputs, (-1, 4))))
    assert counts(model) == {"dense": 6 * 4 * 3}


def test_leaves_the_model_as_it_was():
    model = model_of(layers.Dense(3, activity_regularizer="l2"), layers.Dropout(0.5), Butterfly(), shape=(4,))
    x = keras.ops.ones((2, 4))
    before, weights = keras.ops.convert_to_numpy(model(x)), model.get_weights()
    summary(model, show=False)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert (keras.ops.convert_to_numpy(model(x)) == before).all()
    assert all((new == old).all() for new, old in zip(model.get_weights(), weights, strict=True))
    assert len(model.losses) == 1


def test_prints_a_table_and_only_if_asked(capsys):
    model = model_of(layers.Dense(1000, name="wide"), shape=(2000,))
    summary(model, show=False)
    assert capsys.readouterr().out == ""
    summary(model)
    lines = capsys.readouterr().out.splitlines()
    assert "model, compression 1.0x" in lines[0]
    wide = next(line for line in lines if "wide" in line)
    expected = ["wide", "Dense", "(None, 1000)", "2,001,000", "2,001,000", "2,000,000", "7,816.4", "3,908.2", "1,957.0"]
    assert [cell.strip() for cell in wide.strip("│ ").split("│")] == expected
    assert any(line.strip("│ ").startswith("total") for line in lines)


def test_unknown_counts_are_printed_as_such(capsys):
    summary(model_of(layers.Dense(3), shape=(None, 2)))
    assert capsys.readouterr().out.count(" ? ") == 2


def test_is_ready_for_json():
    found = summary(model_of(layers.Dense(3, name="dense"), shape=(2,)), show=False)
    assert json.loads(json.dumps(found.to_dict())) == {
        "model": "model",
        "rows": [
            {
                "layer": "dense",
                "kind": "Dense",
                "output_shape": [None, 3],
                "weights": 9,
                "biases": 3,
                "dense_weights": 9,
                "multiply_adds": 6,
                "size_bytes": {"float32": 36, "float16": 18, "int8": 18},
            }
        ],
        "total": {
            "weights": 9,
            "dense_weights": 9,
            "multiply_adds": 6,
            "size_bytes": {"float32": 36, "float16": 18, "int8": 18},
            "compression": 1.0,
        },
        "notes": [],
    }


def test_notes_name_the_butterflies_that_save_less_than_half():
    """Take layers of 2 N log2 N weights and N of a bias: for N = 16 they are more than half of N^2 + N, for N = 64 fewer."""
    small, large = Butterfly(16, name="small"), Butterfly(64, name="large")
    model = model_of(small, layers.Dense(64, name="dense"), large, Kaleidoscope(64, width=3, name="deep"), shape=(16,))
    found, deep = summary(model, show=False), 3 * 2 * (2 * 64 * 6) + 64
    assert found.notes == (
        "'small' saves little: 144 weights, where Dense has 272. Dense is likely the better choice.",
        f"'deep' saves little: {deep:,} weights, where Dense has 4,160. Dense is likely the better choice.",
    )
    assert found.to_dict()["notes"] == list(found.notes)
    assert found.table().caption == "\n".join(found.notes)
    assert summary(model_of(layers.Dense(3), shape=(4,)), show=False).table().caption is None


def test_half_the_weights_are_worth_it_and_one_more_are_not():
    assert little_saved("layer", 500, 1000) is None
    assert little_saved("layer", 501, 1000).startswith("'layer' saves little: 501 weights, where Dense has 1,000.")


def test_expects_a_model():
    with raises("`model` must be a keras.Model. Received: Dense. Wrap a layer"):
        summary(layers.Dense(3))


def test_expects_a_built_model():
    with raises("Sequential 'raw' is not built: the shapes of its weights depend on the size of the input"):
        summary(keras.Sequential([layers.Dense(3)], name="raw"))


def test_expects_a_model_that_says_what_it_takes():
    model = Subclassed(layers.Dense(3))
    model.built = True
    with raises("Expected a model that knows its input shapes. Received: 'subclassed'. Call it on an input first."):
        summary(model)


def test_expects_float_layers():
    dense = layers.Dense(3, name="dense")
    model = model_of(dense, shape=(2,))
    dense.quantize("int8")
    with raises("Expected float layers. Received quantized ones: ['dense']."):
        summary(model)


@subclassing
def test_names_a_model_that_cannot_be_called_symbolically():
    class Two(keras.Model):
        def call(self, x, y):
            return x + y

    model = Two(name="two")
    model(keras.ops.ones((2, 3)), keras.ops.ones((2, 3)))
    with raises("Received: 'two', which fails on [((None, 3), 'float32')]. Wrap it: keras.Model(inputs"):
        summary(model)
