"""EinsumDense over several axes replaced, attention with them: against Keras's own layers with the butterflies' kernels."""

import keras
import numpy as np
import pytest
from backend import ROUNDOFF, value_and_gradients
from keras import layers, ops

from keras_butterfly import Butterfly, distill, replace_dense, summary
from keras_butterfly.compression.dense_map import DenseMap
from keras_butterfly.compression.distillation import matching_layers
from keras_butterfly.layers.flattened_axes import FlattenedAxes
from keras_butterfly.utils.model_walk import named_layers

pytestmark = pytest.mark.usefixtures("eager")
QUICK = {"steps": 2, "seed": 0, "progress": False}
FIT = {**QUICK, "initialize": "fit"}

# (equation, sizes of the letters of the kernel, output shape, axes of the bias, input shape)
EQUATIONS = [
    ("abc,cde->abde", "c6 d2 e5", (None, 2, 5), "de", (3, 6)),
    ("abcd,cde->abe", "c2 d3 e7", (None, 7), "e", (4, 2, 3)),
    ("bqm,muh->bquh", "m6 u2 h4", (None, 2, 4), "uh", (3, 6)),
    ("bquh,uhm->bqm", "u2 h4 m6", (None, 6), None, (3, 2, 4)),
    ("abcd,edcf->abfe", "e5 d3 c2 f4", (4, 4, 5), "e", (4, 2, 3)),
    ("abc,dce->abde", "d2 c6 e5", (None, 2, 5), "d", (3, 6)),
    ("ab,cb->ac", "c5 b6", (5,), "c", (6,)),
    ("...xy,zyxw->...wz", "z4 y3 x2 w2", (2, 4), "wz", (4, 2, 3)),
]


def values(model, x):
    return keras.tree.map_structure(ops.convert_to_numpy, model(x, training=False))


def orders(equation, sizes):
    """The sizes of the letters, the contracted letters in the input's order, and the new ones in the result's."""
    inputs, kernel, result = equation.replace("->", ",").split(",")
    known = {part[0]: int(part[1:]) for part in sizes.split()}
    return known, [a for a in inputs if a in kernel], [a for a in result if a in kernel], kernel


def kernel_of(inner, equation, sizes, transposed=np.einsum):
    """The butterfly's kernel with the axes of the equation."""
    known, contracted, new, kernel = orders(equation, sizes)
    shaped = ops.reshape(inner.kernel, [known[letter] for letter in contracted + new])
    return transposed(f"{''.join(contracted + new)}->{kernel}", shaped)


@pytest.mark.parametrize(("equation", "sizes", "output", "bias_axes", "shape"), EQUATIONS, ids=lambda value: str(value)[:20])
def test_values_and_gradients_are_those_of_einsum_with_the_kernel_of_the_butterfly(
    equation, sizes, output, bias_axes, shape, rng
):
    """Keras's EinsumDense with the kernel, and `ops.einsum` for the gradients of the input and of the butterfly's weights."""
    inputs = keras.Input(shape, dtype="float64")
    old = layers.EinsumDense(equation, output, activation="softmax", bias_axes=bias_axes, dtype="float64", name="mixed")
    model = keras.Model(inputs, old(inputs))
    if bias_axes:
        old.bias.assign(rng.standard_normal(old.bias.shape).astype("float32"))  # to which biases are rounded
    new, report = replace_dense(model, min_weights=1, initialize="fresh", **QUICK)
    layer = new.get_layer("mixed")
    inner = layer if isinstance(layer, Butterfly) else layer.layer
    known, contracted, made, _ = orders(equation, sizes)
    assert inner.kernel.shape == (np.prod([known[a] for a in contracted]), np.prod([known[a] for a in made]))
    assert (report.replacements[0].inputs, report.replacements[0].units) == tuple(inner.kernel.shape)
    x = rng.standard_normal((2, *shape))
    old.kernel.assign(kernel_of(inner, equation, sizes, lambda e, k: np.einsum(e, ops.convert_to_numpy(k))))
    wanted = values(model, x)
    assert new.output_shape == (None, *wanted.shape[1:])
    np.testing.assert_allclose(values(new, x), wanted, rtol=10 * ROUNDOFF, atol=10 * ROUNDOFF)
    upstream = rng.standard_normal(wanted.shape)

    def oracle(x):
        summed = ops.einsum(equation, x, kernel_of(inner, equation, sizes, ops.einsum))
        return ops.softmax(summed if not bias_axes else summed + ops.convert_to_tensor(old.bias.value))

    for given, expected in zip(
        value_and_gradients(layer, [x, inner.gadgets], upstream)[1],
        value_and_gradients(oracle, [x, inner.gadgets], upstream)[1],
        strict=True,
    ):
        np.testing.assert_allclose(given, expected, rtol=1e3 * ROUNDOFF, atol=1e3 * ROUNDOFF)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(
    "case",
    [EQUATIONS[0], EQUATIONS[1], ("abcd,edcf->abfe", "e4 d2 c4 f2", (4, 2, 4), "fe", (4, 4, 2))],
    ids=lambda case: case[0],
)
def test_kernels_that_a_butterfly_has_are_found_again(case, data, rng):
    """The fit starts from an exact factorization, if the axes of kernel, inputs and outputs are in the right order."""
    equation, sizes, output, bias_axes, shape = case
    inputs = keras.Input(shape)
    old = layers.EinsumDense(equation, output, bias_axes=bias_axes, name="mixed")
    model = keras.Model(inputs, old(inputs))
    known, contracted, made, _ = orders(equation, sizes)
    butterfly = Butterfly(int(np.prod([known[a] for a in made])), seed=3)
    butterfly.build((None, int(np.prod([known[a] for a in contracted]))))
    kernel = kernel_of(butterfly, equation, sizes, lambda e, k: np.einsum(e, ops.convert_to_numpy(k)))
    old.set_weights([kernel, rng.standard_normal(old.bias.shape)])
    assert np.allclose(DenseMap.of(old).kernel, ops.convert_to_numpy(butterfly.kernel))
    x = rng.standard_normal((30, *shape)).astype("float32")
    new, report = replace_dense(model, min_weights=1, data=x if data else None, **{**FIT, "steps": 0})
    assert report.replacements[0].error < 1e-2
    assert np.abs(values(new, x) - values(model, x)).max() < 2e-2


