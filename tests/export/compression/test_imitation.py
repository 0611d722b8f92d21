"""Training on outputs that the original gave before."""

import keras
import numpy as np
import pytest

from keras_butterfly.export.compression.imitation import Lesson, divergence, imitate

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax")])


def test_a_student_comes_near_the_original():
    student, lesson = network(1), Lesson.of(network(0), X)
    before = divergence(student, lesson)
    assert imitate(student, lesson, epochs=20, batch_size=8, learning_rate=0.05, compiled=False)
    assert divergence(student, lesson) < 0.1 * before


def test_a_training_ends_between_epochs():
    student, lesson = network(1), Lesson.of(network(0), X)
    answers = iter([False, True])
    settings = {"batch_size": 8, "learning_rate": 0.05, "compiled": False}
    assert not imitate(student, lesson, epochs=4, **settings, is_over=lambda: next(answers))
    # After the last epoch the training has reached its end, and no time limit ends it.
    assert imitate(student, lesson, epochs=1, **settings, is_over=lambda: pytest.fail("asked after the last epoch"))


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Expected labels within"):
        Lesson.of(network(0), X, np.full(40, 4))
