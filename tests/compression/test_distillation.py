"""Students that learn from a teacher."""

import keras
import numpy as np
import pytest
import scipy.special
from backend import JIT
from keras import layers

from keras_butterfly import distill, replace_dense
from keras_butterfly.compression.distillation import Distiller, are_probabilities, matching_layers

pytestmark = pytest.mark.usefixtures("eager")
QUIET = {"progress": False, "jit_compile": JIT}
SPARSE = keras.losses.SparseCategoricalCrossentropy()


def classifier(seed=0, activation="softmax", dtype=None):
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(32, activation="relu", dtype=dtype, name="hidden")
    return keras.Sequential([keras.Input((32,)), hidden, layers.Dense(5, activation, dtype=dtype, name="class")])


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


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_outputs_in_half_precision_are_compared_in_float32(dtype, rng):
    student, teacher = (classifier(seed, dtype=dtype) for seed in (0, 1))
    x = rng.standard_normal((40, 32)).astype("float32")
    p, q = (np.asarray(values, "float32") for values in arrays(teacher(x), student(x)))
    assert are_probabilities(p) and abs(p.sum(-1) - 1).max() > 5e-4  # by the rounding of each probability
    (loss,) = losses(student, teacher, x)
    assert np.isclose(loss, np.sum(scipy.special.rel_entr(p, q), axis=-1).mean(), rtol=0.01)
    history = distill(student, teacher, x, p.argmax(-1), epochs=1, **QUIET)
    assert np.isfinite(history.history["loss"]).all()


def test_the_teacher_itself_has_no_loss_and_does_not_learn(rng):
    teacher, x = classifier(1), rng.standard_normal((64, 32)).astype("float32")
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    assert abs(losses(student, teacher, x)[0]) < 1e-6
    before = teacher.get_weights()
    other = classifier(2)
    distill(other, teacher, x, epochs=1, **QUIET)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))


@pytest.mark.parametrize(("hint", "labels"), [pytest.param(0.0, True, marks=pytest.mark.long), (0.5, False)])
@pytest.mark.usefixtures("graph")
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
        student, teacher, x, y if labels else None, epochs=15, batch_size=50, learning_rate=6e-3, hint=hint, **QUIET
    )
    assert agreement() > max(0.65, before + 0.2)
    assert history.history["loss"][-1] < 0.75 * history.history["loss"][0]
    assert ("accuracy" in history.history) == labels


