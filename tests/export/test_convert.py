"""Tests of whole models in TFLite: equal to Keras, built-in operators only, and clear messages for other models."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export.tflite.operators import check_builtin
from keras_butterfly.export.tflite.parity import compare_outputs


def sequential(*parts, features=16):
    return keras.Sequential([keras.Input((features,)), *parts])


def sequence_model():
    inputs = keras.Input((9,), dtype="int32")
    x = layers.Embedding(5, 12)(inputs)
    x = layers.Bidirectional(layers.LSTM(8))(Butterfly(16)(x))
    return keras.Model(inputs, ButterflyDense(3)(x))


def two_inputs_two_outputs():
    left, right = keras.Input((16,), name="left"), keras.Input((24,), name="right")
    total = layers.Add()([Butterfly(32)(left), Butterfly(32)(right)])
    return keras.Model({"right": right, "left": left}, {"total": total, "alone": Butterfly(40)(right)})


def nested_and_shared():
    shared = Butterfly(activation="relu", stacks=2)
    block = sequential(Butterfly(), layers.BatchNormalization(), layers.Dropout(0.5))
    inputs = keras.Input((16,))
    return keras.Model(inputs, block(shared(shared(inputs))))


MODELS = {
    "sequential": lambda: sequential(Butterfly(32, activation="relu"), ButterflyDense(4, activation="softmax")),
    "sequence": sequence_model,
    "two inputs, two outputs": two_inputs_two_outputs,
    "nested and shared": nested_and_shared,
    "no butterfly": lambda: sequential(layers.Dense(3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "lowering", ["auto", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gather", "fused", "folded", "dense"))]
)
def test_export_agrees_with_keras_and_is_built_in(name, lowering):
    exported = export.to_tflite(MODELS[name](), lowering=lowering)
    assert exported.parity.relative_error <= 1e-5
    assert not [operator for operator in exported.operators if operator.startswith(("CUSTOM", "Flex"))]
    assert exported.size_bytes == len(exported.content)


def test_predict_gives_what_keras_predicts_for_any_number_of_examples(rng):
    model = sequential(Butterfly(32), ButterflyDense(4))
    exported = export.to_tflite(model, batch_size=4)
    x = rng.standard_normal((10, 16)).astype("float32")  # Two full batches and half a batch.
    np.testing.assert_allclose(exported.predict(x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_predict_takes_inputs_by_order_or_name_and_gives_outputs_in_order(rng):
    model = two_inputs_two_outputs()
    exported = export.to_tflite(model)
    assert exported.input_names == ("left", "right")
    assert exported.output_names == ("alone", "total")
    x = {"left": rng.standard_normal((3, 16)).astype("float32"), "right": rng.standard_normal((3, 24)).astype("float32")}
    expected = model.predict(x, verbose=0)
    for given in (x, [x["left"], x["right"]]):
        alone, total = exported.predict(given)
        np.testing.assert_allclose(alone, expected["alone"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(total, expected["total"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("structure", "forms"),
    [
        (lambda a, b: {"b_small": a, "a_large": b}, [lambda a, b: {"b_small": a, "a_large": b}, lambda a, b: {"a": a, "b": b}]),
        (lambda a, b: {"pair": [a, b]}, [lambda a, b: {"pair": [a, b]}, lambda a, b: {"pair": (a, b)}]),
        (lambda a, b: [[a, b]], [lambda a, b: [[a, b]], lambda a, b: [a, b]]),
    ],
)
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_predict_takes_what_keras_takes(structure, forms, rng):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    exported = export.to_tflite(keras.Model(structure(a, b), layers.Subtract()([a, b])), effort="estimate")
    x = [rng.standard_normal((3, 8)).astype("float32") for _ in range(2)]
    for form in forms:
        np.testing.assert_allclose(exported.predict(form(*x)), x[0] - x[1], rtol=1e-6)
    with pytest.raises(ValueError, match="Expected the inputs as a"):
        exported.predict({"c": x[0], "d": x[1]})


def test_predict_takes_the_name_that_keras_gave_to_an_input(rng):
    model, x = sequential(layers.Dense(3)), rng.standard_normal((3, 16)).astype("float32")
    exported = export.to_tflite(model, effort="estimate")
    assert exported.input_names == ("input_0",)
    np.testing.assert_array_equal(exported.predict({model.inputs[0].name: x}), exported.predict(x))


def test_predict_refuses_what_does_not_fit():
    exported = export.to_tflite(sequential(Butterfly()))
    with pytest.raises(ValueError, match="at least one example"):
        exported.predict(np.zeros((0, 16)))
    with pytest.raises(ValueError, match=r"to have the shape \(1, 16\). Received: \(1, 15\)"):
        exported.predict(np.zeros((1, 15)))
    with pytest.raises(ValueError, match="Expected 1 inputs"):
        exported.predict([np.zeros((1, 16))] * 2)
    with pytest.raises(ValueError, match="Expected the inputs"):
        exported.predict({"other": np.zeros((1, 16))})


@pytest.mark.usefixtures("measured")
def test_auto_keeps_the_fastest_of_what_it_measured():
    (plan,) = export.to_tflite(sequential(Butterfly(), features=256)).plan
    assert len(plan.candidates) > 2
    assert plan.lowering == min(plan.candidates, key=lambda candidate: candidate.measured.cost).lowering
    assert plan.input_shape == (1, 256)


@pytest.mark.long
@pytest.mark.usefixtures("measured")
def test_auto_measures_equal_layers_once():
    exported = export.to_tflite(sequential(Butterfly(), Butterfly(), features=32))
    first, second = exported.plan
    assert first.candidates is second.candidates


@pytest.fixture(scope="module")
def small_export():
    """The export of a single Dense layer."""
    return export.to_tflite(sequential(layers.Dense(2)))


def test_the_result_is_frozen(small_export):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_export.content = b""


def test_training_only_layers_are_off_and_weights_are_those_of_now(rng):
    model = sequential(Butterfly(radix=2), layers.Dropout(0.9))
    x = rng.standard_normal((2, 16)).astype("float32")
    before = export.to_tflite(model).predict(x)
    model.layers[0].gadgets.assign(model.layers[0].gadgets * 2.0)
    after = export.to_tflite(model).predict(x)
    np.testing.assert_allclose(after, before * 2**4, rtol=1e-5)


def test_save_writes_the_bytes_and_never_overwrites_unasked(small_export, tmp_path):
    exported = small_export
    path = exported.save(tmp_path / "model.tflite")
    assert path.read_bytes() == exported.content
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists"):
        exported.save(path)
    assert path.read_bytes() == b"mine"
    exported.save(path, overwrite=True)
    assert path.read_bytes() == exported.content
    with pytest.raises(ValueError, match="existing folder"):
        exported.save(tmp_path / "missing" / "model.tflite")
    with pytest.raises(ValueError, match="Received a folder"):
        exported.save(tmp_path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.tflite"]


def test_operators_that_tflite_has_not_built_in_are_named():
    custom = sequential(layers.Lambda(keras.ops.erfinv))
    with pytest.raises(ValueError, match="There is none for: Erfinv"):
        export.to_tflite(custom)


def test_a_model_with_a_custom_operator_is_refused_by_name():
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(sequential(layers.Lambda(keras.ops.erfinv)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.allow_custom_ops = True
    with pytest.raises(ValueError, match="CUSTOM Erfinv"):
        check_builtin(converter.convert())


def test_disagreement_beyond_the_tolerance_is_an_error(monkeypatch):
    model = sequential(Butterfly(), features=64)
    with pytest.raises(export.ParityError, match="are off from Keras by more than 1e-12"):
        export.to_tflite(model, lowering="folded", tolerance=1e-12)

    def wrong(layer, lowering):
        return lambda x: layer.affine(x) * 1.001

    monkeypatch.setattr("keras_butterfly.export.convert.lower", wrong)
    with pytest.raises(export.ParityError, match=r"relative error 0\.001"):
        export.to_tflite(model, lowering="dense")


def test_not_a_number_on_one_side_only_is_an_infinite_error():
    parity = compare_outputs([np.array([1.0, 2.0])], [np.array([1.0, np.nan])])
    assert parity.max_error == np.inf
    assert compare_outputs([np.array([np.nan, np.inf])], [np.array([np.nan, np.inf])]).max_error == 0


class OneInput(keras.Model):
    def __init__(self):
        super().__init__()
        self.butterfly = Butterfly(20)

    def call(self, x, training=False):
        return self.butterfly(x)


class TwoInputs(OneInput):
    def call(self, x, y=None):
        return self.butterfly(x if y is None else x + y)


def test_a_subclassed_model_of_one_input_is_exported():
    model = OneInput()
    x = np.random.default_rng(0).standard_normal((3, 8)).astype("float32")
    expected = model(x).numpy()
    exported = export.to_tflite(model, batch_size=3)
    np.testing.assert_allclose(exported.predict(x), expected, rtol=1e-5, atol=1e-6)


def test_a_subclassed_model_of_several_inputs_is_exported_once_wrapped():
    model = TwoInputs()
    model(np.zeros((1, 8), "float32"), np.zeros((1, 8), "float32"))
    with pytest.raises(ValueError, match=r"Wrap it: keras\.Model\(inputs, model\(inputs\)\)"):
        export.to_tflite(model)
    inputs = [keras.Input((8,)), keras.Input((8,))]
    assert export.to_tflite(keras.Model(inputs, model(*inputs))).plan[0].layer.endswith(model.butterfly.name)


def unknown_length():
    inputs = keras.Input((None, 8))
    return keras.Model(inputs, Butterfly()(inputs))


def recurrent(steps, **settings):
    inputs = keras.Input(batch_shape=(1 if settings else None, steps, 8))
    return keras.Model(inputs, Butterfly(4)(layers.LSTM(8, name="lstm", **settings)(inputs)))


@pytest.mark.parametrize("quantize", [None, pytest.param("dynamic", marks=pytest.mark.long), "int8"])
def test_recurrent_layers_with_an_open_batch(quantize, rng):
    model, x = recurrent(5), rng.standard_normal((64, 5, 8)).astype("float32")
    settings = {"quantize": quantize, "batch_size": None, "effort": "estimate"}
    # In int8 the error of a recurrent layer depends much on its random weights.
    exported = export.to_tflite(model, representative_data=x, tolerance=1.0 if quantize == "int8" else None, **settings)
    assert exported.predict(x).shape == (64, 4)


class Twice(layers.Layer):
    """A layer of a class that is not registered."""

    def call(self, x):
        return 2 * x


class Broken(Twice):
    @classmethod
    def from_config(cls, config):
        raise TypeError("no config fits")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda policy: layers.Lambda(lambda x: 2 * x, dtype=policy), "Keras copies no Lambda layers, such as 'lambda.*'"),
        (lambda policy: Broken(dtype=policy), "no config fits"),
    ],
)
def test_layers_that_cannot_be_copied_to_float32_give_one_line(layer, reason):
    with pytest.raises(ValueError, match=f"and the copy failed: .*({reason})") as caught:
        export.to_tflite(sequential(layers.Dense(4, dtype="mixed_float16"), layer("mixed_float16")))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_layers_of_classes_that_are_not_registered_are_copied_to_float32():
    exported = export.to_tflite(sequential(layers.Dense(4, dtype="mixed_float16"), Twice(dtype="mixed_float16")))
    assert exported.original_parity.relative_error < 0.01


@pytest.mark.parametrize(
    ("weights", "dense", "quantize", "advice"),
    [
        (3 * 2**28, 0, None, 'Give quantize="float16".'),
        (2**31, 2**31 - 5, None, "Make it smaller with replace_dense."),
        (2**31, 0, "int8", "Divide it into several models."),
    ],
)
def test_a_model_beyond_2_gib_is_told_what_helps(weights, dense, quantize, advice, monkeypatch):
    model = sequential(layers.Dense(4, name="wide"))
    counts = {id(model): weights, id(model.layers[0]): dense}
    monkeypatch.setattr(keras.layers.Layer, "count_params", lambda layer: counts[id(layer)])
    with pytest.raises(ValueError, match=f"stays below 2 GiB. .* {advice}"):
        export.to_tflite(model, quantize=quantize, representative_data=np.zeros((4, 16)))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (lambda: "model.keras", {}, r"must be a keras\.Model. Received: str"),
        (lambda: Butterfly(3), {}, r"must be a keras\.Model. Received: Butterfly"),
        (lambda: keras.Sequential([Butterfly(3)]), {}, "is not built"),
        (unknown_length, {}, r"known shape but for the batch. Received: \(None, None, 8\).* Or call model.export"),
        (
            lambda: recurrent(None),
            {},
            r"one length: keras.Input\(\(steps, features\)\), and pad or cut them. The weights fit",
        ),
        (lambda: recurrent(5, stateful=True), {}, r"without a state between calls, .* stateful ones: \['lstm'\]"),
        (lambda: sequential(Butterfly()), {"lowering": "fastest"}, "`lowering` must be one of"),
        (lambda: sequential(Butterfly()), {"batch_size": 0}, "`batch_size` must be a positive integer"),
        (lambda: sequential(Butterfly()), {"tolerance": -1}, "`tolerance` must be a positive number"),
    ],
)
def test_bad_input_is_a_clear_error(model, settings, message):
    with pytest.raises(ValueError, match=message):
        export.to_tflite(model(), **settings)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("input-ids", "attention-mask"), ("input-ids", "attention-mask")),
        (("a.b", "c d"), ("a_b", "c_d")),
        (("a-b", "a_b"), ("a-b", "a_b_")),
        (("in", "self"), ("input_in", "input_self")),
        (("class", "class_"), ("input_class", "class_")),
        (("1st", "2nd"), ("input_1st", "input_2nd")),
        (("größe", "gr__e"), ("gr__e", "gr__e_")),
        ((None, None), ("input_0", "input_1")),
    ],
)
def test_input_names_are_kept_where_a_signature_can_hold_them(names, expected, rng):
    first, second = (keras.Input((8,), name=name) for name in names)
    model = keras.Model([first, second], layers.Subtract()([first, second]))
    x = [rng.standard_normal((1, 8)).astype("float32") for _ in range(2)]
    by_name = dict(zip([tensor.name for tensor in model.inputs], x, strict=True))
    exported = export.to_tflite(model, representative_data=by_name)
    assert exported.input_names == expected
    np.testing.assert_allclose(exported.predict(x), x[0] - x[1], rtol=1e-6)
    np.testing.assert_allclose(exported.predict(dict(zip(expected, x, strict=True))), x[0] - x[1], rtol=1e-6)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", *(pytest.param(name, marks=pytest.mark.long) for name in ("mixed_bfloat16", "float64"))]
)
def test_models_of_other_precisions_are_exported_in_float32(policy, rng):
    model = keras.Sequential(
        [keras.Input((20,), name="x"), Butterfly(16, "relu", dtype=policy), ButterflyDense(8, k1=4, k2=4, dtype=policy)]
    )
    exported = export.to_tflite(model)
    x = rng.standard_normal((5, 20)).astype("float32")
    expected = np.asarray(model.predict(x, verbose=0), "float32")
    assert np.abs(exported.predict(x) - expected).max() < 0.05 * np.abs(expected).max()
    assert model.layers[0].dtype_policy.name == policy  # The model itself is not changed.
    assert exported.original_parity.relative_error < 0.05


def test_bool_inputs_take_data(rng):
    mask = keras.Input((8,), dtype="bool", name="mask")
    model = keras.Model(mask, layers.Dense(2)(layers.Lambda(lambda m: keras.ops.cast(m, "float32"))(mask)))
    x = rng.integers(0, 2, (40, 8)).astype(bool)
    exported = export.to_tflite(model, representative_data=x)
    np.testing.assert_allclose(exported.predict(x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_text_is_refused_in_words():
    text = keras.Input((1,), dtype="string", name="review")
    model = keras.Model(text, layers.StringLookup(vocabulary=["good", "bad"])(text))
    with pytest.raises(ValueError, match=r"Expected inputs of numbers\. The input 'review' is text"):
        export.to_tflite(model)


def test_files_beyond_two_gib_are_refused_from_the_count(monkeypatch):
    model = sequential(layers.Dense(2))
    monkeypatch.setattr(type(model), "count_params", lambda self: 600_000_000)
    with pytest.raises(ValueError, match=r"stays below 2 GiB\..* 600,000,000 weights, 2\.2 GiB in this precision"):
        export.to_tflite(model)


def test_a_dict_model_refuses_a_list_whose_order_would_be_a_guess(rng):
    first, second = keras.Input((16,), name="b_small"), keras.Input((16,), name="a_large")
    difference = layers.Subtract()([first, layers.Rescaling(10.0)(second)])
    model = keras.Model({"b_small": first, "a_large": second}, layers.Dense(3)(difference))
    data = {"a_large": 100 * rng.standard_normal((64, 16)), "b_small": rng.standard_normal((64, 16))}
    with pytest.raises(ValueError, match="whose order would be a guess"):
        export.to_tflite(model, quantize="int8", representative_data=[data["b_small"], data["a_large"]])
    exported = export.to_tflite(model, quantize="int8", representative_data=data)
    expected = model.predict(data, verbose=0)
    assert np.abs(exported.predict(data) - expected).max() < 0.1 * np.abs(expected).max()


def test_nested_outputs_are_numbered(rng):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, {"q": [Butterfly()(inputs), Butterfly(3)(inputs)], "p": Butterfly(5)(inputs)})
    exported = export.to_tflite(model)
    x = rng.standard_normal((2, 8)).astype("float32")
    for found, expected in zip(exported.predict(x), keras.tree.flatten(model.predict(x, verbose=0)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_gives_nan_proves_nothing():
    model = sequential(Butterfly())
    model.layers[0].gadgets.assign(model.layers[0].gadgets * np.nan)
    with pytest.raises(ValueError, match=f"The layer '{model.layers[0].name}' has weights that are NaN or infinite"):
        export.to_tflite(model)
    infinite = sequential(layers.Lambda(lambda x: x / 0.0))
    with pytest.raises(export.ParityError, match=r"Keras itself gives values that are not finite in \['output_0'\]"):
        export.to_tflite(infinite)


def test_the_representation_leaves_the_bytes_out(small_export):
    assert len(repr(small_export)) < 1000


def test_a_path_is_a_path(small_export):
    for path in (None, 3, b"x", ""):
        with pytest.raises(ValueError, match="Expected a path"):
            small_export.save(path)


def test_the_error_of_each_output_is_relative_to_that_output():
    large, small = np.array([[1e6, 1.0]]), np.array([[1.0, 2.0]])
    assert compare_outputs([large, small], [large, np.zeros_like(small)]).relative_error == 1.0


def test_layers_of_integers_are_no_matter_of_precision():
    inputs = keras.Input((9,), dtype="int32")
    halved = layers.Lambda(lambda x: x // 2, dtype="int32")(inputs)
    exported = export.to_tflite(keras.Model(inputs, layers.Embedding(5, 4)(halved)))
    assert exported.parity.relative_error <= 1e-6


def test_the_first_wrong_layer_is_named_though_it_is_right_on_most_examples():
    """Only one example is beyond the range that calibration saw, and it is in the last batch."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (64, 16)).astype("float32")
    x[63] *= 100  # Every fourth batch is held back, the last one too.
    model = sequential(layers.Dense(16, "relu", name="first"), layers.Dense(3, name="second"))
    with pytest.raises(export.ParityError, match="The first layer to go wrong is 'first', off by"):
        export.to_tflite(model, quantize="int8", representative_data=x)


