"""Tests of the layers: first properties of each layer of a catalogue, then features of single layers, then bad input."""

import math
import re

import keras
import numpy as np
import oracles
import pytest
from backend import compiled, value_and_gradients

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope

# name -> (size of the input's last axis, layer, its arguments). Seeds are fixed so that rebuilt layers are equal.
CATALOGUE = {
    "one node": (1, Butterfly, {}),
    "square": (8, Butterfly, {"seed": 1}),
    "square in block factors": (64, Butterfly, {"seed": 1, "use_bias": False}),
    "padded in block factors": (61, Butterfly, {"units": 59, "seed": 1, "transposed": True, "truncation": "random"}),
    "prime": (13, Butterfly, {"seed": 2, "kernel_initializer": "orthogonal"}),
    "prime, given nodes": (5, Butterfly, {"seed": 2, "truncation": [7, 0, 3, 5, 6]}),
    "truncated": (16, Butterfly, {"units": 5, "seed": 3, "truncation": "random", "bias_initializer": "ones"}),
    "truncated transposed": (16, Butterfly, {"units": 5, "seed": 3, "transposed": True, "activation": "tanh"}),
    "truncated to given nodes": (16, Butterfly, {"truncation": [9, 0, 14], "units": 3, "seed": 4, "use_bias": False}),
    "truncated to the first": (13, Butterfly, {"units": 6, "seed": 4, "bias_initializer": "ones"}),
    "truncated to one": (9, Butterfly, {"units": 1, "seed": 4}),
    "expanded": (5, Butterfly, {"units": 12, "seed": 5, "truncation": "random"}),
    "expanded from the first": (5, Butterfly, {"units": 12, "seed": 5, "use_bias": False}),
    "expanded within a power of two": (9, Butterfly, {"units": 14, "seed": 5, "truncation": "random"}),
    "stacked": (12, Butterfly, {"units": 7, "seed": 6, "stacks": 3, "truncation": "random", "use_bias": False}),
    "with an lr_multiplier": (16, Butterfly, {"units": 6, "seed": 6, "lr_multiplier": 0.25}),
    "keras initializer": (8, Butterfly, {"seed": 6, "kernel_initializer": keras.initializers.RandomNormal(seed=1)}),
    "dense, narrowing": (20, ButterflyDense, {"units": 3, "seed": 7, "activation": "softmax"}),
    "dense, widening": (3, ButterflyDense, {"units": 20, "k1": 2, "seed": 7, "bias_initializer": "ones"}),
    "dense, full width": (8, ButterflyDense, {"units": 8, "k1": 8, "k2": 8, "seed": 8, "use_bias": False}),
    "dense, one unit": (7, ButterflyDense, {"units": 1, "truncation": "first", "seed": 8, "lr_multiplier": 3.0}),
    "dense from one feature": (1, ButterflyDense, {"units": 4, "seed": 8}),
    "dense with lora": (9, ButterflyDense, {"units": 5, "k1": 4, "k2": 3, "lora_rank": 2, "seed": 8}),
    "decreasing strides": (16, Butterfly, {"units": 5, "order": "decreasing", "seed": 5}),
    "increasing strides, expanding": (5, Butterfly, {"units": 12, "order": "increasing", "seed": 5}),
    "product": (8, Kaleidoscope, {"seed": 3, "bias_initializer": "ones", "activation": "relu"}),
    "long product, expanded": (6, Kaleidoscope, {"units": 5, "width": 2, "expansion": 2, "seed": 3, "use_bias": False}),
    "dense, orthogonal": (6, ButterflyDense, {"units": 5, "seed": 9, "butterfly_initializer": "orthogonal"}),
}
# The layers of those tests in which tracing or compiling takes long.
FEW = ["one node", "padded in block factors", "truncated", "expanded", "stacked", "dense, narrowing", "product"]


def make(name, **changes):
    """Return a new layer of the catalogue, not built."""
    _, cls, arguments = CATALOGUE[name]
    if cls is ButterflyDense:
        arguments = {"kernel_initializer": keras.initializers.GlorotUniform(seed=1), **arguments}
    return cls(**{**arguments, **changes})


