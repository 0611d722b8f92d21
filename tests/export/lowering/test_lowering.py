"""Every lowering of every kind of layer: equal to Keras, and made of exactly the operators it says."""

import itertools
import json
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank, export
from keras_butterfly.export.lowering import KINDS, Dense, Folded, Fused, Grouping, lower
from keras_butterfly.export.planning.candidates import lowerings, shortlist
from keras_butterfly.export.planning.observe import observe
from keras_butterfly.export.tflite.converter import convert
from keras_butterfly.export.tflite.graph import schema
from keras_butterfly.export.tflite.operators import operator_names
from keras_butterfly.export.tflite.runtime import load, run_all


def built(layer, n):
    layer.build((None, n))
    for weight in layer.trainable_weights:
        weight.assign(np.random.default_rng(1).standard_normal(weight.shape) * 0.7)
    return layer


def dense_product(layer, x):
    """In float64, with the bias."""
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    return x.astype("float64") @ kernel + (0 if layer.bias is None else keras.ops.convert_to_numpy(layer.bias))


LAYERS = {
    "full": lambda: built(Butterfly(), 64),
    "single node": lambda: built(Butterfly(), 1),
    "two nodes": lambda: built(Butterfly(), 2),
    "truncated": lambda: built(Butterfly(10), 64),
    "truncated at random": lambda: built(Butterfly(10, truncation="random"), 64),
    "expanding": lambda: built(Butterfly(100), 24),
    "expanding at random": lambda: built(Butterfly(100, truncation="random"), 24),
    "expanding within a power of two": lambda: built(Butterfly(60, truncation="random"), 40),
    "padded": lambda: built(Butterfly(), 50),
    "padded, given nodes": lambda: built(Butterfly(truncation=[15, 1, 0, 3, 4, 6, 7, 9, 13, 10]), 10),
    "transposed": lambda: built(Butterfly(transposed=True), 64),
    "stacks": lambda: built(Butterfly(32, stacks=3), 32),
    "no bias": lambda: built(Butterfly(use_bias=False), 64),
    "truncated, transposed, stacks": lambda: built(Butterfly(24, truncation="random", stacks=2, transposed=True), 64),
    "radix 2": lambda: built(Butterfly(50, radix=2), 64),
    "radices 3, 4, 5": lambda: built(Butterfly(60, radix=(3, 4, 5), transposed=True), 44),
    "Monarch": lambda: built(Butterfly(70, radix=(8, 9), stacks=2, truncation="random"), 64),
    "butterfly plus low rank": lambda: built(Butterfly(48, rank=5, radix=4, stacks=2), 80),
    "low rank": lambda: built(LowRank(48, rank=5), 80),
    "product of radix 8": lambda: built(ButterflyDense(48, radix=8), 80),
    "increasing, expanding": lambda: built(Butterfly(32, order="increasing"), 8),
    "product": lambda: built(ButterflyDense(48), 80),
    "product, thinner left": lambda: built(ButterflyDense(48, k1=3, k2=7), 80),
    "product, thinner right": lambda: built(ButterflyDense(48, k1=7, k2=3), 80),
    "product with lora": lambda: built(ButterflyDense(48, k1=7, k2=3, lora_rank=2), 80),
}


# A few layers that differ most, for tests of every candidate.
QUICK = [(name, (3,)) for name in ("single node", "stacks", "radices 3, 4, 5", "product, thinner left")]
LEADING = ("padded", "truncated at random", "product")
OPERATORS = ("conv", "matmul", "split", "sum", "depthwise")
GROUPINGS = [(64,), (8, 8), (2, 32), (4, 2, 8), (4, 4, 4), (2, 2, 2, 2, 2, 2)]
MIXES = [(blocks, (operator,) * len(blocks)) for blocks in GROUPINGS for operator in OPERATORS]
MIXES += [((4, 4, 4), mix) for mix in itertools.permutations(OPERATORS, 3)]


