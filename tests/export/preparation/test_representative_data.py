"""Tests of the data that an export is calibrated on and compared on."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_butterfly import Butterfly, export
from keras_butterfly.export.preparation.exportable import decisions
from keras_butterfly.export.preparation.representative_data import MAX_BATCHES, representative_batches
from keras_butterfly.export.tflite.parity import compare_outputs
from keras_butterfly.export.tflite.quantize import Precision

INT8, FLOAT32 = Precision("int8"), Precision()


def model():
    return keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3)])


def batches_of(data, precision=INT8, batch=1):
    return representative_batches(model(), data, [tf.TensorSpec((batch, 4), tf.float32, name="x")], precision)


def joined(batches):
    """Return the examples of all batches in one array."""
    return np.concatenate([batch["x"] for batch in batches])


def examples(count):
    return np.arange(4 * count, dtype="float32").reshape(count, 4)


def test_int8_holds_a_quarter_back():
    found = batches_of(examples(100))
    assert (len(found.calibration), len(found.verification)) == (75, 25)
    both = np.concatenate([joined(found.calibration), joined(found.verification)])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0])], examples(100))
    assert found.inputs == "a part of the representative data, held back from calibration"
    assert found.notes == ()


def test_two_batches_are_one_for_each():
    found = batches_of(examples(64), batch=32)
    assert (len(found.calibration), len(found.verification)) == (1, 1)
    assert not np.array_equal(joined(found.calibration), joined(found.verification))


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (examples(31), "The ranges of int8 come from 31 example(s)."),
        (examples(1), "come from 1 example(s)"),
        (np.zeros((100, 4)), "The input 'x' is the same in all examples."),
        (np.full((100, 4), 7.0), "The input 'x' is the same in all examples."),
    ],
)
def test_few_or_constant_data_are_compared_on_random_inputs_too(data, note):
    found = batches_of(data)
    assert note in found.notes[0] and "Give some hundred typical examples" in found.notes[0]
    assert found.inputs.endswith("and random inputs in its range")
    random = joined(found.verification)[-4:]
    low, high = min(data.min(), data.max() - 1), max(data.max(), data.min() + 1)
    assert low <= random.min() and random.max() <= high and random.std() > 0


def test_float_precisions_use_all_data_for_both():
    found = batches_of(examples(8), FLOAT32)
    assert found.calibration is found.verification
    assert (len(found.verification), found.inputs, found.notes) == (8, "the representative data", ())


def test_at_most_so_many_batches_spread_over_all_examples():
    found = batches_of(examples(10 * MAX_BATCHES), FLOAT32)
    values = joined(found.verification)
    assert len(values) == MAX_BATCHES
    assert (values[0, 0], values[-1, 0]) == (0, 4 * (10 * MAX_BATCHES - 1))


def test_of_an_endless_dataset_only_what_is_needed_is_read():
    dataset = tf.data.Dataset.from_tensors((tf.zeros((8, 4)), tf.zeros(8))).repeat()
    assert len(batches_of(dataset, FLOAT32).verification) == MAX_BATCHES


def test_tflites_own_way_of_giving_data_is_taken():
    def representative_dataset():
        for row in examples(40):
            yield [row[None]]

    assert len(batches_of(representative_dataset).calibration) == 30


def classifier():
    """Return a model that has learned three classes, and its training data, whose values are between 0 and 8."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 8, (400, 64)).astype("float32")
    y = (x @ rng.standard_normal((64, 3))).argmax(-1)
    net = keras.Sequential([keras.Input((64,), name="x"), Butterfly(64, "relu"), layers.Dense(3, activation="softmax")])
    net.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    net.fit(x, y, 32, 8, verbose=0)
    return net, x


@pytest.fixture(scope="module")
def trained():
    return classifier()


def test_zeros_as_calibration_data_are_not_reported_as_a_good_export(trained):
    net, _ = trained
    with (
        pytest.warns(UserWarning, match="is the same in all examples"),
        pytest.raises(export.ParityError, match="random inputs"),
    ):
        export.to_tflite(net, quantize="int8", representative_data=np.zeros((4, 64)))


def test_the_rate_of_equal_decisions_is_reported(trained):
    net, x = trained
    exported = export.to_tflite(net, quantize="int8", representative_data=x[:200])
    (output,) = exported.parity.outputs
    assert exported.parity.examples == 50 and output.name == "output_0"
    held = [batch["x"] for batch in representative_batches(net, x[:200], [tf.TensorSpec((1, 64), name="x")], INT8).verification]
    keras_says, file_says = (
        run(np.concatenate(held)).argmax(-1) for run in (lambda v: net.predict(v, verbose=0), exported.predict)
    )
    assert output.agreement == np.mean(keras_says == file_says) == exported.parity.agreement
    assert "equal decisions" in str(exported)


def test_outputs_that_are_no_classes_have_no_agreement():
    exported = export.to_tflite(model())
    assert exported.parity.agreement is None
    assert exported.to_dict()["parity"]["outputs"][0]["agreement"] is None


def test_random_ids_are_below_the_size_of_every_table():
    table = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(1, 8), layers.Flatten(), layers.Dense(2)])
    assert export.to_tflite(table).parity.relative_error < 1e-5


@pytest.mark.parametrize(
    ("units", "activation", "loss", "decides"),
    [
        (3, None, "sparse_categorical_crossentropy", True),
        (3, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True), True),
        (3, None, [keras.losses.CategoricalCrossentropy(from_logits=True)], True),
        (3, None, {"scores": keras.losses.CategoricalCrossentropy(from_logits=True)}, True),
        (1, "sigmoid", "binary_crossentropy", True),
        (1, "sigmoid", None, True),
        (1, None, keras.losses.BinaryCrossentropy(from_logits=True), True),
        (1, "sigmoid", "mse", False),
        (3, None, "mse", False),
        (3, None, "a_loss_of_the_users", False),
        (1, None, None, False),
    ],
)
def test_outputs_of_classes_decide(units, activation, loss, decides):
    net = keras.Sequential([keras.Input((4,)), layers.Dense(units, activation, name="scores")])
    if loss is not None:
        net.compile("adam", loss)
    (decision,) = decisions(net, ["output_0"])
    assert (decision is not None) == decides


@pytest.mark.parametrize(("loss", "decides"), [("sparse_categorical_crossentropy", True), ("mse", False)])
def test_outputs_of_classes_have_an_agreement(loss, decides):
    net = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16")])
    net.compile("adam", loss)
    exported = export.to_tflite(net, representative_data=examples(40) - 80)
    for parity in (exported.parity, exported.original_parity):
        assert (parity.agreement is not None) == decides


def test_each_output_has_its_own_agreement():
    inputs = keras.Input((4,))
    outputs = {"kind": layers.Dense(3, name="kind")(inputs), "size": layers.Dense(1, name="size")(inputs)}
    net = keras.Model(inputs, outputs)
    net.compile("adam", {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"})
    kind, size = export.to_tflite(net).parity.outputs
    assert (kind.agreement, size.agreement) == (1.0, None)


@pytest.mark.parametrize(("decision", "agreement"), [("half", 0.75), ("positive", 0.5), (None, None)])
def test_binary_decisions(decision, agreement):
    expected, actual = np.array([[0.4], [0.6], [0.2], [-0.3]]), np.array([[0.3], [0.4], [-0.1], [0.2]])
    assert compare_outputs([expected], [actual], decisions=[decision]).agreement == agreement
