"""Keras's own test of a layer, and what it does not look at. `keras.src.testing` is private: imported here only."""

import inspect

import keras
import numpy as np
import pytest
from keras.src import testing

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope

LAYERS = {
    "butterfly": (Butterfly, {"seed": 1}),
    "truncated": (Butterfly, {"units": 5, "seed": 1, "use_bias": True, "activation": "relu"}),
    "stacks": (Butterfly, {"units": 12, "seed": 1, "stacks": 2, "kernel_initializer": "orthogonal"}),
    "dense": (ButterflyDense, {"units": 12, "activation": "relu"}),
    "dense with lora": (ButterflyDense, {"units": 12, "k1": 4, "k2": 4, "lora_rank": 2}),
    "kaleidoscope": (Kaleidoscope, {"units": 12, "use_bias": True, "activation": "relu"}),
}
REGULARISERS = {"kernel_regularizer": "l2", "bias_regularizer": "l2"}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("regularised", [False, True])
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


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense, Kaleidoscope])
def test_name_dtype_policy_and_trainable_survive_the_config(cls):
    layer = cls(4, name="hidden", dtype="mixed_bfloat16", trainable=False)
    restored = cls.from_config(layer.get_config())
    assert (restored.name, restored.dtype_policy.name, restored.trainable) == ("hidden", "mixed_bfloat16", False)
    restored.build((None, 8))
    assert restored.trainable_weights == []


def test_every_argument_of_keras_dense_is_taken():
    """All that Dense takes, `ButterflyDense` takes by the same name, but for the quantisation that it refuses."""
    dense, ours = (set(inspect.signature(cls).parameters) for cls in (keras.layers.Dense, ButterflyDense))
    assert dense - ours <= {"quantization_config"}


def test_replacing_dense_in_code_needs_no_other_change(rng):
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
    models = [keras.Sequential([keras.Input((10,)), cls(**arguments)]) for cls in (keras.layers.Dense, ButterflyDense)]
    for model in models:
        model.compile("adam", "mse")
        assert np.isfinite(model.fit(x, x[:, :6], epochs=2, verbose=0).history["loss"][-1])
        assert len(model.losses) >= 2
    assert models[0].output_shape == models[1].output_shape
