"""Dense layers of any Keras model replaced; what stays and what becomes of it."""

import re

import keras
import numpy as np
import pytest
from backend import JIT
from keras import layers

from keras_butterfly import Butterfly, ButterflyDense, replace_dense
from keras_butterfly.compression.cloning import clone_with
from keras_butterfly.compression.dense_map import DenseMap
from keras_butterfly.compression.user_layers import WithReplacedLayers
from keras_butterfly.structure.wiring import Wiring
from keras_butterfly.utils.model_inputs import check_data
from keras_butterfly.utils.model_walk import named_layers
from keras_butterfly.utils.recording import value_of

pytestmark = pytest.mark.usefixtures("eager")
QUICK = {"steps": 2, "seed": 0, "progress": False}
FIT = {**QUICK, "initialize": "fit"}


def mlp():
    return keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(64, activation="relu", name="first"),
            layers.Dropout(0.1),
            layers.Dense(64, use_bias=False, name="second"),
            layers.BatchNormalization(),
            layers.Dense(10, name="last"),
        ]
    )


def values(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def kinds(model):
    return {path: type(layer).__name__ for path, layer in named_layers(model)}


def test_the_original_stays_and_the_report_is_true(rng):
    model = mlp()
    x = rng.standard_normal((100, 32)).astype("float32")
    before, weights = values(model, x), [value.copy() for value in model.get_weights()]
    new, report = replace_dense(model, data=x, **FIT)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert np.array_equal(before, values(model, x))
    assert [(each.layer, each.was, each.kind) for each in report.replacements] == [
        ("first", "Dense", "Butterfly"),
        ("second", "Dense", "Butterfly"),
    ]
    assert report.kept == {"last": f"would keep {new_count(64, 10) + 10} of its 650 weights"}
    assert report.notes == ()
    assert (report.weights_before, report.weights_after) == (model.count_params(), new.count_params())
    first = report.replacements[0]
    assert (first.inputs, first.units, first.weights_before) == (32, 64, 32 * 64 + 64)
    assert first.weights_after == new.get_layer("first").count_params() == new_count(32, 64) + 64
    assert first.fitted_to == "data"
    # The recorded error is that of the deviation from the mean, as the bias takes up the mean.
    wanted = x @ model.get_layer("first").get_weights()[0]
    given = keras.ops.convert_to_numpy(new.get_layer("first").linear(x))
    wanted, given = wanted - wanted.mean(0), given - given.mean(0)
    assert abs(np.linalg.norm(given - wanted) / np.linalg.norm(wanted) - first.error) < 0.02
    assert report.to_dict()["replacements"][0]["layer"] == "first"
    assert report.table().row_count == 2


def test_the_report_says_where_little_is_saved():
    _, report = replace_dense(mlp(), where=["first", "last"], initialize="fresh")
    count = new_count(64, 10) + 10
    note = f"'last' saves little: {count} weights, where Dense has 650. Dense is likely the better choice."
    assert count > 0.5 * 650
    assert report.notes == (note,)
    assert report.to_dict()["notes"] == [note]
    assert report.table().caption.startswith(note)


def test_butterflies_start_from_random_weights_and_low_rank_layers_from_a_fit(rng):
    x = rng.standard_normal((40, 32)).astype("float32")
    _, report = replace_dense(mlp(), where="first", data=x, **QUICK)
    assert [each.fitted_to for each in report.replacements] == [None]
    assert "New layers with random weights: 1. They need training" in " ".join(str(report.table()).split())
    _, report = replace_dense(mlp(), where="first", data=x, kind="low_rank", rank=4, **QUICK)
    assert [each.fitted_to for each in report.replacements] == ["data"]
    assert "random weights" not in str(report.table())


def new_count(inputs, units):
    layer = Butterfly(units, seed=0)
    layer.build((None, inputs))
    return layer.effective_parameters


def test_a_butterfly_in_dense_clothes_is_carried_over_exactly(rng):
    """Whose kernel a butterfly has, the replaced model computes the same."""
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16, activation="tanh"), layers.Dense(16)])
    for index, layer in enumerate(model.layers):
        butterfly = Butterfly(16, seed=index)
        butterfly.build((None, 16))
        layer.set_weights([keras.ops.convert_to_numpy(butterfly.kernel), rng.standard_normal(16)])
    x = rng.standard_normal((50, 16)).astype("float32")
    for data in (None, x):
        new, report = replace_dense(model, min_weights=1, data=data, **{**FIT, "steps": 0})
        assert max(each.error for each in report.replacements) < 1e-2
        assert np.abs(values(new, x) - values(model, x)).max() < 1e-2