def self_attention(**settings):
    inputs = keras.Input((None, 16))
    attention = layers.MultiHeadAttention(2, 8, name="mha", **settings)
    return keras.Model(inputs, attention(inputs, inputs, use_causal_mask=True)), [(5, 16)]


def cross_attention():
    query, value, key = keras.Input((5, 16)), keras.Input((4, 12)), keras.Input((4, 7))
    depth = 8 if keras.backend.backend() == "jax" else 3  # JAX wants that of keys
    attention = layers.MultiHeadAttention(2, 8, value_dim=depth, output_shape=(2, 5), use_bias=False, name="mha")
    return keras.Model([query, value, key], attention(query, value, key)), [(5, 16), (4, 12), (4, 7)]


def image_attention():
    inputs = keras.Input((None, None, 16))
    attention = layers.MultiHeadAttention(2, 8, attention_axes=(1, 2), name="mha")
    return keras.Model(inputs, attention(inputs, inputs)), [(2, 3, 16)]


def grouped_attention():
    inputs = keras.Input((5, 16))
    attention = layers.GroupQueryAttention(8, 4, 2, name="gqa")
    return keras.Model(inputs, attention(inputs, inputs)), [(5, 16)]


def called_twice():
    inputs = keras.Input((5, 16))
    attention = layers.MultiHeadAttention(2, 8, name="mha", kernel_regularizer="l2")
    inner = keras.Model(inputs, attention(attention(inputs, inputs), inputs), name="inner")
    outer = keras.Input((5, 16))
    return keras.Model(outer, inner(outer) + outer), [(5, 16)]


def fold_back(model, new):
    """Give the attention of `model` the kernels and biases of the butterflies in `new`."""
    old_layers = dict(named_layers(model))
    for path, layer in named_layers(new):
        if isinstance(layer, FlattenedAxes):
            old, inner = old_layers[path], layer.layer
            weights = [inner.kernel, *([] if inner.bias is None else [inner.bias])]
            old.set_weights([ops.convert_to_numpy(w).reshape(v.shape) for w, v in zip(weights, old.variables, strict=True)])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: self_attention(dropout=0.2), marks=pytest.mark.long),
        pytest.param(cross_attention, marks=pytest.mark.long),
        grouped_attention,
        *(pytest.param(make, marks=pytest.mark.long) for make in (image_attention, called_twice)),
    ],
    ids=["causal with dropout", "cross", "grouped", "image", "twice"],
)
def test_attention_equals_that_of_keras_with_the_kernels_of_the_butterflies(make, rng, tmp_path):
    model, shapes = make()
    x = [rng.standard_normal((12, *shape)).astype("float32") for shape in shapes]
    x = x[0] if len(x) == 1 else x
    new, report = replace_dense(model, min_weights=1, data=x, **FIT)
    assert [each.layer.split("/")[-1] for each in report.replacements] == ["query", "key", "value", "attention_output"]
    assert {(each.was, each.kind, each.fitted_to) for each in report.replacements} == {("EinsumDense", "Butterfly", "data")}
    teacher = keras.models.clone_model(model)
    teacher.set_weights(model.get_weights())
    fold_back(model, new)
    np.testing.assert_allclose(values(new, x), values(model, x), atol=1e-5)
    # Saved, loaded, and nothing left to replace.
    new.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras")
    assert np.array_equal(values(loaded, x), values(new, x))
    new.save_weights(tmp_path / "new.weights.h5")
    for variable in loaded.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    loaded.load_weights(tmp_path / "new.weights.h5")
    assert np.array_equal(values(loaded, x), values(new, x))
    with pytest.raises(ValueError, match="the model has no dense layer"):
        replace_dense(loaded, min_weights=1, **FIT)
    pairs = matching_layers(new, teacher)
    assert [(type(a), type(b)) for a, b in pairs] == [(FlattenedAxes, layers.EinsumDense)] * 4
    found = summary(new, show=False)
    assert found.weights == new.count_params()
    (unlike,) = [row for row in found.rows if row.layer.endswith(("mha", "gqa"))]
    assert unlike.kind in ("MultiHeadAttention", "GroupedQueryAttention")
    (before,) = [row for row in summary(model, show=False).rows if row.layer.endswith(("mha", "gqa"))]
    assert unlike.multiply_adds == before.multiply_adds


