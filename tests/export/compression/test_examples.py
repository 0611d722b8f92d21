"""The examples to train on and to score on."""

import keras
import numpy as np
import pytest

from keras_butterfly.export.compression.examples import Examples

X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20)


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])


def test_a_random_fifth_is_held_back(model):
    found = Examples.of(model, (X, Y))
    assert len(found.held_x) == 4 and not found.given
    assert sorted([*found.y, *found.held_y]) == list(Y)
    np.testing.assert_array_equal(found.held_x, X[found.held_y])
    np.testing.assert_array_equal(found.x, X[found.y])
    assert list(found.held_y) != list(Y[-4:])


def test_data_without_labels_or_with_others_to_score_on(model):
    found = Examples.of(model, X)
    assert found.y is None and found.held_y is None and len(found.x) == 16
    given = Examples.of(model, (X, Y), (X[:3], Y[:3]))
    assert given.given and len(given.x) == 20 and list(given.held_y) == [0, 1, 2]
    pairs = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    assert len(Examples.of(model, lambda: iter(pairs)).x) == 16


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        (None, None, r"Expected `data` as a pair \(x, y\), or x alone"),
        ((X, Y[:5]), None, "Expected as many labels as examples in `data`, 20"),
        (np.full((4, 2), np.nan), None, "Expected finite numbers in `data`"),
        (np.ones((4, 3)), None, r"Expected `data` of the shapes"),
        (np.ones((0, 2)), None, "Expected at least one example"),
        (X[:1], None, "Expected at least two examples"),
        ((np.zeros((9, 2)), Y[:9]), None, "Expected typical examples in `data`. Received 9 that are all equal"),
        ((X, Y), X, "Expected labels in both `data` and `validation_data`"),
        ((X, Y), (X * np.inf, Y), "Expected finite numbers in `validation_data`"),
    ],
)
def test_bad_data(model, data, validation, message):
    with pytest.raises(ValueError, match=message):
        Examples.of(model, data, validation)
