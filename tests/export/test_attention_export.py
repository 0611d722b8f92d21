"""Export of attention whose projections are butterflies."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import export, replace_dense


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.default_rng(0)
    inputs = keras.Input((6, 16), name="inputs")
    x = inputs
    for name in ("first", "second"):  # two layers "query", whose reports and tensors must not be mixed up
        attention = layers.MultiHeadAttention(2, 8, name=name)(x, x)
        x = layers.LayerNormalization()(x + attention)
    grouped = layers.GroupQueryAttention(8, 4, 2, name="grouped", dtype="mixed_float16")(x, x)
    model = keras.Model(
        inputs, layers.Dense(3, activation="softmax", name="classes")(layers.GlobalAveragePooling1D()(x + grouped))
    )
    data = rng.standard_normal((64, 6, 16)).astype("float32")
    return replace_dense(model, min_weights=1, seed=0, progress=False)[0], data


@pytest.mark.parametrize(
    ("quantize", "batch_size", "tolerance"),
    [
        (None, None, 1e-4),
        pytest.param("dynamic", 1, 0.03, marks=pytest.mark.long),
        pytest.param("int8", 1, 0.1, marks=pytest.mark.long),
    ],
)
def test_files_compute_what_keras_does(classifier, quantize, batch_size, tolerance):
    model, data = classifier
    exported = export.to_tflite(
        model, quantize=quantize, batch_size=batch_size, representative_data=data, effort="estimate", tolerance=tolerance
    )
    assert exported.parity.relative_error < tolerance
    projections = ("query", "key", "value", "attention_output")
    paths = [f"{attention}/{projection}" for attention in ("first", "second", "grouped") for projection in projections]
    assert [plan.layer for plan in exported.plan] == [*paths, "classes"]