def test_the_layer_of_an_output_is_named():
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype("float32")
    x[63] *= 100
    model = OneInput()
    model(x)
    with pytest.raises(export.ParityError, match=f"The first layer to go wrong is '{model.name}', off by 0.9"):
        export.to_tflite(model, quantize="int8", representative_data=x)


def test_a_model_inside_a_model_is_named_as_a_layer():
    """The outputs of the inner model belong to its own graph, not to that of the outer one."""
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype("float32")
    x[63] *= 100
    inner_inputs, inputs = keras.Input((8,), name="x"), keras.Input((8,), name="x")
    inner = keras.Model(inner_inputs, layers.Dense(8, name="inside")(inner_inputs), name="inner")
    with pytest.raises(export.ParityError, match="The first layer to go wrong is 'inner', off by"):
        export.to_tflite(keras.Model(inputs, inner(inputs)), quantize="int8", representative_data=x)


def test_a_refusal_says_why_it_names_no_layer():
    """The only layer is called twice, so it has no single output."""
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype("float32")
    x[63] *= 100
    inputs, layer = keras.Input((8,)), layers.Dense(8)
    with pytest.raises(export.ParityError, match="No layer can be named: the converter merged those that go wrong, or"):
        export.to_tflite(keras.Model(inputs, layer(layer(inputs))), quantize="int8", representative_data=x)