def build(name, **changes):
    layer = make(name, **changes)
    layer.build((None, CATALOGUE[name][0]))
    return layer


def butterflies(layer):
    if isinstance(layer, Kaleidoscope):
        return layer.butterflies
    return [layer] if isinstance(layer, Butterfly) else [layer.j1, layer.j2_t]


def draw(rng, name, leading=(5,)):
    return rng.standard_normal((*leading, CATALOGUE[name][0])).astype("float32")


def linear_and_gradients(layer, x, upstream):
    weights = [weight for weight in layer.weights if weight.name != "bias"]
    y, gradients = value_and_gradients(layer.linear, [x, *weights], upstream)
    return [y, *gradients]


def close(found, expected):
    """Assert that two arrays are equal up to float32 round-off."""
    expected = keras.ops.convert_to_numpy(expected)
    scale = max(1.0, np.abs(expected).max()) if expected.size else 1.0
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-5 * scale)


numpy = keras.ops.convert_to_numpy


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


def squares(weights):
    return float(np.sum(np.square(numpy(weights))))


@pytest.fixture(params=CATALOGUE)
def name(request):
    return request.param


few = pytest.mark.parametrize("name", FEW)


def test_implementations_agree_in_values_and_gradients(name, rng):
    x = draw(rng, name)
    reference = build(name, implementation="gather")
    upstream = rng.standard_normal(reference(x).shape).astype("float32")
    expected = linear_and_gradients(reference, x, upstream)
    for implementation in ("fused", "auto"):
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


@pytest.mark.parametrize("leading", [(2, 3), (2, 1, 3)], ids=["rank 3", "rank 4"])
def test_leading_axes_are_batch_axes(name, leading, rng):
    layer, x = build(name), draw(rng, name, leading)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (*leading, y.shape[-1])
    close(keras.ops.reshape(y, (6, -1)), layer(x.reshape(6, -1)))


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


def wirings(cls, inputs=64, units=20, **arguments):
    """Return the wirings of a new layer with random subsets."""
    layer = cls(units, truncation="random", **arguments)
    restored = cls.from_config(layer.get_config())
    for built in (layer, restored):
        built.build((None, inputs))
    assert [part.wiring for part in butterflies(restored)] == [part.wiring for part in butterflies(layer)]
    return [part.wiring for part in butterflies(layer)]


@pytest.mark.parametrize(("inputs", "units"), [(64, 20), (20, 64), (50, 13)])
@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_a_random_subset_is_the_same_in_every_layer_of_the_same_sizes_unless_a_seed_asks_for_another(cls, inputs, units):
    default = wirings(cls, inputs, units)
    keras.utils.set_random_seed(7)
    assert wirings(cls, inputs, units) == default
    for seed in (1, 2**32 - 1):
        assert all(seeded != unseeded for seeded, unseeded in zip(wirings(cls, inputs, units, seed=seed), default, strict=True))
        assert wirings(cls, inputs, units, seed=seed) == wirings(cls, inputs, units, seed=seed)


def test_the_butterflies_of_dense_draw_their_subsets_apart():
    """The sizes of J1 and J2^T mirror each other. With equal draws J2^T would have the transposed wiring of J1."""
    for arguments in ({}, {"seed": 4}, {"truncation_seeds": (5, 6)}):
        first, second = wirings(ButterflyDense, 64, 64, **arguments)
        assert first.outputs != second.inputs


def test_subsets_that_no_seed_asks_for_leave_the_config_without_one():
    config = Butterfly(5, truncation="random").get_config()
    assert (config["seed"], config["truncation_seed"]) == (None, None)
    config = ButterflyDense(5).get_config()
    assert (config["seed"], config["truncation_seeds"]) == (None, None)
    seeded = Butterfly(5, truncation="random", seed=3).get_config()
    assert (seeded["seed"], seeded["truncation_seed"]) == (3, None)
    assert ButterflyDense(5, truncation_seeds=(3, 4)).get_config()["truncation_seeds"] == [3, 4]


