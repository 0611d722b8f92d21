"""Data in the forms that Keras and TFLite users have them, as arrays in the order of a model's inputs."""

import itertools
import re

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import layers

from keras_butterfly.utils.model_inputs import check_data, flat_inputs, pack_inputs
from keras_butterfly.utils.streams import read_examples

A, B = np.zeros((6, 3), "float32"), np.ones((6, 3), "float32")


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


def single():
    return keras.Sequential([keras.Input((3,), name="features"), layers.Dense(2)])


def model_of(structure):
    """A model with the inputs in `structure`, which tells them apart: its output is the first minus twice the second."""
    first, second = sorted(keras.tree.flatten(structure), key=lambda tensor: tensor.name)
    return keras.Model(structure, layers.Subtract()([first, layers.Rescaling(2.0)(second)]))


def listed():
    return model_of([keras.Input((3,), name="a"), keras.Input((3,), name="b")])


def keyed():
    return model_of({"b_small": keras.Input((3,), name="a"), "a_large": keras.Input((3,), name="b")})


def nested():
    return model_of({"pair": [keras.Input((3,), name="a"), keras.Input((3,), name="b")]})


@pytest.mark.parametrize("data", [A, A.tolist(), [A], (A,), {"features": A}], ids=["array", "numbers", "list", "tuple", "dict"])
def test_one_input_takes_an_array_in_any_wrapping(data):
    (found,) = flat_inputs(single(), data)
    np.testing.assert_array_equal(found, A)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (listed, [A, B]),
        (listed, (A, B)),
        (listed, {"a": A, "b": B}),
        (listed, {"b": B, "a": A}),
        (keyed, {"b_small": A, "a_large": B}),
        (keyed, {"a": A, "b": B}),
        (nested, {"pair": [A, B]}),
        (nested, {"a": A, "b": B}),
    ],
)
def test_several_inputs_are_found_by_structure_or_by_name(model, data):
    model = model()
    found = dict(zip([tensor.name for tensor in model.inputs], flat_inputs(model, data), strict=True))
    np.testing.assert_array_equal(found["a"], A)
    np.testing.assert_array_equal(found["b"], B)
    outputs = keras.ops.convert_to_numpy(model(check_data(model, data)))
    np.testing.assert_array_equal(outputs, A - 2 * B)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(pack_inputs(model, flat_inputs(model, data)))), outputs)


def test_a_list_is_refused_where_its_order_would_be_a_guess():
    with raises("Expected the data as a dict with the keys ['a_large', 'b_small']. Received: a list of 2, whose order"):
        flat_inputs(keyed(), [B, A])


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (single, np.zeros((6, 4)), "of the shapes [('examples', 3)]. Received: [(6, 4)]"),
        (single, np.zeros(3), "of the shapes"),
        (single, np.zeros((0, 3)), "Expected at least one example"),
        (single, np.full((2, 3), np.nan), "Expected finite numbers in the data. Received: 6 that are NaN or infinite"),
        (single, np.array([["a", "b", "c"]]), "Expected numbers in the data. Received: <U1"),
        (single, np.zeros((2, 3), complex), "Expected real numbers in the data. Received: complex128"),
        (single, {"other": A}, "Received"),
        (
            single,
            [[1, 2, 3], [1]],
            "in the data. Received: list, whose parts have unequal lengths. Pad them.",
        ),
        (single, 3, "Expected an array in the data. Received: int"),
        (single, "x.npz", "Expected an array in the data. Received: str"),
        (single, single(), "Expected an array in the data. Received: Sequential"),
        (single, object(), "Expected an array in the data. Received: object"),
        (listed, [A], "Expected the data as a list of 2 inputs, or a dict of ['a', 'b']. Received: a list of 1"),
        (listed, A, "Received: a ndarray"),
        (listed, [A, B[:2]], "as many for every input, in the data. Received: {'a': 6, 'b': 2}"),
        (keyed, {"a_large": A}, "with the keys ['a_large', 'b_small']. Received: a dict with the keys ['a_large']"),
    ],
)
def test_data_that_do_not_fit(model, data, message):
    with raises(message):
        flat_inputs(model(), data)


def test_ids_beyond_the_table_name_their_input():
    model = keras.Sequential([keras.Input((4,), dtype="int32", name="words"), layers.Embedding(10, 2)])
    flat_inputs(model, np.full((2, 4), 9))
    with raises("Expected ids within 0 .. 9 for the input 'words'"):
        flat_inputs(model, np.full((2, 4), 10))
    with raises("Received ids from -1 to -1"):
        flat_inputs(model, np.full((2, 4), -1))


def batches(count=3, labels=False):
    for start in range(0, 2 * count, 2):
        x = np.arange(6, dtype="float32").reshape(2, 3) + 6 * start
        yield (x, np.arange(start, start + 2)) if labels else x


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return list(batches(labels=True))[index]


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return np.zeros((2, 3)), np.zeros(2)


