"""Without our pipeline: Keras's own export, TensorFlow's converter on a saved model, the stock runtime with no delegate."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, export
from keras_butterfly.export.tflite import runtime
from keras_butterfly.export.tflite.operators import operator_names


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((20,), name="x"),
            Butterfly(32, "relu", truncation="random", seed=0),
            Butterfly(stacks=2, seed=1),
            Kaleidoscope(16, seed=2),
            ButterflyDense(10, seed=3),
        ]
    )


def examples(count=4):
    return np.random.default_rng(0).standard_normal((count, 20)).astype("float32")


def check(content, net, batch=1):
    assert not [name for name in operator_names(content) if name.startswith(("CUSTOM", "Flex"))]
    interpreter = runtime.load(content)
    detail, x = interpreter.get_input_details()[0], examples(batch)
    if tuple(detail["shape"]) != x.shape:
        interpreter.resize_tensor_input(detail["index"], x.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(actual, net(x), atol=1e-5)


def test_keras_exports_it(net, tmp_path):
    if not hasattr(keras.Model, "export") or "litert" not in keras.Model.export.__doc__:
        pytest.skip("this Keras has no export to LiteRT")
    net.export(str(tmp_path / "m.tflite"), format="litert", verbose=False)
    check((tmp_path / "m.tflite").read_bytes(), net)


def test_tensorflow_converts_its_saved_model(net, tmp_path):
    net.export(str(tmp_path / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    content = converter.convert()
    for batch in (1, 3):
        check(content, net, batch)


QUICK = [(None, "fused"), ("int8", "dense")]


@pytest.mark.parametrize(
    ("quantize", "lowering"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.long)
        for case in product((None, "float16", "dynamic", "int8"), ("gather", "slice", "fused", "folded", "dense"))
    ],
)
def test_the_stock_runtime_runs_it_without_a_delegate(quantize, lowering, net):
    exported = export.to_tflite(net, lowering=lowering, quantize=quantize, representative_data=examples(40), tolerance=0.5)
    bare = Interpreter(
        model_content=exported.content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    bare.allocate_tensors()
    bare.set_tensor(bare.get_input_details()[0]["index"], examples(1))
    bare.invoke()
    actual = bare.get_tensor(bare.get_output_details()[0]["index"])
    expected = net(examples(1)).numpy()
    bound = {None: 1e-5, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2}[quantize]
    np.testing.assert_allclose(actual, expected, atol=bound * np.abs(expected).max())