def test_truncation_seed_alone_fixes_the_subset():
    """`truncation_seed` takes precedence over `seed`, which then fixes only the weights."""
    kept = wirings(Butterfly, truncation_seed=1)
    assert kept == wirings(Butterfly, truncation_seed=1, seed=2) == wirings(Butterfly, seed=1) != wirings(Butterfly, seed=2)
    assert wirings(Butterfly, truncation_seed=0, seed=2) == wirings(Butterfly)
    first, second = (Butterfly(5, truncation="random", truncation_seed=1) for _ in range(2))
    first.build((None, 16))
    second.build((None, 16))
    assert not np.array_equal(first.gadgets, second.gadgets)


def test_truncation_seeds_of_dense_count_before_its_seed():
    kept = wirings(ButterflyDense, truncation_seeds=(3, 9))
    assert kept == wirings(ButterflyDense, truncation_seeds=[3, 9], seed=1)
    assert kept[0] == wirings(ButterflyDense, truncation_seeds=(3, 8))[0]
    assert kept[1] == wirings(ButterflyDense, truncation_seeds=(4, 9))[1]


# (inputs, units) -> (nodes, whether the small strides come first)
DEFAULTS = {
    (784, 1024): (1024, True),
    (1024, 784): (1024, True),
    (64, 1024): (1024, False),
    (256, 1024): (1024, False),
    (784, 256): (1024, True),
    (10, 10): (16, True),
}


@pytest.mark.parametrize(("inputs", "units"), DEFAULTS)
def test_a_default_layer_has_the_first_nodes_a_bias_and_the_order_of_the_sizes(inputs, units):
    layer = Butterfly(units)
    layer.build((None, inputs))
    size, increasing = DEFAULTS[inputs, units]
    assert (layer.wiring.size, layer.wiring.increasing) == (size, increasing)
    assert layer.wiring.inputs == tuple(range(inputs))
    assert layer.wiring.outputs == tuple(range(units))
    assert [(weight.name, tuple(weight.shape)) for weight in layer.weights] == [
        ("gadgets", (1, layer.effective_parameters)),
        ("bias", (units,)),
    ]
    assert not numpy(layer.bias).any()
    backwards = Butterfly(units, transposed=True)
    backwards.build((None, inputs))
    assert not backwards.wiring.increasing


@pytest.mark.parametrize("size", [3, 16])
def test_transposed_names_the_inputs_where_the_sides_are_equal(size):
    nodes = [size - 1, *range(size - 1)]
    layers = [Butterfly(size, truncation=nodes, transposed=transposed) for transposed in (False, True)]
    for layer in layers:
        layer.build((None, size))
    assert [layer.wiring.outputs for layer in layers] == [tuple(nodes), tuple(range(size))]
    assert [layer.wiring.inputs for layer in layers] == [tuple(range(size)), tuple(nodes)]


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
    assert truncated.effective_parameters == oracles.papers_count(16, truncated.wiring.outputs)
    stacked = build("stacked")
    assert stacked.effective_parameters == 3 * oracles.effective_count(stacked.wiring)
    dense = build("dense, narrowing")
    ends = oracles.effective_count(dense.j1.wiring) + oracles.effective_count(dense.j2_t.wiring)
    assert dense.effective_parameters == ends + 5 * 2  # ceil(log2 20), ceil(log2 3)


def test_units_default_to_the_size_of_the_input():
    layer = Butterfly()
    assert layer(np.zeros((2, 11), "float32")).shape == (2, 11)


def test_stacks_are_summed(rng):
    x = draw(rng, "stacked")
    layer = build("stacked")
    single = build("stacked", stacks=1)
    total = 0
    for weights in keras.ops.convert_to_numpy(layer.gadget_weights):
        single.set_gadget_weights(weights[None])
        total += single(x)
    close(layer(x), total)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize("implementation", ["gather", "fused"])
