"""Compare the training of many networks at once with Keras's `fit` and with `distill`."""

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, distill

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="trains many networks at once by jax.vmap")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 12)).astype("float32"), RNG.integers(0, 3, 40)
EPOCHS = 6


def network(seed: int, behind=()) -> keras.Model:
    keras.utils.set_random_seed(seed)
    hidden = Butterfly(16, "relu")
    return keras.Sequential([keras.Input((12,)), hidden, *behind, keras.layers.Dense(3, activation="softmax")])


def values(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]


def test_each_member_is_trained_as_fit_does():
    import ensemble

    settings = [(0, 1e-3), (0, 1e-2), (1, 1e-2)]
    starts = {seed: values(network(seed)) for seed in (0, 1)}
    members = [ensemble.Member(starts[seed], rate, seed) for seed, rate in settings]
    # One batch of all examples, so that their order does not matter.
    found = ensemble.train(network(0), members, X, Y, EPOCHS, batch=40)
    for (seed, rate), weights in zip(settings, found, strict=True):
        model = network(seed)
        schedule = keras.optimizers.schedules.CosineDecay(rate, EPOCHS)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        model.fit(X, Y, 40, EPOCHS, verbose=0)
        for ours, theirs in zip(weights, values(model), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
        np.testing.assert_allclose(ensemble.outputs(network(0), [weights], X)[0], model.predict(X, verbose=0), atol=1e-4)


def test_a_member_with_a_teacher_is_trained_as_distill_does():
    import ensemble

    teacher, student = network(5), network(1)
    targets = teacher.predict(X, verbose=0)
    found = ensemble.train(network(0), [ensemble.Member(values(student), 1e-2, 0, targets=targets)], X, Y, EPOCHS, batch=40)
    settings = {"epochs": EPOCHS, "batch_size": 40, "learning_rate": 1e-2, "temperature": ensemble.TEMPERATURE}
    distill(student, teacher, X, Y, progress=False, **settings)
    for ours, theirs in zip(found[0], values(student), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_members_differ_in_their_dropout_and_see_every_example_once_an_epoch():
    import ensemble

    model = network(0, behind=(ensemble.VariableDropout(),))
    same = ensemble.Member(values(model), 1e-2, 0)
    dropped = ensemble.Member(values(model), 1e-2, 0, dropout=0.5)
    plain = ensemble.train(network(0), [same], X, Y, EPOCHS, batch=16)
    without, with_dropout = ensemble.train(model, [same, dropped], X, Y, EPOCHS, batch=16)
    for ours, theirs in zip(without, plain[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(without, with_dropout, strict=True)) > 1e-3


def test_the_dropout_keeps_the_mean_and_does_nothing_at_inference():
    import ensemble

    layer = ensemble.VariableDropout()
    x = np.ones((200, 200), "float32")
    np.testing.assert_array_equal(layer(x), x)
    layer.rate.assign(0.25)
    dropped = keras.ops.convert_to_numpy(layer(x, training=True))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1, abs=0.02)


def test_teachers_for_some_members_only_are_refused():
    import ensemble

    start = values(network(0))
    members = [ensemble.Member(start, 1e-3, 0), ensemble.Member(start, 1e-3, 0, targets=np.ones((40, 3), "float32") / 3)]
    with pytest.raises(ValueError, match="Expected a teacher for all members or for none"):
        ensemble.train(network(0), members, X, Y, 1, batch=40)