class StopBeforeEpoch(keras.callbacks.Callback):
    """Interrupts the training like Ctrl-C."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "optimizer", [None, pytest.param(lambda: keras.optimizers.SGD(0.1, momentum=0.9), marks=pytest.mark.long)]
)
def test_an_interrupted_training_goes_on(optimizer, rng, tmp_path):
    x = rng.standard_normal((200, 32)).astype("float32")
    y = rng.integers(0, 5, 200)

    def train(checkpoint, x=x, y=y, teacher_seed=1, **changes):
        teacher = classifier(teacher_seed)
        student, _ = replace_dense(teacher, where="hidden", initialize="fresh", seed=0, progress=False)
        keras.utils.set_random_seed(3)
        settings = {"epochs": 4, "batch_size": 200, "checkpoint": checkpoint, "class_weight": {0: 3.0}, **QUIET, **changes}
        history = distill(student, teacher, x, y, optimizer=optimizer and optimizer(), **settings)
        return student.get_weights(), len(history.history["loss"])

    whole, epochs = train(None)
    assert epochs == 4
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "state", callbacks=StopBeforeEpoch(2))
    assert (tmp_path / "state").is_dir()
    changes = (
        ({"class_weight": {0: 2.0}}, "class weight"),
        ({"epochs": 3}, r"epochs \(4, now 3\)"),
        ({"x": -x}, "the inputs"),
        ({"y": 4 - y}, "the labels"),
        ({"teacher_seed": 2}, "the teacher's weights"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy(name="another")}, "loss"),
    )
    for change, name in changes if optimizer is None else changes[:1]:
        with pytest.raises(ValueError, match=f"of another training. What differs: {name}"):
            train(tmp_path / "state", **change)
    resumed, epochs = train(tmp_path / "state")
    assert epochs == 2
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(whole, resumed, strict=True))
    assert not list((tmp_path / "state").iterdir())


def test_an_optimizer_of_other_settings_is_another_training(rng, tmp_path):
    x = rng.standard_normal((64, 32)).astype("float32")

    def train(rate, **changes):
        return distill(
            classifier(2),
            classifier(1),
            x,
            epochs=2,
            optimizer=keras.optimizers.SGD(rate),
            checkpoint=tmp_path / "state",
            **QUIET,
            **changes,
        )

    with pytest.raises(KeyboardInterrupt):
        train(0.1, callbacks=StopBeforeEpoch(1))
    with pytest.raises(ValueError, match="What differs: the optimizer's settings"):
        train(0.2)
    assert train(0.1).epoch == [1]


def test_a_refused_training_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="`epochs` must be"):
        distill(classifier(), classifier(), np.ones((4, 32)), epochs=0, checkpoint=tmp_path / "state", **QUIET)
    with pytest.raises(KeyboardInterrupt):
        distill(
            classifier(),
            classifier(),
            np.ones((4, 32)),
            checkpoint=tmp_path / "deep" / "state",
            callbacks=StopBeforeEpoch(0),
            **QUIET,
        )
    assert not list(tmp_path.iterdir())


def test_the_training_uses_the_users_optimizer(rng):
    x, teacher = rng.standard_normal((64, 32)).astype("float32"), classifier(1)
    student = classifier(2)
    before = student.get_weights()
    distill(student, teacher, x, epochs=1, optimizer=keras.optimizers.SGD(0.0), **QUIET)
    assert all(np.array_equal(a, b) for a, b in zip(before, student.get_weights(), strict=True))
    history = distill(student, teacher, x, epochs=1, optimizer="sgd", **QUIET)
    assert isinstance(history.model.optimizer, keras.optimizers.SGD)


def test_callbacks_see_the_training_and_can_stop_it(rng):
    x, seen = rng.standard_normal((64, 32)).astype("float32"), []

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, self.model.student is student, sorted(logs)))
            self.model.stop_training = epoch == 1

    student = classifier(2)
    history = distill(student, classifier(1), x, epochs=5, callbacks=[Stop()], **QUIET)
    assert seen == [(0, True, ["loss"]), (1, True, ["loss"])]
    assert history.epoch == [0, 1]


def test_class_weights_change_the_loss_of_the_labels_alone(rng):
    x, y = rng.standard_normal((64, 32)).astype("float32"), np.zeros(64, int)

    def first_loss(**settings):
        student = classifier(2)
        return distill(student, classifier(1), x, y, epochs=1, batch_size=64, **settings, **QUIET).history["loss"][0]

    plain, labels_alone = first_loss(), first_loss(soft=0.0)
    assert first_loss(soft=0.0, class_weight={0: 3.0}) == pytest.approx(3 * labels_alone, rel=1e-5)
    assert first_loss(class_weight={0: 3.0}) == pytest.approx(plain + 2 * labels_alone, rel=1e-5)


@pytest.mark.usefixtures("graph")
def test_verbose_prints_what_fit_prints(rng, capsys):
    x = rng.standard_normal((64, 32)).astype("float32")
    distill(classifier(2), classifier(1), x, epochs=2, verbose=2)  # compiled by XLA
    out = capsys.readouterr().out
    assert "Epoch 1/2" in out and "loss" in out
    distill(classifier(2), classifier(1), x, epochs=1, **QUIET)
    assert capsys.readouterr().out == ""


def test_layers_are_matched_by_path():
    inner = keras.Sequential([keras.Input((32,)), layers.Dense(32, name="deep")], name="inner")
    teacher = keras.Sequential([keras.Input((32,)), layers.Dense(32, name="hidden"), inner, layers.Dense(3)])
    student, _ = replace_dense(teacher, where=["hidden", "deep"], initialize="fresh", progress=False)
    pairs = matching_layers(student, teacher)
    assert [(new.name, type(new).__name__, old.name) for new, old in pairs] == [
        ("hidden", "Butterfly", "hidden"),
        ("deep", "Butterfly", "deep"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": layers.Dense(2)}, "`student` must be a keras.Model. Received: Dense"),
        ({"teacher": keras.Sequential([keras.Input((32,)), layers.Dense(4)])}, "Expected outputs of the same shapes"),
        ({"x": np.ones((4, 31))}, "Expected the data of the shapes"),
        ({"x": np.full((4, 32), np.nan)}, "Expected finite numbers"),
        (
            {"y": np.zeros(3)},
            r"as many labels as examples, 4, in the labels. Received labels of the shapes \[\(3,\)\]",
        ),
        ({"y": np.full(4, 0.5)}, "Expected `loss` for these labels"),
        ({"hint": 1.0}, "Expected such butterfly layers. Found none"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"learning_rate": -1}, "`learning_rate` must be a positive number"),
        ({"temperature": 0}, "`temperature` must be a positive number"),
        ({"hint": -1}, "`hint` must be 0 or a positive number"),
        ({"optimizer": "sgd", "learning_rate": 0.1}, "Expected `optimizer` or `learning_rate`.* Received both"),
        ({"class_weight": {0: 2.0}}, "Expected labels with `class_weight`"),
        ({"y": [0, 1, 2, 5]}, r"Expected labels within 0 .. 4\. Received labels from 0 to 5"),
        ({"y": np.eye(5)[[0, 1, 2, 3]], "loss": SPARSE}, r"one integer label .* If they are one-hot, give y.argmax\(-1\)"),
        ({"y": np.eye(5)[[0, 1, 2, 3]]}, r"If they are one-hot, give y.argmax\(-1\)"),
        ({"y": np.zeros(4), "loss": SPARSE}, r"Expected integer labels. Received: float64. .* give y.astype\(int\)"),
        ({"y": [0, 1, 2, 3], "loss": "categorical_crossentropy"}, r"of the shape \(4, 5\) .* take \"sparse_categorical"),
        ({"y": np.ones((4, 3)), "loss": "mse"}, r"of the shape \(4, 5\) for the loss mean_squared_error. Received: \(4, 3\)"),
        ({"validation_data": np.ones((4, 32))}, r"Expected `validation_data` as \(x, y\)"),
        ({"validation_data": (np.ones((4, 32)), None)}, r"Expected labels in `validation_data`"),
        ({"validation_data": (np.ones((4, 31)), [0] * 4)}, "Expected `validation_data` of the shapes"),
        ({"validation_data": (np.full((4, 32), np.nan), [0] * 4)}, "Expected finite numbers in `validation_data`"),
        ({"validation_data": (np.ones((4, 32)), [0] * 3)}, "as many labels as examples, 4, in `validation_data`"),
        ({"validation_data": (np.ones((4, 32)), [0, 1, 2, 9])}, r"Expected labels within 0 .. 4"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"student": classifier(), "teacher": classifier(), "x": np.ones((4, 32)), **QUIET, **change}
    with pytest.raises(ValueError, match=message):
        distill(**arguments)


@pytest.mark.parametrize("wrap", [list, lambda y: [np.array(y)], lambda y: np.array(y)[:, None]])
def test_labels_in_any_form(wrap):
    x, y = np.ones((4, 32)), [0, 1, 2, 3]
    history = distill(classifier(1), classifier(), x, wrap(y), epochs=1, validation_data=[x, tuple(y)], **QUIET).history
    assert {"accuracy", "val_accuracy"} <= set(history)


def test_a_label_for_each_position_of_a_sequence():
    models = [keras.Sequential([keras.Input((6, 32)), layers.Dense(5, "softmax")]) for _ in range(2)]
    x = np.ones((4, 6, 32))
    history = distill(*models, x, np.zeros((4, 6), int), loss="sparse_categorical_crossentropy", epochs=1, **QUIET)
    assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(ValueError, match=r"Expected labels within 0 .. 4"):
        distill(*models, x, np.full((4, 6), 5), loss="sparse_categorical_crossentropy", epochs=1, **QUIET)


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_weights_that_are_not_finite_name_their_layer(broken):
    models = {"student": classifier(), "teacher": classifier()}
    models[broken].get_layer("class").bias.assign([np.nan] * 5)
    with pytest.raises(ValueError, match="The layer 'class' has weights that are NaN"):
        distill(**models, x=np.ones((4, 32)), **QUIET)


def two_outputs(seed=0):
    """Return a model whose outputs, "z" of 5 classes and "a" of 3, are not in the order of the alphabet."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32,))
    hidden = keras.layers.Dense(64, "relu", name="hidden")(inputs)
    outputs = [keras.layers.Dense(5, "softmax", name="z")(hidden), keras.layers.Dense(3, "softmax", name="a")(hidden)]
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"z": "sparse_categorical_crossentropy", "a": "sparse_categorical_crossentropy"})
    return model