@pytest.mark.parametrize("name", ["truncated", "dense, narrowing", "product"])
def test_integers_are_taken_as_numbers(name, implementation, dtype, rng):
    layer = build(name, implementation=implementation)
    x = rng.integers(0, 2, (5, CATALOGUE[name][0])).astype(dtype)
    y = layer(keras.ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    close(y, layer(x.astype("float32")))
    inputs = keras.Input((CATALOGUE[name][0],), dtype=dtype)
    close(keras.Model(inputs, layer(inputs))(x), y)


def test_a_bias_initializer_of_none_is_zeros():
    layer = Butterfly(4, bias_initializer=None)
    layer.build((None, 8))
    close(layer.bias, np.zeros(4))


def test_weights_are_set_as_used(rng):
    layer = build("stacked")
    weights = rng.standard_normal(layer.gadget_weights.shape)
    layer.set_gadget_weights(weights)
    close(layer.gadget_weights, weights)
    with raises(f"expects weights of shape {weights.shape}. Received: (3,)"):
        layer.set_gadget_weights(np.ones(3))


@pytest.mark.parametrize("order", ["increasing", "decreasing"])
@pytest.mark.parametrize("units", [5, 16, 30])
def test_order_of_the_stages_can_be_chosen(order, units, rng):
    layer = Butterfly(units, order=order, seed=1)
    x = rng.standard_normal((3, 16)).astype("float32")
    y = layer(x)
    assert layer.wiring.increasing == (order == "increasing")
    assert Butterfly.from_config(layer.get_config()).order == order
    close(y, x @ oracles.dense_matrix(layer.wiring, numpy(layer.gadget_weights)[0]))


def test_unknown_order():
    with raises("`order` must be one of (None, 'increasing', 'decreasing'). Received: order='up'"):
        Butterfly(4, order="up")


def test_an_empty_batch_gives_an_empty_batch():
    for name in ("square in block factors", "truncated", "dense, narrowing"):
        layer = build(name)
        assert layer(np.zeros((0, CATALOGUE[name][0]), "float32")).shape == (0, layer.kernel.shape[1])


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (1000, 10), (1024, 10), (1025, 11)]
)
def test_default_k_is_log2_rounded_up_and_at_least_one(n, expected):
    layer = ButterflyDense(n)
    layer.build((None, n))
    assert layer.middle_kernel.shape == (expected, expected)
    assert expected == max(1, math.ceil(math.log2(n)))


def test_dense_is_the_product_of_its_three_parts():
    layer = build("dense, narrowing")
    close(layer.kernel, layer.j1.kernel @ layer.middle_kernel @ layer.j2_t.kernel)


@pytest.mark.parametrize("name", ["dense, narrowing", "dense, full width"])
def test_the_second_butterfly_of_dense_runs_backwards(name):
    layer = build(name)
    assert layer.j1.wiring.increasing
    assert not layer.j2_t.wiring.increasing


@pytest.mark.parametrize(
    ("initializer", "features", "units"),
    [
        (keras.initializers.GlorotUniform, 64, 32),
        (keras.initializers.GlorotUniform, 20, 45),
        (keras.initializers.HeNormal, 20, 45),
        (keras.initializers.LecunNormal, 64, 32),
    ],
)
def test_fresh_outputs_have_the_variance_of_dense(initializer, features, units):
    fan = (features + units) / 2 if initializer is keras.initializers.GlorotUniform else features
    expected = features * initializer().scale / fan
    variances = []
    for seed in range(40):
        layer = ButterflyDense(units, seed=seed, kernel_initializer=initializer(seed=seed))
        layer.build((None, features))
        # The variance of an output, averaged over all outputs, if every input has variance 1.
        variances.append(squares(layer.kernel) / units)
    error = np.std(variances) / np.sqrt(len(variances))
    assert error < 0.04 * expected
    assert abs(np.mean(variances) - expected) < 5 * error


def dense_layer(features, units, **kwargs):
    layer = keras.layers.Dense(units, bias_initializer="random_normal", **kwargs)
    layer.build((None, features))
    return layer


def test_from_dense_is_the_least_squares_optimum():
    dense = dense_layer(20, 12)
    layer = ButterflyDense.from_dense(dense, k1=6, k2=4, seed=0)
    kernel, j1, j2_t = (
        keras.ops.convert_to_numpy(m).astype("float64") for m in (dense.kernel, layer.j1.kernel, layer.j2_t.kernel)
    )
    # vec(J1 W' J2^T) = (J1 kron J2) vec(W'), row by row.
    design = np.kron(j1, j2_t.T)
    best, *_ = np.linalg.lstsq(design, kernel.ravel(), rcond=None)

    def error(middle):
        return np.linalg.norm(design @ middle.ravel() - kernel.ravel())

    middle = keras.ops.convert_to_numpy(layer.middle_kernel).astype("float64")
    np.testing.assert_allclose(error(middle), error(best), rtol=1e-6)
    np.testing.assert_allclose(middle.ravel(), best, atol=1e-5)
    assert error(middle) < np.linalg.norm(kernel)
    for index in np.ndindex(*middle.shape):
        for step in (-0.01, 0.01):
            changed = middle.copy()
            changed[index] += step
            assert error(changed) > error(middle)


