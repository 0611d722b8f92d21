"""Students that learn from a teacher."""

import keras
import numpy as np
import pytest
import scipy.special
from keras import layers

from keras_butterfly import distill, replace_dense
from keras_butterfly.compression.distillation import Distiller, matching_layers

QUIET = {"progress": False}


def classifier(seed=0, activation="softmax"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((32,)), layers.Dense(32, activation="relu", name="hidden"), layers.Dense(5, activation, name="class")]
    )


def arrays(*tensors):
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def losses(student, teacher, x, **settings):
    distiller = Distiller(student, teacher, **settings)
    distiller(x, training=True)
    return [float(loss) for loss in distiller.losses]


def test_the_loss_is_the_divergence_of_softened_probabilities(rng):
    student, teacher, x = classifier(0), classifier(1), rng.standard_normal((7, 32)).astype("float32")
    (loss,) = losses(student, teacher, x, soft=0.5, temperature=3.0)
    p, q = (scipy.special.softmax(np.log(values.astype(float)) / 3, axis=-1) for values in arrays(teacher(x), student(x)))
    assert np.isclose(loss, 0.5 * 9 * np.sum(scipy.special.rel_entr(p, q), axis=-1).mean(), rtol=1e-4)


def test_the_loss_of_other_outputs_and_of_layers_is_the_relative_error(rng):
    student, teacher = classifier(0, None), classifier(1, None)
    x = rng.standard_normal((7, 32)).astype("float32")
    pairs = [(student.get_layer("hidden"), teacher.get_layer("hidden"))]
    output, hidden = losses(student, teacher, x, hint=2.0, pairs=pairs, probabilities=[False])
    for loss, (wanted, given) in (
        (output, arrays(teacher(x), student(x))),
        (hidden / 2, arrays(pairs[0][1](x), pairs[0][0](x))),
    ):
        assert np.isclose(loss, np.mean((given - wanted) ** 2) / np.mean(wanted**2), rtol=1e-4)


def test_the_teacher_itself_has_no_loss_and_does_not_learn(rng):
    teacher, x = classifier(1), rng.standard_normal((64, 32)).astype("float32")
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    assert abs(losses(student, teacher, x)[0]) < 1e-6
    before = teacher.get_weights()
    other = classifier(2)
    distill(other, teacher, x, epochs=1, **QUIET)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))


@pytest.mark.parametrize(("hint", "labels"), [(0.0, True), (0.5, False)])
def test_a_replaced_model_recovers(hint, labels, rng):
    teacher = classifier(1)
    if labels:
        teacher.compile("sgd", "sparse_categorical_crossentropy")
    x = rng.standard_normal((1000, 32)).astype("float32")
    y = keras.ops.convert_to_numpy(teacher(x)).argmax(-1)
    student, _ = replace_dense(teacher, where="hidden", initialize="fresh", seed=0, progress=False)

    def agreement():
        return np.mean(keras.ops.convert_to_numpy(student(x)).argmax(-1) == y)

    before = agreement()
    history = distill(
        student, teacher, x, y if labels else None, epochs=15, batch_size=50, learning_rate=3e-3, hint=hint, **QUIET
    )
    assert agreement() > max(0.65, before + 0.2)
    assert history.history["loss"][-1] < 0.75 * history.history["loss"][0]
    assert ("accuracy" in history.history) == labels


def test_an_interrupted_training_goes_on(rng, tmp_path):
    x = rng.standard_normal((200, 32)).astype("float32")

    def train(checkpoint, interrupt=False):
        teacher = classifier(1)
        student, _ = replace_dense(teacher, where="hidden", initialize="fresh", seed=0, progress=False)
        keras.utils.set_random_seed(3)
        settings = {"epochs": 4, "batch_size": 200, "checkpoint": checkpoint, **QUIET}
        if interrupt:
            fit = Distiller.fit

            def stopped(self, *args, callbacks, **kwargs):
                def stop(epoch, logs):
                    if epoch == 2:
                        raise KeyboardInterrupt

                return fit(self, *args, callbacks=[*callbacks, keras.callbacks.LambdaCallback(on_epoch_begin=stop)], **kwargs)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Distiller, "fit", stopped)
                distill(student, teacher, x, **settings)
        else:
            history = distill(student, teacher, x, **settings)
            return student.get_weights(), len(history.history["loss"])

    whole, epochs = train(None)
    assert epochs == 4
    train(tmp_path / "state", interrupt=True)
    assert (tmp_path / "state").is_dir()
    resumed, epochs = train(tmp_path / "state")
    assert epochs == 2
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(whole, resumed, strict=True))
    assert not list((tmp_path / "state").iterdir())


def test_layers_are_matched_by_path():
    inner = keras.Sequential([keras.Input((32,)), layers.Dense(32, name="deep")], name="inner")
    teacher = keras.Sequential([keras.Input((32,)), layers.Dense(32, name="hidden"), inner, layers.Dense(3)])
    student, _ = replace_dense(teacher, where=["hidden", "deep"], initialize="fresh", progress=False)
    pairs = matching_layers(student, teacher)
    assert [(own.name, type(own).__name__, other.name) for own, other in pairs] == [
        ("hidden", "Butterfly", "hidden"),
        ("deep", "Butterfly", "deep"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": layers.Dense(2)}, "Expected a keras.Model. Received: Dense"),
        ({"teacher": keras.Sequential([keras.Input((32,)), layers.Dense(4)])}, "Expected outputs of the same shapes"),
        ({"x": np.ones((4, 31))}, "Expected the data of the shapes"),
        ({"x": np.full((4, 32), np.nan)}, "Expected finite numbers"),
        ({"y": np.zeros(3)}, r"Expected as many labels as examples, 4. Received: \[\(3,\)\]"),
        ({"y": np.full(4, 0.5)}, "Expected `loss` for these labels"),
        ({"hint": 1.0}, "Expected such butterfly layers. Found none"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"learning_rate": -1}, "`learning_rate` must be a positive number"),
        ({"temperature": 0}, "`temperature` must be a positive number"),
        ({"hint": -1}, "`hint` must be 0 or a positive number"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"student": classifier(), "teacher": classifier(), "x": np.ones((4, 32)), **QUIET, **change}
    with pytest.raises(ValueError, match=message):
        distill(**arguments)
