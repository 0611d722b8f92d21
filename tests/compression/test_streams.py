"""Datasets, generators and texts in replace_dense, distill and to_tflite. Only TensorFlow runs all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_butterfly import distill, export, replace_dense

RNG = np.random.default_rng(0)
X = RNG.standard_normal((96, 16)).astype("float32")
Y = (X @ RNG.standard_normal((16, 3))).argmax(-1)


def classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((16,), name="x"), layers.Dense(64, "relu", name="hidden"), layers.Dense(3, activation="softmax")]
    )


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)


def test_a_dataset_fits_as_its_arrays_do():
    fits = [
        replace_dense(classifier(), where="hidden", data=data, initialize="fit", steps=5, seed=0, progress=False)[1]
        .replacements[0]
        .error
        for data in (X, dataset(), lambda: iter(dataset()))
    ]
    assert fits[0] == fits[1] == fits[2]


def test_a_dataset_brings_its_labels_to_the_distillation():
    teacher = classifier()
    student, _ = replace_dense(teacher, where="hidden", initialize="fresh", seed=0, progress=False)
    history = distill(student, teacher, dataset(), epochs=2, batch_size=32, validation_data=dataset(), progress=False)
    assert {"accuracy", "val_accuracy"} <= set(history.history)
    with pytest.raises(ValueError, match="Expected a dataset that ends"):
        distill(student, teacher, dataset().repeat(), epochs=1, progress=False)


def test_an_export_is_calibrated_on_a_dataset():
    model = classifier()
    for data in (dataset().repeat(), X):
        exported = export.to_tflite(model, quantize="int8", representative_data=data)
        assert exported.parity.agreement > 0.9
        assert not exported.notes or "int8" in exported.notes[0]


@pytest.mark.parametrize("text", [["a b"] * 40, np.array(["a b"] * 40), np.array(["a b"] * 40, object)])
def test_models_of_text_take_text(text):
    words = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)
    inputs = keras.Input((), dtype="string")
    hidden = layers.Flatten()(layers.Embedding(8, 16)(words(inputs)))
    model = keras.Model(inputs, layers.Dense(64, name="hidden")(hidden))
    _, report = replace_dense(model, data=text, initialize="fit", steps=1, progress=False)
    assert report.replacements[0].fitted_to == "data"
    with pytest.raises(ValueError, match=r"Expected text in the data. Received: float64"):
        replace_dense(model, data=np.ones(40), steps=1, progress=False)