def test_from_dense_at_full_width_reproduces_the_layer(rng):
    dense = dense_layer(8, 4, activation="relu")
    layer = ButterflyDense.from_dense(dense, k1=8, k2=4)
    close(layer.kernel, dense.kernel)
    x = rng.standard_normal((5, 8)).astype("float32")
    close(layer(x), dense(x))


def test_from_dense_keeps_the_settings_unless_told_otherwise():
    dense = dense_layer(8, 4, activation="relu", name="head", dtype="mixed_bfloat16")
    layer = ButterflyDense.from_dense(dense)
    assert (layer.units, layer.activation, layer.name) == (4, keras.activations.relu, "head")
    assert layer.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(layer.bias, dense.bias)
    assert ButterflyDense.from_dense(dense, use_bias=False, name="other").bias is None
    without = ButterflyDense.from_dense(dense_layer(8, 4, use_bias=False))
    assert without.use_bias is False


def test_from_dense_refuses_other_layers():
    with pytest.raises(ValueError, match=r"`dense` must be a keras\.layers\.Dense\. Received: EinsumDense"):
        ButterflyDense.from_dense(keras.layers.EinsumDense("ab,bc->ac", 4))


def test_from_dense_refuses_an_unbuilt_layer():
    with pytest.raises(ValueError, match=r"Dense 'head' is not built: .*\. Call it on an input"):
        ButterflyDense.from_dense(keras.layers.Dense(4, name="head"))


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


both = pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])


@both
@pytest.mark.parametrize("units", [0, -1, 1.5, "a", True])
def test_units_must_be_a_positive_integer(cls, units):
    with raises(f"`units` must be a positive integer. Received: units={units!r}"):
        cls(units)


@pytest.mark.parametrize("stacks", [0, -1, 1.5, None])
def test_stacks_must_be_a_positive_integer(stacks):
    with raises(f"`stacks` must be a positive integer. Received: stacks={stacks!r}"):
        Butterfly(4, stacks=stacks)


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ("last", 'must be "first", "random" or a sequence of node indices. Received: truncation=\'last\''),
        ([0, 1, 0, 2], "must name each node once. Received repeated indices: [0]"),
        ([0, -1, 2, 3], "must be not negative. Received indices out of range: [-1]"),
        ([0, 0.5, 2, 3], "must be a sequence of integer node indices. Received: truncation=[0, 0.5, 2, 3]"),
        (4, "must be a sequence of integer node indices. Received: truncation=4"),
        ([], "must name at least one node"),
    ],
)
def test_bad_truncation_is_refused_at_once(truncation, message):
    with raises(f"`truncation` {message}"):
        Butterfly(4, truncation=truncation)


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ([0, 1, 2, 16], "must be within 0 .. 15. Received indices out of range: [16]"),
        ([0, 1, 2], "must name as many nodes as the narrower side has values, 4. Received: 3 indices"),
    ],
)
def test_truncation_must_fit_the_input(truncation, message):
    with raises(f"`truncation` {message}"):
        Butterfly(4, truncation=truncation)(np.zeros((2, 16), "float32"))


@pytest.mark.parametrize("truncation", ["last", [0, 1], None])
def test_dense_truncation_must_be_a_name(truncation):
    with raises(f'`truncation` must be "random" or "first". Received: truncation={truncation!r}'):
        ButterflyDense(4, truncation=truncation)


@both
@pytest.mark.parametrize("implementation", ["dense", None])
def test_unknown_implementation(cls, implementation):
    with raises(f"`implementation` must be one of ('auto', 'gather', 'fused'). Received: implementation={implementation!r}"):
        cls(4, implementation=implementation)