@pytest.mark.usefixtures("graph")
def test_fitting_to_data_comes_nearer_than_to_the_kernel(rng):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(64)])
    x = (rng.standard_normal((400, 6)) @ rng.standard_normal((6, 64))).astype("float32")
    settings = {"steps": 40, "seed": 0, "progress": False}
    errors = {}
    for name, how in {"data": {"data": x, "initialize": "fit"}, "kernel": {"initialize": "fit"}, "fresh": {}}.items():
        new, report = replace_dense(model, **how, **settings)
        errors[name] = np.linalg.norm(values(new, x) - values(model, x))
        assert {each.fitted_to for each in report.replacements} == {None if name == "fresh" else name}
    assert errors["data"] < 0.7 * errors["kernel"]
    assert errors["data"] < 0.7 * errors["fresh"]


def test_settings_of_the_layers_are_kept():
    dense = layers.Dense(
        64,
        activation="gelu",
        kernel_regularizer=keras.regularizers.L2(1e-3),
        bias_regularizer="l1",
        activity_regularizer="l2",
        bias_constraint="non_neg",
        dtype="mixed_bfloat16",
        name="kept",
    )
    model = keras.Sequential([keras.Input((64,)), dense])
    dense.trainable = False
    dense.bias.assign(np.linspace(0, 1, 64))
    for k, kind in ((None, Butterfly), (8, ButterflyDense)):
        new = replace_dense(model, k=k, initialize="fresh", **QUICK)[0].get_layer("kept")
        assert isinstance(new, kind)
        assert new.activation is dense.activation
        assert new.kernel_regularizer.l2 == pytest.approx(1e-3)
        assert type(new.bias_regularizer) is keras.regularizers.L1
        assert type(new.activity_regularizer) is keras.regularizers.L2
        assert type(new.bias_constraint) is keras.constraints.NonNeg
        assert new.dtype_policy.name == "mixed_bfloat16"
        assert not new.trainable
        assert np.allclose(keras.ops.convert_to_numpy(new.bias), np.linspace(0, 1, 64), atol=1e-6)


@pytest.mark.parametrize(
    ("where", "replaced"),
    [
        ("first", ["first"]),
        (["first", "inner/deep"], ["first", "inner/deep"]),
        (["deep"], ["inner/deep"]),
        (re.compile("inner/"), ["inner/deep"]),
        (lambda layer: layer.units == 48, ["wide"]),
        (None, ["first", "wide", "inner/deep"]),
    ],
)
def test_where(where, replaced):
    _, report = replace_dense(nested(), where=where, initialize="fresh", **QUICK)
    assert [each.layer for each in report.replacements] == replaced


@pytest.mark.parametrize(
    ("where", "replaced"),
    [
        (None, ["wide", "inner/deep"]),
        (re.compile("deep|first"), ["inner/deep"]),
        (["first", "wide"], ["wide"]),
        (lambda layer: layer.name != "wide", ["inner/deep"]),
    ],
)
def test_min_weights_limits_what_where_selects(where, replaced):
    _, report = replace_dense(nested(), where=where, min_weights=1500, initialize="fresh", **QUICK)
    assert [each.layer for each in report.replacements] == replaced


def test_min_weights_includes_convolutions_and_layers_that_save_little():
    inputs = keras.Input((3, 3, 16))
    model = keras.Model(inputs, layers.Conv2D(16, 1, name="mix")(inputs))
    assert replace_dense(model, min_weights=100, initialize="fresh", **QUICK)[1].replacements[0].layer == "mix"


def test_an_error_of_a_predicate_reaches_the_user():
    def predicate(layer):
        raise ValueError("a mistake in the predicate")

    with pytest.raises(ValueError, match=r"^a mistake in the predicate$"):
        replace_dense(mlp(), where=predicate, **FIT)


def nested():
    inputs = keras.Input((32,))
    x = layers.Dense(48, name="wide")(layers.Dense(32, name="first")(inputs))
    inner = keras.Sequential([keras.Input((48,)), layers.Dense(64, name="deep")], name="inner")
    return keras.Model(inputs, inner(x))


