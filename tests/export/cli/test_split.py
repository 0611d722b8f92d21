"""Data divided into a part to train on and a part to score on."""

import numpy as np
import pytest
from keras_butterfly_cli.reading import split


@pytest.mark.parametrize("y", [np.zeros(10), np.zeros(128), np.float64(3.0)], ids=["few", "many", "scalar"])
def test_labels_that_are_not_one_for_each_example_are_refused(y):
    with pytest.raises(ValueError, match="Expected a label for each example"):
        split({"x": np.zeros((64, 4)), "y": np.asarray(y)}, ["x"])


def test_every_example_is_in_one_part():
    (x, y), (x_test, y_test) = split({"x": np.arange(20)[:, None], "y": np.arange(20)}, ["x"])
    assert sorted([*x[:, 0], *x_test[:, 0]]) == list(range(20))
    assert np.array_equal(x[:, 0], y)
    assert np.array_equal(x_test[:, 0], y_test)