@both
def test_unknown_initializer(cls):
    argument = "kernel_initializer" if cls is Butterfly else "butterfly_initializer"
    with raises("Expected one of ('fjlt', 'orthogonal', 'identity', 'hadamard')"):
        cls(4, **{argument: "fjtl"})


def test_k1_must_not_exceed_the_input():
    with raises("`k1` must be at most the input's last axis, 8. Received: k1=9"):
        ButterflyDense(4, k1=9)(np.zeros((2, 8), "float32"))


def test_k2_must_not_exceed_units():
    with raises("`k2` must be at most units, 4. Received: k2=5"):
        ButterflyDense(4, k2=5)


@pytest.mark.parametrize("k", ["k1", "k2"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "a", True])
def test_k_must_be_a_positive_integer(k, value):
    with raises(f"`{k}` must be a positive integer. Received: {k}={value!r}"):
        ButterflyDense(4, **{k: value})


@both
@pytest.mark.parametrize("shape", [(), (8,)], ids=["scalar", "rank 1"])
def test_inputs_need_a_batch_axis(cls, shape):
    with raises(f"expected min_ndim=2, found ndim={len(shape)}"):
        cls(4)(np.zeros(shape, "float32"))
    with raises(f"expects an input of at least 2 dimensions, (batch, ..., features). Received: input_shape={shape}"):
        cls(4).build(shape)


@both
def test_the_last_axis_must_be_known(cls):
    with raises("expects the size of the last axis to be known. Received: input_shape=(None, 3, None). Give the size"):
        cls(4)(keras.Input((3, None)))


@both
def test_the_last_axis_must_not_change(cls):
    layer = cls(4)
    layer.build((None, 8))
    with raises("expected axis -1 of input shape to have value 8"):
        layer(np.zeros((2, 7), "float32"))


@both
@pytest.mark.parametrize("attribute", ["kernel", "effective_parameters"])
def test_unbuilt_layers_say_so(cls, attribute):
    with pytest.raises(ValueError, match=r"is not built: .* the size of the input, which is not known yet\. Call it"):
        getattr(cls(4), attribute)


@pytest.mark.parametrize("seed", ["a", 1.5, -1, 2**32, True])
@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_seed_must_be_an_integer_that_numpy_takes(cls, seed):
    with raises(f"`seed` must be None or an integer within 0 .. 2**32 - 1. Received: seed={seed!r}"):
        cls(4, seed=seed)


def test_the_largest_seed_is_taken():
    layer = ButterflyDense(8, seed=2**32 - 1)
    layer.build((None, 8))
    assert layer.j2_t.seed == 0


@pytest.mark.parametrize("seeds", [[1, 2, 3], [1], [], [1, None], 7, "ab"])
def test_truncation_seeds_must_be_a_pair(seeds):
    with raises(f"`truncation_seeds` must be a pair of integers. Received: truncation_seeds={seeds!r}"):
        ButterflyDense(8, truncation_seeds=seeds)


@pytest.mark.parametrize("seed", ["a", 1.5, -1, 2**32, True])
def test_truncation_seeds_must_be_integers_that_numpy_takes(seed):
    with raises(f"`truncation_seed` must be None or an integer within 0 .. 2**32 - 1. Received: truncation_seed={seed!r}"):
        Butterfly(8, truncation_seed=seed)
    with raises("`truncation_seeds` must be None or an integer within 0 .. 2**32 - 1"):
        ButterflyDense(8, truncation_seeds=(1, seed))


def test_weights_of_an_unbuilt_layer_are_a_clear_error():
    with raises("is not built"):
        Butterfly(4).gadget_weights  # noqa: B018


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_kernel_has_the_variables_dtype_even_of_a_single_node(policy):
    layer = Butterfly(dtype=policy)
    layer.build((None, 1))
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == layer.variable_dtype
    assert layer.gadget_weights.shape == (1, 0)


def test_from_dense_keeps_a_frozen_layer_frozen():
    dense = dense_layer(6, 4)
    dense.trainable = False
    assert ButterflyDense.from_dense(dense).trainable_weights == []


