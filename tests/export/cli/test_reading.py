"""Models in files, and data of a file divided into a part to train on and a part to score on."""

import keras
import numpy as np
import pytest
from keras_butterfly_cli.reading import load_model, training_and_test

X, Y = np.arange(20)[:, None], np.arange(20)


def test_arrays_with_the_ending_are_scored_on():
    (x, y), (x_test, y_test) = training_and_test({"x": X, "y": Y, "x_test": X[:3], "y_test": Y[:3]}, ["x"])
    assert x is X and y is Y
    assert len(x_test) == len(y_test) == 3


def test_data_without_labels_or_without_a_part_to_score_on():
    train, test = training_and_test({"x": X, "y": Y}, ["x"])
    assert train[1] is Y and test is None
    train, test = training_and_test({"image": X, "image_test": X[:3]}, ["image"])
    assert train is X and len(test) == 3


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match=r"Expected the arrays \['x_test'\] in the data"):
        training_and_test({"x": X, "y": Y, "y_test": Y}, ["x"])


def test_a_class_that_is_not_known_is_named(tmp_path):
    class Unknown(keras.layers.Layer):
        pass

    keras.Sequential([keras.Input((3,)), Unknown()]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="could not be loaded: Could not locate class 'Unknown'") as refused:
        load_model(tmp_path / "model.keras")
    assert "config" not in str(refused.value)