def equals_dense_product(layer, lowering, leading, rng):
    """Assert that a lowering computes what the layer's dense kernel does, on inputs with the leading axes."""
    x = rng.standard_normal((*leading, layer.kernel.shape[0])).astype("float32")
    actual = np.asarray(lower(layer, lowering)(keras.ops.convert_to_tensor(x)))
    expected = dense_product(layer, x)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max(), err_msg=f"{lowering} on {leading}")


@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_dense_product(name, rng):
    layer = LAYERS[name]()
    for kind in KINDS.values():
        equals_dense_product(layer, kind(), (2, 3), rng)


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in LEADING else pytest.mark.long) for name in LAYERS])
def test_any_leading_axes(name, leading, rng):
    layer = LAYERS[name]()
    for kind in KINDS.values():
        equals_dense_product(layer, kind(), leading, rng)


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.long)
        for case in itertools.product(LAYERS, [(3,), (1,), (2, 5)])
    ],
)
def test_every_candidate_equals_the_dense_product(name, leading, rng):
    layer = LAYERS[name]()
    for lowering in lowerings(layer):
        equals_dense_product(layer, lowering, leading, rng)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("n", "units", "batch"),
    [(60, 33, 3), *(pytest.param(*sizes, marks=pytest.mark.long) for sizes in ((64, 64, 1), (45, 64, 3)))],
)
def test_any_grouping_with_any_mix_of_operators(n, units, batch, transposed, rng):
    layer = built(Butterfly(units, radix=2, transposed=transposed), n)
    for blocks, operators in MIXES:
        equals_dense_product(layer, Fused((Grouping(blocks, operators),)), (batch,), rng)


@pytest.mark.parametrize("width", [0, 2, 3, 16])
@pytest.mark.parametrize("name", ["product, thinner left", "product, thinner right"])
def test_padding_the_middle_of_a_folded_product_changes_nothing(name, width, rng):
    equals_dense_product(LAYERS[name](), Folded(width), (3,), rng)


def test_a_padded_middle_is_a_candidate_where_it_is_wider_than_the_rank():
    def widths(k):
        layer = built(ButterflyDense(512, k1=k, k2=k), 512)
        return [lowering.width for lowering in lowerings(layer) if isinstance(lowering, Folded)]

    assert [widths(10), widths(16), widths(17)] == [[0, 16], [0], [0, 32]]


def test_a_padded_middle_costs_one_slice():
    lowering = Folded(16)
    content = convert(lower(built(ButterflyDense(512), 512), lowering), [tf.TensorSpec((1, 512), name="x")])
    assert operator_names(content) == ("FULLY_CONNECTED", "STRIDED_SLICE", "FULLY_CONNECTED")


def operators_of(layer, n, lowering):
    """Return how often a file of the affine map of one layer holds each operator."""
    function = lower(built(layer, n), KINDS[lowering]())
    return Counter(operator_names(convert(function, [tf.TensorSpec((1, n), name="x")])))


@pytest.mark.parametrize(
    ("lowering", "expected"),
    [
        ("gather", {"MUL": 12, "GATHER": 6, "ADD": 6}),
        ("slice", {"RESHAPE": 12, "STRIDED_SLICE": 12, "CONCATENATION": 6, "MUL": 12, "ADD": 6}),
        ("fused", {"RESHAPE": 5, "CONV_2D": 2, "TRANSPOSE": 2}),
        ("folded", {"FULLY_CONNECTED": 1}),
        ("dense", {"FULLY_CONNECTED": 1}),
    ],
)
def test_operators_of_a_full_butterfly_are_pinned(lowering, expected):
    assert operators_of(Butterfly(radix=2, use_bias=False), 64, lowering=lowering) == expected


@pytest.mark.parametrize(("radix", "products"), [(4, 4 * 4), ((8, 32), 8 + 32), ((4, 9, 8), 4 + 9 + 8)])
def test_a_stage_by_gathers_has_one_product_for_each_node_of_a_gadget(radix, products):
    found = operators_of(Butterfly(radix=radix, use_bias=False), 256, lowering="gather")
    stages = len(radix) if isinstance(radix, tuple) else 4
    # The value of the node itself needs no GATHER, unless padding moves the nodes.
    assert found["MUL"] == products and found["ADD"] == products - stages
    assert products - stages <= found["GATHER"] <= products
    assert set(found) <= {"GATHER", "MUL", "ADD", "RESHAPE"}