class Tensor:
    """A stand-in for a tensor of torch with gradients, which NumPy can convert only after `detach`."""

    def __init__(self, values):
        self.values, self.shape, self.ndim = values, values.shape, values.ndim

    def detach(self):
        return self

    def cpu(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


EXPECTED = np.concatenate(list(batches()))


@pytest.mark.parametrize("stream", [batches, lambda: batches, lambda: [[x] for x in batches()].__iter__(), lambda: Batches()])
def test_streams_are_joined(stream):
    x, _ = read_examples(single(), stream())
    (found,) = flat_inputs(single(), x)
    np.testing.assert_array_equal(found, EXPECTED)


def test_labels_are_kept_apart():
    x, y = read_examples(single(), batches(labels=True))
    np.testing.assert_array_equal(x, EXPECTED)
    np.testing.assert_array_equal(y, np.arange(6))
    assert read_examples(single(), batches())[1] is None


LABELS = np.arange(6)


@pytest.mark.parametrize(
    ("model", "elements", "has_labels"),
    [
        (single, [[A, LABELS]], True),  # as a DataLoader of torch gives them
        (single, [[A]], False),  # as TFLite's representative_dataset does
        (single, [("serving_default", {"features": A})], False),
        (single, [("serving_default", {"name_of_the_signature": A})], False),
        (listed, [(A, B)], False),
        (listed, [[A, B]], False),
        (listed, [((A, B), LABELS)], True),
        (listed, [[{"a": A, "b": B}, LABELS]], True),
        (keyed, [({"a_large": B, "b_small": A}, LABELS)], True),
        (nested, [{"pair": [A, B]}], False),
    ],
)
def test_elements_are_inputs_or_pairs(model, elements, has_labels):
    model = model()
    x, y = read_examples(model, iter(elements))
    for tensor, found in zip(model.inputs, flat_inputs(model, x), strict=True):
        np.testing.assert_array_equal(found, B if tensor.name == "b" else A)
    assert (y is not None) == has_labels


def test_a_dataset_without_end_is_read_as_far_as_needed():
    assert read_examples(single(), Endless(), most=5)[0].shape == (5, 3)


def test_a_generator_that_does_not_end_is_refused(monkeypatch):
    monkeypatch.setattr("keras_butterfly.utils.streams.MAX_EXAMPLES", 10)
    with raises("Limit it: dataset.take(number of batches), or itertools.islice"):
        read_examples(single(), itertools.repeat(np.zeros((2, 3))))


@pytest.mark.parametrize("wrap", [scipy.sparse.csr_matrix, scipy.sparse.csr_array, Tensor])
def test_arrays_of_other_libraries(wrap):
    for data in (wrap(A + 1), iter([wrap(A + 1)])):
        x, _ = read_examples(single(), data)
        np.testing.assert_array_equal(flat_inputs(single(), x)[0], A + 1)


def test_of_an_endless_stream_only_what_is_needed_is_read():
    read = []

    def endless():
        while True:
            read.append(1)
            yield np.zeros((2, 3))

    x, _ = read_examples(single(), endless, most=5)
    assert (len(x), len(read)) == (5, 3)
    read_examples(single(), endless, most=5)  # the function is called anew
    assert len(read) == 6


def test_dict_batches_are_joined_by_key():
    x, y = read_examples(listed(), (({"a": A[:2], "b": B[:2]}, np.zeros(2)) for _ in range(2)))
    assert {name: value.shape for name, value in x.items()} == {"a": (4, 3), "b": (4, 3)}
    assert len(y) == 4


def test_arrays_are_returned_as_they_are():
    assert read_examples(single(), A)[0] is A


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda: iter(()), "Expected at least one example in the dataset. Received none."),
        (lambda: iter([np.float32(1)]), "Received single examples, of the shapes [()]. Call dataset.batch(32)"),
        (lambda: iter([(np.zeros(3), 1)]), "Received single examples, of the shapes [(3,)]. Call dataset.batch(32)"),
        (lambda: lambda: iter([[np.zeros(3)]]), "or give the arrays of a generator a batch axis: array[None]."),
        (lambda: iter([[]]), "Received single examples, of the shapes []"),
        (lambda: iter([None]), "Expected an array in the dataset. Received: NoneType"),
        (lambda: lambda size: batches(), "Received: a function, which needs arguments."),
        (lambda: lambda: None, "Received: a function, which returned a NoneType."),
        (lambda: Endless(), "Expected a dataset that ends. Received an endless one"),
        (lambda: iter([np.zeros((2, 3)), np.zeros((2, 4))]), "Received inputs of the shapes (2, 3), (2, 4). Pad them"),
        (lambda: iter([[[[1, 2, 3], [1]]]]), "whose parts have unequal lengths. Pad them."),
    ],
)
def test_streams_that_hold_no_batches(stream, message):
    with raises(message):
        read_examples(single(), stream())


class OfAUser(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: a.tolist(), lambda a: [a, a], lambda a: {"x": a.tolist()}])
def test_a_model_of_a_users_class_takes_any_structure(wrap):
    found = check_data(OfAUser(), wrap(A + 1))
    for array in keras.tree.flatten(found):
        np.testing.assert_array_equal(array, A + 1)


def test_weights_of_examples_are_not_dropped_in_silence():
    with raises("Received weights of the examples too, which would not be used."):
        read_examples(single(), iter([(A, LABELS, np.ones(6))]))
    assert read_examples(single(), iter([(A, LABELS, np.ones(6))]), most=6)[0].shape == A.shape


def test_streams_of_text():
    words = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=2)
    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, layers.Embedding(4, 2)(words(inputs)))
    for stream in (iter([["a b", "b"], ["a"]]), iter([(["a b", "b"], [0, 1]), (["a"], [0])])):
        x, _ = read_examples(model, stream)
        assert flat_inputs(model, x)[0].tolist() == ["a b", "b", "a"]