def test_shared_layers_stay_shared_and_branches_stay_apart(rng):
    inputs = keras.Input((32,))
    shared = layers.Dense(32, activation="relu", name="shared")
    left, right = shared(inputs), shared(layers.Dense(32, name="own")(inputs))
    model = keras.Model(inputs, {"sum": left + right, "right": right})
    x = rng.standard_normal((40, 32)).astype("float32")
    new, report = replace_dense(model, data=x, **FIT)
    assert sorted(each.layer for each in report.replacements) == ["own", "shared"]
    outputs = new(x)
    assert sorted(outputs) == ["right", "sum"]
    layer = new.get_layer("shared")
    difference = keras.ops.convert_to_numpy(outputs["sum"] - outputs["right"])
    assert np.allclose(difference, keras.ops.convert_to_numpy(layer(x)), atol=1e-5)
    assert sum(isinstance(layer, Butterfly) for layer in new.layers) == 2


def test_rank_3_einsum_and_wrapped_layers(rng):
    inputs = keras.Input((5, 32))
    x = layers.Dense(32, name="rank_3")(inputs)
    x = layers.EinsumDense("abc,cd->abd", (None, 32), bias_axes="d", activation="relu", name="einsum")(x)
    x = layers.TimeDistributed(layers.Dense(32, name="inner"), name="each")(x)
    model = keras.Model(inputs, layers.Bidirectional(layers.LSTM(4))(x))
    data = rng.standard_normal((20, 5, 32)).astype("float32")
    new, report = replace_dense(model, data=data, **FIT)
    assert [each.layer for each in report.replacements] == ["rank_3", "einsum", "each/inner"]
    assert new.get_layer("einsum").activation is keras.activations.relu
    assert values(new, data).shape == (20, 8)
    # What was not replaced has the original's weights.
    own, theirs = (model_.layers[-1].get_weights() for model_ in (new, model))
    assert all(np.array_equal(a, b) for a, b in zip(own, theirs, strict=True))


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (layers.EinsumDense("abc,bcd->abd", (3, 32)), (None, 3, 32), "'abc,bcd->abd', whose input, kernel .* the axis 'b'"),
        (layers.EinsumDense("abc,c->abc", (3, 32)), (None, 3, 32), "share the axis 'c'"),
        (layers.EinsumDense("abc,bd->adc", (32, 32)), (None, 32, 32), "has the equation 'abc,bd->adc'; a dense map"),
        (layers.EinsumDense("abc,cd->adb", (32, 3)), (None, 3, 32), "has the equation 'abc,cd->adb'; a dense map"),
        (layers.EinsumDense("abc,cd->ad", (32,)), (None, 3, 32), "has the equation 'abc,cd->ad'; a dense map"),
        (layers.EinsumDense("abc,c->ab", (3,)), (None, 3, 32), "has the equation 'abc,c->ab'; a dense map"),
        (layers.EinsumDense("ab,c->abc", (32, 3)), (None, 32), "has the equation 'ab,c->abc'; a dense map"),
        (layers.EinsumDense("ab...,bc->ac...", (8, 3)), (None, 8, 3), r"has the equation 'ab\.\.\.,bc->ac\.\.\.'; a dense map"),
        (layers.EinsumDense("abc,cd->abd", (3, 32), bias_axes="bd"), (None, 3, 32), r"has a bias of shape \(3, 32\)"),
        (layers.EinsumDense("abc,cd->abd", (32, 32), bias_axes="b"), (None, 32, 32), r"has a bias of shape \(32, 1\)"),
        (
            layers.EinsumDense("abc,cde->abde", (3, 4, 8), bias_axes="de", bias_constraint="max_norm"),
            (None, 3, 32),
            r"a bias_constraint along an axis of its bias of shape \(4, 8\), which a bias of 32 numbers",
        ),
        (layers.Conv2D(8, 3), (None, 5, 5, 8), r"is a convolution of \(3, 3\)"),
        (layers.Conv2D(8, 1, groups=2), (None, 5, 5, 8), "in 2 group"),
        (layers.Dense(32, kernel_constraint="non_neg"), (None, 32), "has a kernel_constraint"),
        (type("Own", (layers.Dense,), {})(32), (None, 32), "is a Own, not one of Dense, EinsumDense, Conv2D"),
    ],
)
def test_layers_that_are_no_dense_map_say_why(layer, shape, reason):
    layer.build(shape)
    with pytest.raises(ValueError, match=reason):
        DenseMap.of(layer)


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_of_one_pixel(strides, rng):
    convolution = layers.Conv2D(32, 1, strides=strides, activation="relu", name="mix")
    model = keras.Sequential([keras.Input((5, 7, 32)), convolution])
    butterfly = Butterfly(32, seed=3)
    butterfly.build((None, 32))
    convolution.set_weights([keras.ops.convert_to_numpy(butterfly.kernel)[None, None], rng.standard_normal(32)])
    x = rng.standard_normal((30, 5, 7, 32)).astype("float32")
    with pytest.raises(ValueError, match=r"Found none: 'mix' is a 1 x 1 convolution of several pixels, .* if `where` or"):
        replace_dense(model, **FIT)
    new, report = replace_dense(model, where="mix", data=x, **{**FIT, "steps": 0})
    assert report.replacements[0].was == "Conv2D"
    assert np.abs(values(new, x) - values(model, x)).max() < 1e-2


