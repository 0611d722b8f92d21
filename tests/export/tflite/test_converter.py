"""Tests of the conversion of a TensorFlow function to a file: its errors say what to do."""

import tempfile
from types import SimpleNamespace

import keras
import pytest

from keras_butterfly import export
from keras_butterfly.export.tflite import converter


def broken(*arguments):
    raise RuntimeError("SignatureDef signature_key is None")


@pytest.mark.parametrize(("free", "error"), [(2**40, ValueError), (4 * 64 * 8, OSError)])
def test_a_conversion_that_fails_without_room_for_temporary_files_is_an_error_of_the_disk(free, error, monkeypatch):
    """TensorFlow hides that it could not write them, and goes wrong later."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8)])
    monkeypatch.setattr(converter.tf.lite.TFLiteConverter, "convert", broken)
    monkeypatch.setattr(converter.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(error, match="conversion: No space left" if error is OSError else "The converter says") as caught:
        export.to_tflite(model)
    assert error is ValueError or caught.value.filename == tempfile.gettempdir()
