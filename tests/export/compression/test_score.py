"""Scores of exported models."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_butterfly.export.compression.score import Score, accuracy, agreement


def test_accuracy():
    assert accuracy([1, 0, 1], np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])) == pytest.approx(2 / 3)
    assert accuracy([[1], [0]], np.array([[0.9], [0.6]])) == 0.5
    logits = np.array([[0.3], [-0.3]])
    assert accuracy([1, 0], logits, "positive") == 1
    assert accuracy([1, 0], logits) == 0.5
    assert accuracy([[0.0, 1.0], [1.0, 0.0]], np.array([[0.1, 0.9], [0.2, 0.8]])) == 0.5  # one-hot
    with pytest.raises(ValueError, match="Expected integer labels"):
        accuracy([1.0], np.array([[0.5]]))
    for labels in ([0.5, 0.0], [[1, 1], [0, 1]]):
        with pytest.raises(ValueError, match=r"Expected labels that are classes.* Leave the labels out"):
            accuracy(labels, np.array([[0.5, 0.1], [0.5, 0.1]]))
    with pytest.raises(ValueError, match="model of one output"):
        accuracy([1], [np.ones((1, 2)), np.ones((1, 2))])


def test_agreement():
    first, second = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.6, 0.4], [0.7, 0.3]])
    assert agreement(first, first, "largest") == agreement(first, first, None) == 1
    assert agreement(first, second, "largest") == 0.5
    assert agreement(np.array([[0.9], [0.2]]), np.array([[0.4], [0.3]]), "half") == 0.5
    assert agreement(np.array([[2.0], [-3.0]]), np.array([[0.4], [-0.3]]), "positive") == 1
    assert agreement(first, 1.1 * first, None) == pytest.approx(0.9)
    assert agreement(np.zeros((2, 1)), np.zeros((2, 1)), None) == 1


def test_a_metric_of_keras_counts_each_model_alone():
    y, outputs = np.array([0, 1]), [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])]
    score = Score(np.zeros((2, 3)), y, keras.metrics.SparseCategoricalAccuracy())
    assert [score(SimpleNamespace(predict=lambda x, each=each: each)) for each in outputs] == [1, 0]


@pytest.mark.parametrize("value", [None, {}, "good", np.inf, [0.5, 0.6]])
def test_a_metric_that_gives_no_number_is_reported(value):
    score = Score(np.zeros((2, 3)), np.zeros(2), lambda y, outputs: value)
    with pytest.raises(ValueError, match=r"Expected a finite number from `metric`\. Received: "):
        score(SimpleNamespace(predict=lambda x: x))