def test_convolutions_of_a_single_position_are_dense():
    inputs = keras.Input((1, 1, 64))
    model = keras.Model(inputs, layers.Conv2D(64, 1, name="logits")(inputs))
    assert replace_dense(model, initialize="fresh", **QUICK)[1].replacements[0].layer == "logits"


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A transformer's feed-forward pair, held in a list, a dict and an attribute, and a Sequential."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.pair = [layers.Dense(2 * units, activation="gelu", name="up"), layers.Dense(units, name="down")]
        self.gates = {"gate": layers.Dense(units, name="gate")}
        self.tail = keras.Sequential([layers.Dense(units, name="tail_dense")], name="tail")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        for layer in (self.pair[0], self.gates["gate"], self.tail, self.norm):
            layer.build(shape)
        self.pair[1].build((*shape[:-1], 2 * self.units))
        self.built = True

    def call(self, x):
        y = x
        for layer in self.pair:
            y = layer(y)
        return self.norm(x + self.tail(y * self.gates["gate"](x)))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Network(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.block = Block(units, name="block")
        self.head = layers.Dense(units, name="head")

    def call(self, x):
        return self.head(self.block(x))

    def get_config(self):
        return {"units": self.units, "name": self.name}


@pytest.mark.parametrize("subclassed", [pytest.param(False, marks=pytest.mark.long), True])
def test_layers_and_models_of_a_users_class(subclassed, rng, tmp_path):
    x = rng.standard_normal((60, 4, 32)).astype("float32")
    if subclassed:
        model = Network(32)
        model(x[:1])
    else:
        inputs = keras.Input((4, 32))
        model = keras.Model(inputs, layers.Dense(32, name="head")(Block(32, name="block")(inputs)))
    new, report = replace_dense(model, data=x, **FIT)
    paths = ["block/up", "block/down", "block/gate", "block/tail/tail_dense", "head"]
    assert sorted(each.layer for each in report.replacements) == sorted(paths)
    assert {each.fitted_to for each in report.replacements} == {"data"}
    block = new.block if subclassed else new.get_layer("block")
    assert isinstance(block, Block)
    assert isinstance(new if subclassed else block, WithReplacedLayers)
    assert isinstance(block.pair[0], Butterfly) and isinstance(block.gates["gate"], Butterfly)
    assert all(isinstance(layer, layers.Dense) for layer in (model.block if subclassed else model.get_layer("block")).pair)
    assert new.count_params() == report.weights_after < report.weights_before
    # Trained and saved like any model.
    new.compile("adam", "mse", jit_compile=JIT)
    before = values(new, x)
    new.fit(x, values(model, x), verbose=0)
    assert np.abs(values(new, x) - before).max() > 0
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.allclose(values(loaded, x), values(new, x), atol=1e-5)
    assert kinds(loaded)["block/up"] == "Butterfly"


def test_a_class_without_config_is_refused_with_advice(rng):
    class Bare(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    model = Bare(64)
    model(rng.standard_normal((1, 64)))
    with pytest.raises(ValueError, match=r"can make again from their config.*a Bare.*get_config\(\)"):
        replace_dense(model, **FIT)


def test_lambda_and_several_inputs(rng):
    first, second = keras.Input((32,), name="first"), keras.Input((32,), name="second")
    x = layers.Lambda(lambda pair: pair[0] * pair[1])([first, second])
    model = keras.Model({"first": first, "second": second}, layers.Dense(32, name="dense")(x))
    data = {name: rng.standard_normal((30, 32)).astype("float32") for name in ("first", "second")}
    listed = keras.Model([second, first], model.output)  # data by name, whatever the order of the inputs
    assert [part is data[name] for part, name in zip(check_data(listed, data), ("second", "first"), strict=True)] == [True] * 2
    new, report = replace_dense(model, data=data, **FIT)
    assert report.replacements[0].fitted_to == "data"
    assert values(new, data).shape == (30, 32)


def test_the_new_model_is_compiled_like_the_old_one(rng):
    model, x = mlp(), rng.standard_normal((64, 32)).astype("float32")
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
    new, _ = replace_dense(model, initialize="fresh", **QUICK)
    new.fit(x, np.zeros((64, 10)), verbose=0)
    assert isinstance(new.optimizer, keras.optimizers.SGD)
    assert float(new.optimizer.learning_rate) == pytest.approx(0.05)
    model.compile("adam", lambda wanted, given: keras.ops.mean(given), metrics=[])
    assert not replace_dense(model, initialize="fresh", **QUICK)[0].compiled


def test_seeds_repeat(rng):
    model = mlp()
    weights = [replace_dense(model, initialize="fresh", seed=7, progress=False)[0].get_weights() for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_layers_inside_a_users_layer_can_be_replaced_in_turns(rng, tmp_path):
    inputs = keras.Input((4, 32))
    model = keras.Model(inputs, Block(32, name="block")(inputs))
    first, _ = replace_dense(model, where="up", initialize="fresh", **QUICK)
    first.save(tmp_path / "first.keras")
    second, report = replace_dense(
        keras.models.load_model(tmp_path / "first.keras"), where=["down", "gate"], initialize="fresh", **QUICK
    )
    second.save(tmp_path / "second.keras")
    loaded = keras.models.load_model(tmp_path / "second.keras")
    assert [kinds(loaded)[f"block/{name}"] for name in ("up", "down", "gate")] == ["Butterfly"] * 3
    assert loaded.count_params() == report.weights_after


def test_what_is_frozen_inside_a_users_layer_stays_frozen():
    inputs = keras.Input((4, 32))
    block = Block(32, name="block")
    model = keras.Model(inputs, block(inputs))
    block.norm.trainable = block.pair[0].trainable = False
    new = replace_dense(model, where=["up", "down"], initialize="fresh", **QUICK)[0].get_layer("block")
    assert [new.norm.trainable, new.pair[0].trainable, new.pair[1].trainable] == [False, False, True]


def test_adapted_preprocessing_keeps_its_state(rng):
    x = (100 + 5 * rng.standard_normal((200, 32))).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((32,)), normalization, layers.Dense(3, name="last")])
    assert np.allclose(values(clone_with(model, {}), x), values(model, x), atol=1e-5)


def test_states_and_a_fixed_batch_are_respected(rng):
    inputs = keras.Input(batch_shape=(5, 3, 32))
    model = keras.Model(inputs, layers.Dense(64, name="dense")(layers.LSTM(64, stateful=True)(inputs)))
    state = [keras.ops.convert_to_numpy(value) for value in model.layers[1].states]
    _, report = replace_dense(model, where="dense", data=rng.standard_normal((12, 3, 32)).astype("float32"), **FIT)
    assert report.replacements[0].fitted_to == "data"
    assert all(np.array_equal(a, keras.ops.convert_to_numpy(b)) for a, b in zip(state, model.layers[1].states, strict=True))
    with pytest.raises(ValueError, match="at least one batch of 5 examples in the data"):
        replace_dense(model, where="dense", data=np.ones((4, 3, 32)), **FIT)


def test_states_are_restored_if_the_model_fails(rng):
    def fail_on_values(x):
        if value_of(x) is not None:
            raise RuntimeError("this layer fails on data")
        return x

    inputs = keras.Input(batch_shape=(5, 3, 32))
    x = layers.Dense(64, name="dense")(layers.LSTM(64, stateful=True)(inputs))
    model = keras.Model(inputs, layers.Lambda(fail_on_values)(x))
    before = [keras.ops.convert_to_numpy(value) for value in model.layers[1].states]
    with pytest.raises(ValueError, match="Keras says: this layer fails on data"):
        replace_dense(model, where="dense", data=rng.standard_normal((5, 3, 32)).astype("float32"), **FIT)
    after = [keras.ops.convert_to_numpy(value) for value in model.layers[1].states]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_graphs_of_a_users_class_are_refused():
    class Doubled(keras.Model):
        def __init__(self):
            inputs = keras.Input((64,))
            super().__init__(inputs, layers.Dense(64)(inputs))

        def call(self, x):
            return 2 * super().call(x)

    with pytest.raises(ValueError, match=r"of Keras's own class. Received .* a Doubled"):
        replace_dense(Doubled(), initialize="fresh", **QUICK)


def test_kernels_that_another_layer_works_on_stay():
    model = keras.Sequential([keras.Input((64,)), layers.SpectralNormalization(layers.Dense(64, name="normed"))])
    with pytest.raises(ValueError, match="has weights that another layer works on"):
        replace_dense(model, where="normed", **FIT)


@pytest.mark.usefixtures("graph")
def test_data_of_unequal_scale_are_fitted_and_the_error_is_true(rng):
    """What little energy the inputs have in a direction says nothing of what the layer makes of it."""
    model = keras.Sequential([keras.Input((32,)), layers.Dense(32, use_bias=False, name="dense")])
    scales = np.geomspace(1, 1000, 32)
    model.layers[0].set_weights([rng.standard_normal((32, 32)) / scales[:, None]])
    x = (scales * rng.standard_normal((300, 32))).astype("float32")
    new, report = replace_dense(model, initialize="fit", data=x, seed=0, steps=50, progress=False)
    off = np.linalg.norm(values(new, x) - values(model, x)) / np.linalg.norm(values(model, x))
    assert off == pytest.approx(report.replacements[0].error, abs=0.01)
    assert off < 1


@pytest.mark.parametrize("radix", [2, (8, 8), "auto"], ids=str)
def test_replaced_layers_have_the_radix(radix):
    new, _ = replace_dense(mlp(), where="first", radix=radix, **QUICK)
    assert new.get_layer("first").wiring.radices == Wiring.butterfly(32, 64, radix=radix).radices
    product, _ = replace_dense(mlp(), where="first", k=5, radix=radix, **QUICK)
    assert product.get_layer("first").j1.wiring.radices == Wiring.butterfly(32, 5, radix=radix).radices


def test_replaced_layers_have_the_radix_of_their_class_by_default():
    assert replace_dense(mlp(), where="first", **QUICK)[0].get_layer("first").radix == 4
    assert replace_dense(mlp(), where="first", k=5, **QUICK)[0].get_layer("first").radix == 2


def test_a_butterfly_plus_low_rank_is_nearer_than_either_alone(rng):
    model, x = mlp(), rng.standard_normal((300, 32)).astype("float32")
    errors = {}
    for name, settings in {"both": {"rank": 6}, "butterfly": {}, "thin": {"kind": "low_rank", "rank": 6}}.items():
        _, report = replace_dense(model, where="first", data=x, **settings, **{**FIT, "steps": 0})
        errors[name] = report.replacements[0].error
    assert errors["both"] < 0.95 * min(errors["butterfly"], errors["thin"])


@pytest.mark.parametrize("steps", [0, 5])
def test_a_layer_of_low_rank_is_the_best_of_this_rank_on_the_data(steps, rng):
    """Compare with the truncated singular value decomposition of the old layer's outputs, which nothing of its rank beats."""
    model, x = mlp(), rng.standard_normal((300, 32)).astype("float32")
    new, report = replace_dense(model, kind="low_rank", rank=6, where="first", data=x, **{**FIT, "steps": steps})
    old, layer = (each.get_layer("first") for each in (model, new))
    outputs = x @ keras.ops.convert_to_numpy(old.kernel)
    u, s, vt = np.linalg.svd(outputs, full_matrices=False)
    best = np.linalg.norm(outputs - (u[:, :6] * s[:6]) @ vt[:6]) / np.linalg.norm(outputs)
    (replacement,) = report.replacements
    assert (type(layer).__name__, layer.rank) == ("LowRank", 6)
    assert replacement.error == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sparse"}, "`kind` must be one of"),
        ({"k": 0}, "`k` must be a positive integer"),
        ({"k": 65, "where": "first"}, "'first' has 32 inputs and 64 units, fewer than k=65"),
        ({"k": 100}, "Expected a layer to replace. Found none: "),
        ({"k": 4, "kind": "butterfly"}, '`k` is of kind="butterfly_dense"'),
        ({"rank": 4, "k": 4}, '`rank` is of kind="low_rank" and kind="butterfly"'),
        ({"kind": "low_rank"}, 'kind="low_rank" needs a `rank`'),
        ({"kind": "low_rank", "rank": 3, "radix": 4}, "`radix` is of butterflies"),
        ({"kind": "low_rank", "rank": 33, "where": "first"}, "'first' has 32 inputs and 64 units, fewer than rank=33"),
        ({"radix": (4, 4), "where": "first"}, r"'first' has 32 inputs and 64 units, more than the product of radix=\(4, 4\)"),
        ({"radix": 3}, "`radix` must be"),
        ({"k": 4, "stacks": 2}, '`stacks` is of kind="butterfly"'),
        ({"stacks": 0}, "`stacks` must be a positive integer"),
        ({"where": "nobody"}, r"Expected names of dense layers, of \['first', 'second', 'last'\]. Received: \['nobody'\]"),
        ({"where": re.compile("nobody")}, "Expected a layer to replace. Found none"),
        ({"where": 3.5}, "`where` must be None"),
        ({"where": 2500}, r"Received: where=2500. To select by the number of weights, pass it as `min_weights`"),
        ({"where": True}, r"Received: where=True.$"),
        ({"min_weights": 0}, "`min_weights` must be a positive integer"),
        (
            {"min_weights": 10**6},
            "Found none for min_weights=1000000: 'first', 'second', 'last' has fewer weights than `min_weights`",
        ),
        ({"initialize": "project"}, "`initialize` must be one of"),
        ({"data": np.ones((5, 31))}, r"Expected the data of the shapes \[\('examples', 32\)\]. Received: \[\(5, 31\)\]"),
        ({"data": np.full((5, 32), np.nan)}, "Expected finite numbers in the data"),
        ({"data": np.zeros((0, 32))}, "Expected at least one example"),
        ({"data": np.array([["a"] * 32])}, "Expected numbers in the data"),
        ({"data": np.ones((5, 32), "timedelta64[s]")}, "Expected numbers in the data"),
        ({"steps": -1}, "`steps` must be an integer from 0 to 1,000,000. Received: steps=-1"),
        ({"steps": 10**30}, "`steps` must be an integer from 0 to 1,000,000"),
        ({"steps": 2.5}, "`steps` must be an integer from 0 to 1,000,000"),
        ({"seed": -1}, "`seed` must be None or an integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        replace_dense(mlp(), progress=False, **arguments)


def test_weights_that_are_not_finite_name_their_layer():
    model = mlp()
    model.get_layer("second").kernel.assign(model.get_layer("second").kernel * np.nan)
    with pytest.raises(ValueError, match="The layer 'second' has weights that are NaN or infinite"):
        replace_dense(model)


class Halves(keras.Model):
    """A model of a user's class, whose input shape Keras does not check."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense = layers.Dense(64)

    def call(self, x):
        return self.dense(x)

    def build(self, shape):
        self.dense.build(shape)


def test_data_on_which_a_model_of_a_users_class_does_not_run():
    model = Halves(name="halves")
    model.build((None, 64))
    with pytest.raises(ValueError, match=r"on which the model 'halves' runs. Keras says: Input 0 .* shape .40, 63.") as caught:
        replace_dense(model, data=np.ones((40, 63)), **FIT)
    assert "\n" not in str(caught.value)


def test_models_that_are_none():
    with pytest.raises(ValueError, match=r"`model` must be a keras.Model. Received: Dense"):
        replace_dense(layers.Dense(3))
    with pytest.raises(ValueError, match="not built"):
        replace_dense(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="the model has no dense layer"):
        replace_dense(keras.Sequential([keras.Input((4,)), layers.ReLU()]))


def test_lists_of_examples_are_arrays(rng):
    x = rng.standard_normal((5, 32)).tolist()
    assert check_data(mlp(), x).shape == (5, 32)
    assert check_data(mlp(), [np.array(x)]).shape == (5, 32)
