"""Tests of layers that compute in float32 inside quantized models: their weights in the file, and their outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export.lowering import Dense, Fused, Grouping, lower
from keras_butterfly.export.planning.candidates import shortlist
from keras_butterfly.export.tflite import runtime
from keras_butterfly.export.tflite.converter import convert
from keras_butterfly.export.tflite.graph import read_model, schema
from keras_butterfly.export.tflite.operators import operator_name, operator_names, tensor_names
from keras_butterfly.export.tflite.quantize import Precision

DYNAMIC, INT8 = Precision("dynamic"), Precision("int8")


def built(layer, n):
    """Build a layer for n inputs, and return it."""
    layer.build((None, n))
    return layer


def exported(layer, lowering, n, precision=DYNAMIC, rows=64, batch=1):
    """Return a quantized file in which a layer computes in float32, and the batches that calibrated it."""
    x = np.random.default_rng(0).standard_normal((rows, n)).astype("float32")
    batches = [{"x": x[start : start + batch]} for start in range(0, rows, batch)]
    spec = [tf.TensorSpec((batch, n), name="x")]
    return convert(lower(layer, lowering), spec, precision, batches, keep_float32=True), batches


def outputs(content, batches):
    """Return the single output of a file for all batches."""
    (values,) = runtime.run_all(runtime.load(content), batches).values()
    return values


def rounded(kernel):
    """Return a kernel whose columns are rounded to 255 steps up to their largest value. This is the oracle."""
    scales = np.abs(kernel).max(axis=0) / 127
    return np.round(kernel / scales) * scales


@pytest.mark.parametrize("precision", [DYNAMIC, INT8], ids=["dynamic", "int8"])
def test_only_the_weights_are_rounded(precision):
    layer = built(Butterfly(48, radix=2, bias_initializer="ones", seed=0), 64)
    content, batches = exported(layer, Dense(keep_float32="arithmetic"), 64, precision)
    x = np.concatenate([batch["x"] for batch in batches])
    expected = x @ rounded(np.asarray(layer.kernel)) + 1
    # The inputs and outputs of an int8 model are rounded to int8, whose steps are 1/255 of the range.
    steps = {"dynamic": 1e-5, "int8": 3 / 255}[precision.name]
    np.testing.assert_allclose(outputs(content, batches), expected, atol=steps * np.abs(expected).max())


@pytest.mark.parametrize("operator", ["conv", "matmul", pytest.param("split", marks=pytest.mark.long)])
@pytest.mark.parametrize("precision", [DYNAMIC, INT8], ids=["dynamic", "int8"])
def test_weights_are_stored_in_int8_whatever_the_operator(precision, operator):
    layer = built(Butterfly(radix=2, use_bias=False, seed=0), 1024)
    lowering = Fused((Grouping((32, 32), (operator,) * 2),), keep_float32="arithmetic")
    content, batches = exported(layer, lowering, 1024, precision, rows=8)
    stored = [buffer.data for buffer in schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)).buffers]
    assert 2 * 32 * 1024 <= sum(len(data) for data in stored if data is not None) < 2 * 32 * 1024 + 8192
    assert operator_names(content).count("DEQUANTIZE") >= (64 if operator == "split" else 2)
    x = np.concatenate([batch["x"] for batch in batches])
    expected = x @ np.asarray(layer.kernel)
    assert np.abs(outputs(content, batches) - expected).max() < 0.03 * np.abs(expected).max()
    assert operator == "split" or runtime.partitions(runtime.load(content)) == 1


def test_weights_lie_at_multiples_of_sixteen_bytes():
    layer = built(Butterfly(seed=0), 200)
    content, _ = exported(layer, Fused((Grouping((16, 16), ("conv", "conv")),), keep_float32="arithmetic"), 200)
    model, start = schema.Model.GetRootAs(content), np.frombuffer(content, np.uint8).ctypes.data
    filled = [model.Buffers(index) for index in range(model.BuffersLength()) if model.Buffers(index).DataLength()]
    assert max(buffer.DataLength() for buffer in filled) == 16 * 16 * 13  # int8 weights of 13 blocks
    assert {(buffer.DataAsNumpy().ctypes.data - start) % 16 for buffer in filled} == {0}


def test_the_names_and_the_signature_survive():
    net = keras.Sequential([keras.Input((64,), name="pixels"), Butterfly(1024, name="wide"), keras.layers.Dense(10)])

    class Float32Device:
        """A device on which layers that compute in float32 are the fastest."""

        name, machine, runtime = "clock", "table 1", "paper"

        def measure(self, models, *, threads, warmup, runs, on_round):
            seconds = {name: 1.0 if name.endswith("from int8") else 2.0 for name in models}
            return {name: export.Latency((value,), 1, warmup, threads, "table 1", "paper") for name, value in seconds.items()}

    file = export.to_tflite(net, quantize="dynamic", effort="quick", device=Float32Device(), wisdom=export.Wisdom())
    assert file.plan[0].lowering.keep_float32 == "arithmetic"
    assert file.input_names == ("pixels",)
    assert any(name.startswith("wide/butterfly_float32/") for name in tensor_names(file.content))
    x = np.random.default_rng(0).standard_normal((1, 64)).astype("float32")
    expected = np.asarray(net(x))
    np.testing.assert_allclose(file.predict(x), expected, atol=0.05 * np.abs(expected).max())


def test_a_layer_called_twice_shares_its_weights():
    layer = Butterfly(seed=0)
    inputs = keras.Input((256,))
    model = keras.Model(inputs, layer(layer(inputs)))
    affine = lower(layer, Fused((Grouping((16, 16), ("conv", "conv")),), keep_float32="arithmetic"))
    spec, x = [tf.TensorSpec((1, 256), name="x")], np.ones((1, 256), "float32")
    content = convert(lambda value: affine(affine(value)), spec, DYNAMIC, keep_float32=True)
    assert len(content) < 2 * 4 * 1024 + 12 * 1024  # Each factor of 16 blocks of 16 x 16 is stored once in int8.
    expected = np.asarray(model(x))
    np.testing.assert_allclose(outputs(content, [{"x": x}]), expected, atol=0.05 * np.abs(expected).max())


def test_the_planner_considers_float32_in_both_quantized_precisions():
    for layer in (built(Butterfly(), 512), built(ButterflyDense(512), 512)):
        for precision in ("dynamic", "int8"):
            found = shortlist(layer, 1, precision)
            assert any(lowering.keep_float32 for lowering in found)
            assert not any(lowering.keep_float32 and lowering.kind in ("dense", "slice") for lowering in found)
        assert not any(lowering.keep_float32 for lowering in shortlist(layer, 1, None))


def classifier(scale):
    """Return a classifier whose head has weights of the size `scale`."""
    head = keras.layers.Dense(4, "softmax", kernel_initializer=keras.initializers.RandomUniform(-scale, scale, seed=0))
    return keras.Sequential([keras.Input((64,)), Butterfly(512, "relu", seed=0), head])


@pytest.mark.parametrize(("scale", "integer_io", "in_float32"), [(8.0, False, True), (8.0, True, False), (0.1, False, False)])
def test_a_head_with_a_wide_range_computes_in_float32(scale, integer_io, in_float32):
    model, x = classifier(scale), np.random.default_rng(0).standard_normal((200, 64)).astype("float32")
    settings = {"representative_data": x, "effort": "estimate", "tolerance": 1.0}
    file = export.to_tflite(model, quantize="int8", integer_io=integer_io, **settings)
    content = read_model(file.content)
    (graph,) = content.subgraphs
    (softmax,) = (op for op in graph.operators if operator_name(content.operatorCodes[op.opcodeIndex]) == "SOFTMAX")
    float32 = schema.TensorType.FLOAT32
    assert (graph.tensors[softmax.inputs[0]].type == float32) == in_float32
    if in_float32:
        weights = [tensor for tensor in graph.tensors if list(tensor.shape) == [4, 512]]
        assert {tensor.type for tensor in weights if content.buffers[tensor.buffer].data is not None} == {
            schema.TensorType.INT8
        }
        assert file.parity.max_error < 0.15


def log_spectrum(split=False):
    """Return a model of the logarithms of sums of energies: a transform, squares, sums in bands, and logarithms."""
    wave = keras.Input((64,))
    spectrum = keras.layers.Dense(64, use_bias=False, kernel_initializer="orthogonal", name="transform")(wave)
    if split:  # an operator of several results
        spectrum = keras.ops.concatenate(keras.ops.split(spectrum, 2, axis=-1), axis=-1)
    bands = keras.layers.Dense(32, use_bias=False, kernel_initializer=keras.initializers.RandomUniform(0, 1, seed=0))
    energies = bands(keras.ops.square(spectrum))
    return keras.Model(wave, keras.ops.log(energies + 1e-3))


@pytest.mark.parametrize("split", [False, True], ids=["", "split"])
@pytest.mark.parametrize(("precision", "integer_io"), [("dynamic", False), ("int8", False), ("int8", True)])
def test_what_a_logarithm_is_computed_from_is_in_float32(precision, integer_io, split):
    keras.utils.set_random_seed(0)
    model, rng = log_spectrum(split), np.random.default_rng(0)
    x = (rng.standard_normal((100, 64)) * np.logspace(0, -2, 100)[:, None]).astype("float32")
    if precision == "int8":  # inputs that int8 holds exactly, from the smallest to the largest
        x = np.clip(np.round(x * 40), -127, 127).astype("float32")
        x[0, :2] = -128, 127
    file = export.to_tflite(model, quantize=precision, integer_io=integer_io, representative_data=x, tolerance=10.0)
    transform, bands = (np.asarray(weights) for weights in model.get_weights())
    expected = np.log(np.square(x @ rounded(transform)) @ bands + 1e-3)
    step = np.ptp(expected) / 255 if precision == "int8" else 0
    np.testing.assert_allclose(file.predict(x), expected, atol=step + 2e-3)


def test_a_logarithm_of_values_of_one_size_is_quantized():
    inputs = keras.Input((64,))
    model = keras.Model(inputs, keras.ops.log(keras.layers.Dense(32, "sigmoid")(inputs) + 1))
    x = np.random.default_rng(0).standard_normal((200, 64)).astype("float32")
    content = read_model(export.to_tflite(model, quantize="int8", representative_data=x).content)
    (graph,) = content.subgraphs
    (logarithm,) = (op for op in graph.operators if operator_name(content.operatorCodes[op.opcodeIndex]) == "LOG")
    assert graph.tensors[logarithm.inputs[0]].type == schema.TensorType.INT8


def test_a_logarithm_of_probabilities_needs_no_exact_weights():
    probabilities = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "softmax")])
    model = keras.Model(probabilities.inputs, keras.ops.log(probabilities.outputs[0]))
    sizes = [export.to_tflite(each, quantize="dynamic").size_bytes for each in (probabilities, model)]
    assert sizes[1] < sizes[0] + 1000


def test_the_nearest_way_to_a_logarithm_counts():
    keras.utils.set_random_seed(0)
    wave = keras.Input((64,))
    sums = keras.layers.Dense(32, use_bias=False, kernel_initializer=keras.initializers.RandomUniform(0, 1))
    energies = sums(keras.ops.square(keras.layers.Dense(64, use_bias=False, kernel_initializer="orthogonal")(wave)))
    mixed = keras.layers.Dense(32, use_bias=False, kernel_initializer=keras.initializers.RandomUniform(0, 0.01))(energies)
    model = keras.Model(wave, keras.ops.log(mixed + energies + 1e-3))  # `energies` is behind one product, or none
    x = (np.random.default_rng(0).standard_normal((100, 64)) * np.logspace(0, -2, 100)[:, None]).astype("float32")
    file = export.to_tflite(model, quantize="dynamic", representative_data=x)
    np.testing.assert_allclose(file.predict(x), model.predict(x, verbose=0), atol=0.02)


class Smooth(keras.layers.Layer):
    """A layer that smooths a value in many steps."""

    def call(self, x):
        smooth = x
        for _ in range(1200):
            smooth = 0.9 * smooth + 0.1 * x
        return smooth


def test_many_operators_before_a_logarithm():
    wave = keras.Input((64,))
    energies = Smooth()(keras.ops.square(keras.layers.Dense(64)(wave)))
    assert "LOG" in export.to_tflite(keras.Model(wave, keras.ops.log(energies + 1e-3)), quantize="dynamic").operators


def test_a_model_without_operators():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.5)])
    x = np.random.default_rng(0).standard_normal((40, 8)).astype("float32")
    file = export.to_tflite(model, quantize="int8", representative_data=x)
    np.testing.assert_allclose(file.predict(x), x, atol=0.05)