@pytest.mark.parametrize("lowering", KINDS)
def test_a_bias_costs_at_most_one_addition(lowering):
    """See that it is fused where the last operator takes a bias."""
    with_bias, without = (
        operators_of(Butterfly(bias_initializer="ones", use_bias=use_bias), 64, lowering=lowering) for use_bias in (True, False)
    )
    assert with_bias - without == ({"ADD": 1} if lowering in ("gather", "slice") else {})


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (("conv", "conv", "conv"), {"CONV_2D": 3, "TRANSPOSE": 3, "RESHAPE": 7}),
        (("matmul", "matmul", "matmul"), {"BATCH_MATMUL": 3, "TRANSPOSE": 3, "RESHAPE": 7}),
        (("split", "split", "split"), {"FULLY_CONNECTED": 192, "SPLIT": 3, "CONCATENATION": 3, "TRANSPOSE": 3, "RESHAPE": 6}),
        (("sum", "sum", "sum"), {"MUL": 3, "SUM": 3, "RESHAPE": 4}),
        (("conv", "sum", "sum"), {"CONV_2D": 1, "MUL": 2, "SUM": 2, "RESHAPE": 4}),
        (("conv", "conv", "sum"), {"CONV_2D": 2, "TRANSPOSE": 2, "MUL": 1, "SUM": 1, "RESHAPE": 6}),
        (
            ("conv", "conv", "depthwise"),
            {"CONV_2D": 2, "TRANSPOSE": 2, "DEPTHWISE_CONV_2D": 8, "CONCATENATION": 1, "RESHAPE": 13},
        ),
        (
            ("conv", "depthwise", "depthwise"),
            {"CONV_2D": 1, "TRANSPOSE": 1, "DEPTHWISE_CONV_2D": 16, "CONCATENATION": 2, "RESHAPE": 20},
        ),
    ],
)
def test_operators_of_a_factor_are_pinned(operators, expected):
    """A TRANSPOSE stands only where values have to move: never before the first factor, once for all "depthwise" ones."""
    layer = built(Butterfly(radix=2, use_bias=False), 512)
    content = convert(lower(layer, Fused((Grouping((8, 8, 8), operators),))), [tf.TensorSpec((1, 512), name="x")])
    assert Counter(operator_names(content)) == expected


@pytest.mark.parametrize(("transposed", "transposes"), [(False, 1), (True, 0)])
def test_depthwise_convolutions_in_a_row_need_at_most_one_transpose(transposed, transposes):
    """The bias is a part of the convolutions, so that there is no ADD."""
    grouping = Grouping((8, 4, 4, 4), ("conv", "depthwise", "depthwise", "depthwise"))
    if transposed:  # the stride decreases, and the factors come in the opposite order
        grouping = Grouping(grouping.blocks[::-1], grouping.operators[::-1])
    layer = built(Butterfly(radix=2, bias_initializer="ones", transposed=transposed), 512)
    content = convert(lower(layer, Fused((grouping,))), [tf.TensorSpec((1, 512), name="x")])
    operators = Counter(operator_names(content))
    assert operators["TRANSPOSE"] == transposes and "ADD" not in operators


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("n", "units"), [(512, 512), (512, 300)])
def test_depthwise_convolutions_have_up_to_four_taps_and_larger_blocks_beside_them(n, units, transposed):
    layer = built(Butterfly(units, radix=2, transposed=transposed), n)
    groupings = [lowering.groupings[0] for lowering in lowerings(layer) if isinstance(lowering, Fused)]
    blocks = [(block, kind) for each in groupings if "depthwise" in each.operators for block, kind in zip(*each, strict=True)]
    assert {block for block, kind in blocks if kind == "depthwise"} == {2, 4}
    assert min(block for block, kind in blocks if kind == "conv") == 8