@pytest.mark.parametrize("shape", [None, 4])
def test_build_takes_a_shape(shape):
    with raises("expects an input of at least 2 dimensions"):
        Butterfly(3).build(shape)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Butterfly, {"transposed": "no"}, "`transposed` must be True or False"),
        (Butterfly, {"kernel_initializer": None}, "Expected one of"),
        (ButterflyDense, {"units": 3, "kernel_initializer": None}, "`kernel_initializer` must be an initializer"),
        (ButterflyDense, {"units": 3, "butterfly_initializer": None}, "Expected one of"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_at_once(cls, arguments, message):
    with raises(message):
        cls(**arguments)


def lora_layer(**kwargs):
    layer = ButterflyDense(12, k1=6, k2=5, lora_rank=2, lora_alpha=3.0, seed=0, **kwargs)
    layer.build((None, 20))
    return layer


def test_lora_starts_from_the_same_map_and_trains_only_its_update_and_the_bias():
    layer, plain = lora_layer(), ButterflyDense(12, k1=6, k2=5, seed=0)
    plain.build((None, 20))
    plain.set_weights([weight for weight in layer.get_weights() if weight.shape not in ((6, 2), (2, 5))])
    close(layer.kernel, plain.kernel)
    assert {weight.name for weight in layer.trainable_weights} == {"lora_kernel_a", "lora_kernel_b", "bias"}
    assert layer.count_params() == layer.effective_parameters + 12 == plain.count_params() + 6 * 2 + 2 * 5


def test_lora_keeps_the_rest_frozen_when_the_layer_is_frozen_and_thawed():
    layer = lora_layer()
    layer.trainable = False
    assert layer.trainable_weights == []
    layer.trainable = True
    assert {weight.name for weight in layer.trainable_weights} == {"lora_kernel_a", "lora_kernel_b", "bias"}


def test_lora_adds_its_product_to_the_middle(rng):
    layer = lora_layer()
    layer.lora_kernel_b.assign(rng.standard_normal((2, 5)))
    update = numpy(layer.lora_kernel_a) @ numpy(layer.lora_kernel_b)
    close(layer.middle_kernel, numpy(layer._kernel) + 3.0 / 2 * update)
    x = rng.standard_normal((4, 20)).astype("float32")
    close(layer.linear(x), x @ numpy(layer.j1.kernel) @ numpy(layer.middle_kernel) @ numpy(layer.j2_t.kernel))


def test_lora_learns_and_is_merged_when_saved(rng, tmp_path):
    x = rng.standard_normal((32, 20)).astype("float32")
    model = keras.Sequential([keras.Input((20,)), lora_layer()])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, x[:, :12], epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert np.abs(restored.layers[0].lora_kernel_b).max() == 0
    np.testing.assert_allclose(restored.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "rank", "message"),
    [
        (lambda: ButterflyDense(4), 2, "is not built"),
        (lora_layer, 2, "in which it is already enabled"),
        (lambda: build("dense, narrowing", kernel_constraint="non_neg"), 2, "Expected a layer without `kernel_constraint`"),
        (lambda: build("dense, narrowing"), 0, "`rank` must be a positive integer. Received: rank=0"),
    ],
)
def test_lora_refuses(layer, rank, message):
    with raises(message):
        layer().enable_lora(rank)


def test_weights_of_other_widths_are_refused(tmp_path):
    def model(k):
        return keras.Sequential([keras.Input((20,)), ButterflyDense(12, k1=k, k2=k, seed=0)])

    model(4).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="shape"):
        model(5).load_weights(tmp_path / "m.weights.h5")


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


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense, Kaleidoscope])
@pytest.mark.parametrize(
    "optimizer", [lambda: keras.optimizers.Adam(1e-3), lambda: keras.optimizers.SGD(1e-2, momentum=0.9)], ids=["adam", "sgd"]
)
def test_usual_learning_rates_lower_the_loss(optimizer, cls, rng):
    keras.utils.set_random_seed(0)
    x = rng.standard_normal((256, 64)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((64, 1)) / 8)
    model = keras.Sequential([keras.Input((64,)), cls(64, activation="relu"), keras.layers.Dense(1)])
    model.compile(optimizer(), "mse")
    losses = model.fit(x, y, batch_size=32, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
