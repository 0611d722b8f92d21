"""Tests of the layer Butterfly: defaults, order of the stages, stacks, and its weights."""

import keras
import numpy as np
import oracles
import pytest
from catalogue import build, close, draw, numpy, raises

from keras_butterfly import Butterfly, ButterflyAutoencoder, ButterflyDense, Kaleidoscope
from keras_butterfly.sketching import ButterflySketch

# (inputs, units) -> (nodes, whether the small strides come first)
DEFAULTS = {
    (784, 1024): (1024, True),
    (1024, 784): (1024, True),
    (64, 1024): (1024, False),
    (256, 1024): (1024, False),
    (784, 256): (1024, True),
    (10, 10): (16, True),
}


@pytest.mark.parametrize(("inputs", "units"), DEFAULTS)
def test_a_default_layer_has_the_first_nodes_a_bias_and_the_order_of_the_sizes(inputs, units):
    layer = Butterfly(units)
    layer.build((None, inputs))
    size, increasing = DEFAULTS[inputs, units]
    assert (layer.wiring.size, layer.wiring.increasing) == (size, increasing)
    assert layer.wiring.inputs == tuple(range(inputs))
    assert layer.wiring.outputs == tuple(range(units))
    assert [(weight.name, tuple(weight.shape)) for weight in layer.weights] == [
        ("gadgets", (1, layer.effective_parameters)),
        ("bias", (units,)),
    ]
    assert not numpy(layer.bias).any()
    backwards = Butterfly(units, transposed=True)
    backwards.build((None, inputs))
    assert not backwards.wiring.increasing


def test_the_papers_structures_have_radix_2_by_default_and_a_butterfly_has_4():
    assert Butterfly().radix == 4
    assert (ButterflyDense(3).radix, ButterflyDense(3).j1.radix) == (2, 2)
    assert {butterfly.radix for butterfly in Kaleidoscope(3).butterflies} == {2}
    assert ButterflySketch(3).butterfly.radix == 2
    autoencoder = ButterflyAutoencoder(2)
    autoencoder.build((None, 16))
    assert autoencoder.butterfly.radix == 2


@pytest.mark.parametrize("size", [3, 16])
def test_transposed_names_the_inputs_where_the_sides_are_equal(size):
    nodes = [size - 1, *range(size - 1)]
    layers = [Butterfly(size, truncation=nodes, transposed=transposed) for transposed in (False, True)]
    for layer in layers:
        layer.build((None, size))
    assert [layer.wiring.outputs for layer in layers] == [tuple(nodes), tuple(range(size))]
    assert [layer.wiring.inputs for layer in layers] == [tuple(range(size)), tuple(nodes)]


def test_units_default_to_the_size_of_the_input():
    layer = Butterfly()
    assert layer(np.zeros((2, 11), "float32")).shape == (2, 11)


def test_stacks_are_summed(rng):
    x = draw(rng, "stacked")
    layer = build("stacked")
    single = build("stacked", stacks=1)
    total = 0
    for weights in keras.ops.convert_to_numpy(layer.gadget_weights):
        single.set_gadget_weights(weights[None])
        total += single(x)
    close(layer(x), total)


def test_a_bias_initializer_of_none_is_zeros():
    layer = Butterfly(4, bias_initializer=None)
    layer.build((None, 8))
    close(layer.bias, np.zeros(4))


def test_weights_are_set_as_used(rng):
    layer = build("stacked")
    weights = rng.standard_normal(layer.gadget_weights.shape)
    layer.set_gadget_weights(weights)
    close(layer.gadget_weights, weights)
    with raises(f"expects weights of shape {weights.shape}. Received: (3,)"):
        layer.set_gadget_weights(np.ones(3))


@pytest.mark.parametrize("order", ["increasing", "decreasing"])
@pytest.mark.parametrize("units", [5, 16, 30])
def test_order_of_the_stages_can_be_chosen(order, units, rng):
    layer = Butterfly(units, order=order, seed=1)
    x = rng.standard_normal((3, 16)).astype("float32")
    y = layer(x)
    assert layer.wiring.increasing == (order == "increasing")
    assert Butterfly.from_config(layer.get_config()).order == order
    close(y, x @ oracles.dense_matrix(layer.wiring, numpy(layer.gadget_weights)[0]))


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_kernel_has_the_variables_dtype_even_of_a_single_node(policy):
    layer = Butterfly(dtype=policy)
    layer.build((None, 1))
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == layer.variable_dtype
    assert layer.gadget_weights.shape == (1, 0)
