"""Faults that users met from outside, each once more as a test."""

import os
import threading

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import Butterfly, distill, export, replace_dense
from keras_butterfly.export.tflite.converter import convert
from keras_butterfly.export.tflite.quantize import Precision

X = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")


def dense(**settings):
    return keras.Sequential([keras.Input((16,), **settings), layers.Dense(10)])


@pytest.mark.parametrize("precision", [None, "dynamic", "int8"])
def test_data_that_float32_cannot_hold_are_refused(precision):
    data = X.astype("float64")
    data[:, 0] = -np.finfo("float64").max  # a common marker of a missing value
    with pytest.raises(ValueError, match=r"values of the input 'x' that float32 can hold. Received: -1.8e\+308 to"):
        export.to_tflite(dense(name="x"), quantize=precision, representative_data=data)


def test_whole_numbers_that_the_input_cannot_hold_are_refused():
    inputs = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(inputs, layers.Dense(2)(layers.Rescaling(1.0)(inputs)))
    with pytest.raises(ValueError, match=r"'ids' that int32 can hold\. Received: 1\.1e"):
        export.to_tflite(model, representative_data=np.full((8, 4), 2**40))


def test_training_data_that_float32_cannot_hold_are_refused():
    teacher, student = dense(), dense(name="x")
    with pytest.raises(ValueError, match=r"values of the input 'x' that float32 can hold. Received: .*e\+300"):
        distill(student, teacher, X.astype("float64") * 1e300, epochs=1)
    with pytest.raises(ValueError, match="that float32 can hold"):
        replace_dense(keras.Sequential([keras.Input((16,)), layers.Dense(64)]), data=X.astype("float64") * 1e300)


def test_a_training_that_diverges_is_an_error():
    student = dense()
    with pytest.raises(ValueError, match="Expected finite weights"):
        distill(student, dense(), X, epochs=4, optimizer=keras.optimizers.SGD(1e30))


def test_numbers_of_epochs_and_folders_that_are_none():
    with pytest.raises(ValueError, match="`epochs` must be at most 1,000,000"):
        distill(dense(), dense(), X, epochs=10**30)
    with pytest.raises(ValueError, match="Expected a folder for the checkpoint"):
        distill(dense(), dense(), X, epochs=1, checkpoint=5)


def test_a_pipe_in_a_checkpoints_folder_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "training.npz.partial")
    with pytest.raises(ValueError, match="is no regular file"):
        distill(dense(), dense(), X, epochs=1, checkpoint=tmp_path)
    assert (tmp_path / "training.npz.partial").is_fifo()


def test_infinite_values_inside_the_model_are_refused_in_int8():
    """See that such a model is refused before TensorFlow's quantizer ends the process."""
    inputs = keras.Input((16,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(4)(keras.ops.exp(keras.ops.log(hidden))))
    with pytest.raises(ValueError, match="Expected finite values inside the model"):
        export.to_tflite(model, quantize="int8", representative_data=X)


def test_threads_that_export_leave_stderr_as_it_was():
    models = [keras.Sequential([keras.Input((64,)), Butterfly(64), layers.Dense(4)]) for _ in range(3)]
    before = os.readlink("/proc/self/fd/2")
    threads = [threading.Thread(target=export.to_tflite, args=(model,), kwargs={"effort": "estimate"}) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.readlink("/proc/self/fd/2") == before


def test_hints_from_a_teacher_of_another_precision():
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    hidden = [layers.Dense(64, name=name, dtype=policy) for name in ("first", "second")]
    teacher = keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(4, activation="softmax", dtype="float32")])
    student, _ = replace_dense(teacher, where=["second"], initialize="fresh")
    history = distill(student, teacher, X, epochs=1, hint=0.5)
    assert np.isfinite(history.history["loss"]).all()


def test_a_refused_int8_export_of_a_model_of_a_dict_says_that_dynamic_fits():
    a, b = keras.Input((16,), name="a"), keras.Input((16,), name="b")
    both = layers.Concatenate()([layers.Dense(16)(a), layers.Dense(16)(b)])
    model = keras.Model({"a": a, "b": b}, layers.Dense(2)(both))
    with pytest.raises(export.ParityError, match='quantize="dynamic" fits'):
        export.to_tflite(model, quantize="int8", tolerance=1e-3, representative_data={"a": X, "b": X})


def test_a_mixed_precision_model_with_a_loss_of_the_users_own():
    def squares(y, prediction):
        return keras.ops.mean((y - prediction) ** 2)

    model = keras.Sequential([keras.Input((16,)), layers.Dense(4, dtype="mixed_bfloat16")])
    model.compile("adam", squares)
    assert export.to_tflite(model).parity.relative_error < 1e-5


def test_data_by_the_names_of_the_signature():
    exported = export.to_tflite(dense(), representative_data={"input_0": X})
    assert exported.input_names == ("input_0",)
    assert exported.parity.examples == len(X)


def test_ids_beyond_an_embedding_inside_another_model():
    inner = keras.Sequential([keras.Input((10,), dtype="int32"), layers.Embedding(100, 16), layers.Flatten()])
    inputs = keras.Input((10,), dtype="int32", name="tokens")
    model = keras.Model(inputs, layers.Dense(32)(inner(inputs)))
    with pytest.raises(ValueError, match=r"\['tokens'\] TensorFlow says: .*100.*must be below"):
        export.to_tflite(model, representative_data=np.full((40, 10), 100))


def test_input_names_that_differ_in_case_only():
    first, second = keras.Input((4,), name="x"), keras.Input((4,), name="X")
    model = keras.Model([first, second], layers.Add()([first, second]))
    exported = export.to_tflite(model)
    assert len({name.lower() for name in exported.input_names}) == 2


def test_int8_in_two_steps_gives_the_bytes_of_the_converter():
    """The oracle is TensorFlow's own one-step conversion."""
    import tensorflow as tf

    kernel = np.random.default_rng(1).normal(size=(16, 10)).astype("float32")
    spec = [tf.TensorSpec((1, 16), name="x")]
    batches = [{"x": row[None]} for row in X]
    found = convert(lambda x: {"y": tf.linalg.matmul(x, kernel)}, spec, Precision("int8"), batches)
    concrete = tf.function(lambda values: {"y": tf.linalg.matmul(values["x"], kernel)}, input_signature=[{"x": spec[0]}])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete.get_concrete_function()], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: (("serving_default", batch) for batch in batches)
    expected = converter.convert()
    results = []
    for content in (found, expected):
        interpreter = tf.lite.Interpreter(model_content=content)
        runner = interpreter.get_signature_runner()
        results.append(np.concatenate([runner(x=batch["x"])["y"] for batch in batches]))
    np.testing.assert_array_equal(*results)