def test_padding_masks_and_gates_reach_attention(rng):
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 16, mask_zero=True)(ids)
    attention = layers.MultiHeadAttention(2, 8, use_gate=True, name="mha")
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(attention(x, x)))
    data = rng.integers(1, 9, (12, 6))
    data[:, 4:] = 0
    new, report = replace_dense(model, min_weights=1, data=data, **FIT)
    assert [each.layer for each in report.replacements][2] == "mha/gate"
    fold_back(model, new)
    np.testing.assert_allclose(values(new, data), values(model, data), atol=1e-5)
    assert new.get_layer("mha")._gate_dense.activation is keras.activations.sigmoid


def test_a_small_transformer_is_trained_replaced_distilled_and_saved(rng, tmp_path):
    inputs = keras.Input((6, 32))
    attention = layers.MultiHeadAttention(2, 16, name="mha")(inputs, inputs)
    x = layers.LayerNormalization(name="norm")(inputs + attention)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="head")(x))
    data = rng.standard_normal((64, 6, 32)).astype("float32")
    labels = (data[:, :, 0].sum(-1) > 0).astype(int)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data, labels, verbose=0)
    new, report = replace_dense(model, where=["query", "mha/key", "value", "attention_output"], data=data, **FIT)
    assert len(report.replacements) == 4
    first = new.get_layer("mha").query_dense.layer.get_weights()
    history = distill(new, model, data, labels, epochs=2, hint=1.0, batch_size=32, progress=False)
    assert history.history["loss"][1] < history.history["loss"][0]
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(first, new.get_layer("mha").query_dense.layer.get_weights(), strict=True)
    )
    new.save(tmp_path / "new.keras")
    assert np.array_equal(values(keras.models.load_model(tmp_path / "new.keras"), data), values(new, data))


@keras.saving.register_keras_serializable("tests")
class Encoder(layers.Layer):
    """A block that has no build(): the attention in it is built by the first call."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.attention = layers.MultiHeadAttention(2, 8, name="attention")

    def call(self, x):
        return x + self.attention(x, x)

    def get_config(self):
        return super().get_config()


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called")
def test_attention_inside_a_users_layer_is_saved(rng, tmp_path):
    inputs = keras.Input((5, 16))
    model = keras.Model(inputs, Encoder(name="encoder")(inputs))
    x = rng.standard_normal((12, 5, 16)).astype("float32")
    for where in (["query"], ["key", "value"]):  # in turns
        model, report = replace_dense(model, where=where, data=x, **FIT)
        assert [each.layer for each in report.replacements] == [f"encoder/attention/{name}" for name in where]
        before = values(model, x)
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
        assert np.array_equal(values(model, x), before)
    assert isinstance(model.get_layer("encoder").attention.query_dense, FlattenedAxes)


def test_settings_are_kept():
    settings = {
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "bias_constraint": "non_neg",
    }
    inputs = keras.Input((4, 32))
    old = layers.EinsumDense(
        "abc,cde->abde", (None, 4, 8), bias_axes="de", activation="softmax", dtype="mixed_bfloat16", name="kept", **settings
    )
    model = keras.Model(inputs, old(inputs))
    old.trainable = False
    for kind in ({}, {"k": 4}, {"kind": "low_rank", "rank": 3}):
        new = replace_dense(model, where="kept", initialize="fresh", **kind, **QUICK)[0].get_layer("kept")
        assert isinstance(new, FlattenedAxes)
        assert new.activation is keras.activations.softmax and new.layer.activation is keras.activations.linear
        assert type(new.activity_regularizer) is keras.regularizers.L2 and new.layer.activity_regularizer is None
        assert type(new.layer.kernel_regularizer) is keras.regularizers.L2
        assert type(new.layer.bias_regularizer) is keras.regularizers.L1
        assert type(new.layer.bias_constraint) is keras.constraints.NonNeg
        assert new.dtype_policy.name == new.layer.dtype_policy.name == "mixed_bfloat16"
        assert not new.trainable and not new.layer.trainable
        again = FlattenedAxes.from_config(new.get_config())
        assert type(again.activity_regularizer) is keras.regularizers.L2
        assert (again.axes, again.sizes, type(again.layer)) == (1, (4, 8), type(new.layer))


def test_strided_convolutions_are_paired_with_the_teachers():
    model = keras.Sequential([keras.Input((5, 7, 32)), layers.Conv2D(32, 1, strides=2, name="mix")])
    new, _ = replace_dense(model, where="mix", initialize="fresh", **QUICK)
    ((student, teacher),) = matching_layers(new, model)
    assert (type(student), teacher) == (keras.Sequential, model.get_layer("mix"))
