"""Tests of arguments and inputs that the layers refuse, and of the messages."""

import keras
import numpy as np
import pytest
from catalogue import both, raises

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope


def test_unknown_order():
    with raises("`order` must be one of (None, 'increasing', 'decreasing'). Received: order='up'"):
        Butterfly(4, order="up")


@both
@pytest.mark.parametrize("units", [0, -1, 1.5, "a", True])
def test_units_must_be_a_positive_integer(cls, units):
    with raises(f"`units` must be a positive integer. Received: units={units!r}"):
        cls(units)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: Butterfly(4, stacks=n), "`stacks` must be at most 1,024"),
        (lambda n: Kaleidoscope(4, width=n), "`width` must be at most 1,024"),
        (lambda n: Kaleidoscope(4, expansion=n), "`expansion` must be at most 1,024"),
        (Butterfly, "`units` must be at most 16,777,216"),
        (ButterflyDense, "`units` must be at most 16,777,216"),
        (lambda n: ButterflyDense(4, lora_rank=n), "`lora_rank` must be at most"),
    ],
)
@pytest.mark.parametrize("number", [10**9, 10**30])
def test_absurd_sizes_are_refused_at_once(make, message, number):
    with raises(message):
        make(number)


@pytest.mark.parametrize("stacks", [0, -1, 1.5, None])
def test_stacks_must_be_a_positive_integer(stacks):
    with raises(f"`stacks` must be a positive integer. Received: stacks={stacks!r}"):
        Butterfly(4, stacks=stacks)


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ("last", 'must be "first", "random" or a sequence of node indices. Received: truncation=\'last\''),
        ([0, 1, 0, 2], "must name each node once. Received repeated indices: [0]"),
        ([0, -1, 2, 3], "must be not negative. Received indices out of range: [-1]"),
        ([0, 0.5, 2, 3], "must be a sequence of integer node indices. Received: truncation=[0, 0.5, 2, 3]"),
        (4, "must be a sequence of integer node indices. Received: truncation=4"),
        ([], "must name at least one node"),
    ],
)
def test_bad_truncation_is_refused_at_once(truncation, message):
    with raises(f"`truncation` {message}"):
        Butterfly(4, truncation=truncation)


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ([0, 1, 2, 16], "must be within 0 .. 15. Received indices out of range: [16]"),
        ([0, 1, 2], "must name as many nodes as the narrower side has values, 4. Received: 3 indices"),
    ],
)
def test_truncation_must_fit_the_input(truncation, message):
    with raises(f"`truncation` {message}"):
        Butterfly(4, truncation=truncation)(np.zeros((2, 16), "float32"))


@pytest.mark.parametrize("truncation", ["last", [0, 1], None])
def test_dense_truncation_must_be_a_name(truncation):
    with raises(f'`truncation` must be "random" or "first". Received: truncation={truncation!r}'):
        ButterflyDense(4, truncation=truncation)


@both
@pytest.mark.parametrize("implementation", ["dense", None])
def test_unknown_implementation(cls, implementation):
    with raises(f"`implementation` must be one of ('auto', 'gather', 'fused'). Received: implementation={implementation!r}"):
        cls(4, implementation=implementation)


@both
def test_unknown_initializer(cls):
    argument = "kernel_initializer" if cls is Butterfly else "butterfly_initializer"
    with raises("Expected one of ('glorot', 'fjlt', 'orthogonal', 'identity', 'hadamard')"):
        cls(4, **{argument: "fjtl"})


def test_k1_must_not_exceed_the_input():
    with raises("`k1` must be at most the input's last axis, 8. Received: k1=9"):
        ButterflyDense(4, k1=9)(np.zeros((2, 8), "float32"))


def test_k2_must_not_exceed_units():
    with raises("`k2` must be at most units, 4. Received: k2=5"):
        ButterflyDense(4, k2=5)


@pytest.mark.parametrize("k", ["k1", "k2"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "a", True])
def test_k_must_be_a_positive_integer(k, value):
    with raises(f"`{k}` must be a positive integer. Received: {k}={value!r}"):
        ButterflyDense(4, **{k: value})


@both
@pytest.mark.parametrize("shape", [(), (8,)], ids=["scalar", "rank 1"])
def test_inputs_need_a_batch_axis(cls, shape):
    with raises(f"expected min_ndim=2, found ndim={len(shape)}"):
        cls(4)(np.zeros(shape, "float32"))
    with raises(f"expects an input of at least 2 dimensions, (batch, ..., features). Received: input_shape={shape}"):
        cls(4).build(shape)


@both
def test_the_last_axis_must_be_known(cls):
    with raises("expects the size of the last axis to be known. Received: input_shape=(None, 3, None). Give the size"):
        cls(4)(keras.Input((3, None)))


@both
def test_the_last_axis_must_not_change(cls):
    layer = cls(4)
    layer.build((None, 8))
    with raises("expected axis -1 of input shape to have value 8"):
        layer(np.zeros((2, 7), "float32"))


@both
@pytest.mark.parametrize("attribute", ["kernel", "effective_parameters"])
def test_unbuilt_layers_say_so(cls, attribute):
    with pytest.raises(ValueError, match=r"is not built: .* the size of the input, which is not known yet\. Call it"):
        getattr(cls(4), attribute)


@pytest.mark.parametrize("seed", ["a", 1.5, -1, 2**32, True])
@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_seed_must_be_an_integer_that_numpy_takes(cls, seed):
    with raises(f"`seed` must be None or an integer within 0 .. 2**32 - 1. Received: seed={seed!r}"):
        cls(4, seed=seed)


@pytest.mark.parametrize("seeds", [[1, 2, 3], [1], [], [1, None], 7, "ab"])
def test_truncation_seeds_must_be_a_pair(seeds):
    with raises(f"`truncation_seeds` must be a pair of integers. Received: truncation_seeds={seeds!r}"):
        ButterflyDense(8, truncation_seeds=seeds)


@pytest.mark.parametrize("seed", ["a", 1.5, -1, 2**32, True])
def test_truncation_seeds_must_be_integers_that_numpy_takes(seed):
    with raises(f"`truncation_seed` must be None or an integer within 0 .. 2**32 - 1. Received: truncation_seed={seed!r}"):
        Butterfly(8, truncation_seed=seed)
    with raises("`truncation_seeds` must be None or an integer within 0 .. 2**32 - 1"):
        ButterflyDense(8, truncation_seeds=(1, seed))


def test_weights_of_an_unbuilt_layer_are_a_clear_error():
    with raises("is not built"):
        Butterfly(4).gadget_weights  # noqa: B018


@pytest.mark.parametrize("shape", [None, 4])
def test_build_takes_a_shape(shape):
    with raises("expects an input of at least 2 dimensions"):
        Butterfly(3).build(shape)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Butterfly, {"transposed": "no"}, "`transposed` must be True or False"),
        (Butterfly, {"kernel_initializer": None}, "Expected one of"),
        (ButterflyDense, {"units": 3, "kernel_initializer": None}, "`kernel_initializer` must be an initializer"),
        (ButterflyDense, {"units": 3, "butterfly_initializer": None}, "Expected one of"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_at_once(cls, arguments, message):
    with raises(message):
        cls(**arguments)