def test_labels_and_losses_by_name_are_those_of_their_outputs(rng):
    x = rng.standard_normal((64, 32)).astype("float32")
    by_name = {"a": rng.integers(0, 3, 64), "z": rng.integers(0, 5, 64)}
    teacher, histories = two_outputs(1), []
    for labels in (by_name, [by_name["z"], by_name["a"]]):
        student = two_outputs(2)
        keras.utils.set_random_seed(0)
        histories.append(distill(student, teacher, x, labels, epochs=2, validation_data=(x, labels), **QUIET).history)
    assert histories[0] == histories[1]
    with pytest.raises(ValueError, match=r"Expected labels within 0 \.\. 2\. Received labels from 0 to 4"):
        distill(two_outputs(2), teacher, x, {"a": by_name["z"], "z": by_name["z"]}, epochs=1, **QUIET)


def test_labels_of_the_ignored_class_are_taken(rng):
    x, y = rng.standard_normal((64, 32)).astype("float32"), rng.integers(0, 5, 64)
    y[::3] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    history = distill(classifier(2), classifier(1), x, y, loss=loss, epochs=1, **QUIET)
    assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(ValueError, match="Received labels from -2 to 4"):
        distill(classifier(2), classifier(1), x, np.where(y == -1, -2, y), loss=loss, epochs=1, **QUIET)


def test_a_checkpoint_takes_numpy_numbers_and_wrapped_optimizers(rng, tmp_path):
    x = rng.standard_normal((64, 32)).astype("float32")

    def train(**changes):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        folder = tmp_path / "state"
        settings = {"temperature": np.float32(2), "optimizer": optimizer, "checkpoint": folder, "epochs": 2, **QUIET}
        return distill(classifier(2), classifier(1), x, **settings, **changes)

    with pytest.raises(KeyboardInterrupt):
        train(callbacks=StopBeforeEpoch(1))
    assert train().epoch == [1]  # with an optimizer of another default name