@pytest.mark.parametrize("batch", [2, None])
def test_the_runtime_transposes_before_the_most_depthwise_convolutions(batch, rng):
    """TFLite refuses a TRANSPOSE of more than six axes, and the batch is one of them."""
    layer = built(Butterfly(), 4096)
    lowering = Fused((Grouping((16, 4, 4, 4, 4), ("conv", *("depthwise",) * 4)),))
    assert lowering in lowerings(layer)
    content = convert(lower(layer, lowering), [tf.TensorSpec((batch, 4096), name="x")])
    x = rng.standard_normal((2, 4096)).astype("float32")
    (output,) = run_all(load(content), [{"x": x}]).values()
    expected = dense_product(layer, x)
    np.testing.assert_allclose(output, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("activation", [pytest.param(None, marks=pytest.mark.long), "tanh"])
def test_transposes_between_neighbours_cancel(activation):
    """A butterfly of increasing strides ends in the layout that one of decreasing strides wants, through bias and activation
    too."""
    settings = {"bias_initializer": "ones", "activation": activation}
    model = keras.Sequential([keras.Input((256,)), Butterfly(**settings), Butterfly(transposed=True, **settings)])
    assert Counter(export.to_tflite(model, lowering="fused").operators)["TRANSPOSE"] == 2
    alone = keras.Sequential([keras.Input((256,)), Butterfly(**settings)])
    assert Counter(export.to_tflite(alone, lowering="fused").operators)["TRANSPOSE"] == 2


def test_a_truncation_reads_from_where_the_values_lie():
    """See that GATHER absorbs the last transpose."""
    layer = built(Butterfly(10, truncation="random", use_bias=False), 256)
    content = convert(lower(layer, Fused((Grouping((16, 16), ("conv", "conv")),))), [tf.TensorSpec((1, 256), name="x")])
    assert Counter(operator_names(content)) == {"CONV_2D": 2, "TRANSPOSE": 1, "GATHER": 1, "RESHAPE": 4}


def test_the_first_nodes_are_read_by_one_slice():
    layer = built(Butterfly(10, use_bias=False), 256)
    content = convert(lower(layer, Fused((Grouping((16, 16), ("conv", "conv")),))), [tf.TensorSpec((1, 256), name="x")])
    assert Counter(operator_names(content)) == {"CONV_2D": 2, "TRANSPOSE": 1, "STRIDED_SLICE": 1, "RESHAPE": 4}


def test_bias_and_relu_of_a_folded_product_are_fused_into_two_operators():
    model = keras.Sequential([keras.Input((64,)), ButterflyDense(64, activation="relu")])
    assert export.to_tflite(model, lowering="folded").operators == ("FULLY_CONNECTED", "FULLY_CONNECTED")


@pytest.mark.parametrize(
    "lowering", ["fused", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gather", "slice", "folded", "dense"))]
)
def test_a_product_is_lowered_butterfly_by_butterfly(lowering):
    """See that export takes both biases: it compares with Keras itself."""
    layers = [Kaleidoscope(16, bias_initializer="ones"), Butterfly(bias_initializer="ones")]
    exported = export.to_tflite(keras.Sequential([keras.Input((16,)), *layers]), lowering=lowering)
    assert [plan.layer for plan in exported.plan] == [f"{layers[0].name}_0", f"{layers[0].name}_1", layers[1].name]


def test_what_is_estimated_to_cost_far_more_is_not_measured():
    small, large = built(Butterfly(radix=2), 128), built(Butterfly(radix=2), 4096)
    assert Dense() in shortlist(small, 1, None)
    assert Dense() not in shortlist(large, 1, None)
    # Several rows of a quantized model may be multiplied much faster than the estimates know.
    assert Dense() not in shortlist(large, 1, "int8")
    assert all(Dense() in shortlist(large, 64, precision) for precision in ("dynamic", "int8"))
    assert len(lowerings(large)) > 100
    assert len(shortlist(large, 1, None)) < 15


def test_a_layer_is_found_wherever_it_sits():
    """Shared, nested, inside TimeDistributed and Bidirectional; the parts of a ButterflyDense are not listed."""
    shared, inner, wrapped = Butterfly(name="shared"), Butterfly(name="inner"), Butterfly(name="wrapped")
    product = ButterflyDense(8, name="product")
    block = keras.Sequential([keras.Input((6, 16)), inner])
    x = inputs = keras.Input((6, 16))
    x = keras.layers.TimeDistributed(wrapped)(block(shared(shared(x))))
    model = keras.Model(inputs, product(x))
    batches = [{"x": np.ones((1, 6, 16), "float32")}]
    seen, outputs = observe(model, [tf.TensorSpec((1, 6, 16))], lambda x: {"y": model(x)}, batches)
    assert [layer.name for layer in seen] == ["shared", "inner", "wrapped", "product"]
    assert seen[shared].shapes == [(1, 6, 16), (1, 6, 16)]
    assert len(seen[shared].inputs) == 2
    np.testing.assert_allclose(seen[inner].inputs[0], shared(seen[shared].inputs[1]), atol=1e-6)
    np.testing.assert_allclose(outputs[0]["y"], model(batches[0]["x"]), atol=1e-6)


@keras.saving.register_keras_serializable("test_lowering")
class Cell(keras.layers.Layer):
    """A recurrent cell of butterflies."""

    def __init__(self, units, **settings):
        super().__init__(**settings)
        self.units = self.state_size = self.output_size = units
        self.of_inputs, self.of_states = Butterfly(units, seed=0), Butterfly(units, use_bias=False, seed=1)

    def build(self, shape):
        self.of_inputs.build(shape)
        self.of_states.build((None, self.units))
        self.built = True

    def call(self, inputs, states, training=False):
        state = keras.ops.tanh(self.of_inputs(inputs) + self.of_states(states[0]))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("unroll", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_layer_inside_a_recurrent_cell_is_lowered(unroll):
    """In a compiled loop its inputs cannot be seen: random ones stand in for its own error; the whole is compared as ever."""
    recurrent = keras.layers.Bidirectional(keras.layers.RNN(Cell(16), return_sequences=True, unroll=unroll))
    model = keras.Sequential([keras.Input((3, 16), name="x"), recurrent])
    for lowering in ("gather", "auto"):
        exported = export.to_tflite(model, lowering=lowering, effort="estimate")
        assert len(exported.plan) == 4
        assert exported.parity.relative_error < 1e-5
        assert all(plan.error < 1e-5 for plan in exported.plan)


@pytest.mark.parametrize(
    ("n", "units", "expected"),
    [(784, 1024, 25 * 32 * 32 + 32 * 25 * 32), (640, 640, 20 * 32 * 32 + 32 * 20 * 20), (64, 1024, 32 * 2 * 32 + 32 * 32 * 32)],
)
def test_nodes_behind_the_last_ones_are_left_out(n, units, expected):
    layer = built(Butterfly(units, radix=2, use_bias=False), n)
    content = convert(lower(layer, Fused((Grouping((32, 32), ("conv", "conv")),))), [tf.TensorSpec((1, n), name="x")])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    stored = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None and len(buffer.data) > 4096)
    assert stored == 4 * expected


@pytest.mark.parametrize("lowering", [Folded(), Folded(16), Dense(), Fused((Grouping((32, 32), ("conv", "sum")),))])
def test_a_lowering_is_read_back_from_json(lowering):
    saved = json.loads(json.dumps(lowering.to_dict()))
    assert KINDS[saved.pop("kind")].from_dict(saved) == lowering


@pytest.mark.parametrize("width", [-1, 1.5, "16"])
def test_a_folded_middle_has_a_width_from_0(width):
    with pytest.raises(ValueError, match=r"an integer from 0\. Received: "):
        Folded.from_dict(Folded().to_dict() | {"width": width})
