"""Keras's test of a layer (from `keras.src.testing`, which is private and imported here only), and comparisons with Dense."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras.src import testing

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank

LAYERS = {
    "butterfly": (Butterfly, {"seed": 1}),
    "truncated": (Butterfly, {"units": 5, "seed": 1, "truncation": "random", "activation": "relu", "lr_multiplier": 2}),
    "stacks": (Butterfly, {"units": 12, "seed": 1, "stacks": 2, "use_bias": False}),
    "dense": (ButterflyDense, {"units": 12, "activation": "relu"}),
    "dense with lora": (ButterflyDense, {"units": 12, "k1": 4, "k2": 4, "lora_rank": 2}),
    "radix 4": (Butterfly, {"radix": 4, "seed": 1}),
    "radices": (Butterfly, {"radix": (3, 6), "seed": 1, "activation": "relu"}),
    "butterfly plus low rank": (Butterfly, {"units": 12, "rank": 3, "seed": 1}),
    "low rank": (LowRank, {"units": 12, "rank": 3}),
    "kaleidoscope": (Kaleidoscope, {"units": 12, "activation": "relu"}),
}
REGULARISED = ["truncated", "dense", "low rank"]
QUICK = ["dense with lora", "radices"]
CLASSES = pytest.mark.parametrize("cls", [Butterfly, ButterflyDense, Kaleidoscope])
REGULARISERS = {"kernel_regularizer": "l2", "bias_regularizer": "l2"}


@pytest.mark.parametrize(
    ("name", "regularised"),
    [
        *(pytest.param(name, False, marks=[] if name in QUICK else pytest.mark.long) for name in LAYERS),
        *(pytest.param(name, True, marks=[] if name == "dense" else pytest.mark.long) for name in REGULARISED),
    ],
)
def test_keras_own_test_of_a_layer(name, regularised):
    cls, arguments = LAYERS[name]
    arguments = {**arguments, **(REGULARISERS if regularised else {})}
    layer = cls(**arguments)
    layer.build((2, 3, 16))
    lora = 3 if arguments.get("lora_rank") else 0  # W', and the weights of J1 and J2, are frozen
    case = testing.TestCase()
    case.setUp()
    case.run_layer_test(
        cls,
        init_kwargs=arguments,
        input_shape=(2, 3, 16),
        expected_output_shape=(2, 3, arguments.get("units", 16)),
        expected_num_trainable_weights=len(layer.weights) - lora,
        expected_num_non_trainable_weights=lora,
        expected_num_seed_generators=0,
        expected_num_losses=len(layer.losses),
        supports_masking=True,
    )
    assert bool(layer.losses) == regularised


@CLASSES
def test_name_dtype_policy_and_trainable_survive_the_config(cls):
    layer = cls(4, name="hidden", dtype="mixed_bfloat16", trainable=False)
    restored = cls.from_config(layer.get_config())
    assert (restored.name, restored.dtype_policy.name, restored.trainable) == ("hidden", "mixed_bfloat16", False)
    restored.build((None, 8))
    assert restored.trainable_weights == []


def test_every_argument_of_keras_dense_is_taken():
    """Compare with ButterflyDense. It takes all arguments of Dense except the quantization ones, which it refuses."""
    dense, ours = (set(inspect.signature(cls).parameters) for cls in (keras.layers.Dense, ButterflyDense))
    assert dense - ours <= {"quantization_config"}


@CLASSES
def test_arguments_begin_as_those_of_dense_and_all_others_are_given_by_name(cls):
    dense, ours = (list(inspect.signature(each).parameters.values()) for each in (keras.layers.Dense, cls))
    assert [parameter.name for parameter in ours[:3]] == [parameter.name for parameter in dense[:3]]
    assert [parameter.default for parameter in ours[1:3]] == [parameter.default for parameter in dense[1:3]] == [None, True]
    assert ours[0].default is (inspect.Parameter.empty if cls is ButterflyDense else None)
    assert {parameter.kind for parameter in ours[:3]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {parameter.kind for parameter in ours[3:-1]} == {inspect.Parameter.KEYWORD_ONLY}
    assert ours[-1].kind == inspect.Parameter.VAR_KEYWORD


@CLASSES
@pytest.mark.parametrize("arguments", [(64,), (64, "relu"), (64, "relu", False), (64, None, False)], ids=str)
def test_positional_arguments_mean_what_they_mean_to_dense(cls, arguments):
    dense, ours = keras.layers.Dense(*arguments), cls(*arguments)
    for layer in (dense, ours):
        layer.build((None, 16))
    assert ours.get_config()["units"] == dense.units == 64
    assert ours.activation is dense.activation
    assert ours.use_bias is dense.use_bias is isinstance(ours.bias, keras.Variable) is (ours.bias is not None)


@CLASSES
def test_a_fourth_positional_argument_is_refused(cls):
    with pytest.raises(TypeError, match="positional"):
        cls(64, "relu", True, 16)


@pytest.mark.parametrize(
    ("cls", "remedy"),
    [
        (Butterfly, "All arguments after `use_bias` are given by name."),
        (ButterflyDense, "`k1` and `k2` are given by name, as in k1=16, k2=16."),
        (Kaleidoscope, "The number of pairs is given by name, as in width=2."),
    ],
)
@pytest.mark.parametrize("arguments", [(64, 16), (64, 16, 16), (64, 0), (64, 2.5), (64, np.int64(16))], ids=str)
def test_a_number_in_place_of_the_activation_is_refused_and_the_remedy_named(cls, remedy, arguments):
    message = (
        "`activation` must be a name, a function or None, as in keras.layers.Dense. "
        f"Received: activation={arguments[1]!r}. {remedy}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(*arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(64, activation=arguments[1])


@CLASSES
def test_bias_is_on_by_default_and_starts_at_zero(cls):
    layer = cls(5)
    layer.build((None, 8))
    assert layer.use_bias is True
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.bias), np.zeros(5))


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
@pytest.mark.usefixtures("eager")
def test_replacing_dense_in_code_needs_no_other_change(cls, rng):
    arguments = {
        "units": 6,
        "activation": "tanh",
        "use_bias": True,
        "kernel_initializer": "he_normal",
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(1e-3),
        "bias_regularizer": keras.regularizers.L1(1e-3),
        "activity_regularizer": keras.regularizers.L2(1e-3),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "name": "head",
        "dtype": "float32",
    }
    x = rng.standard_normal((8, 10)).astype("float32")
    models = [keras.Sequential([keras.Input((10,)), each(**arguments)]) for each in (keras.layers.Dense, cls)]
    for model in models:
        model.compile("adam", "mse")
        assert np.isfinite(model.fit(x, x[:, :6], verbose=0).history["loss"][-1])
        assert len(model.losses) >= 2
    assert models[0].output_shape == models[1].output_shape
