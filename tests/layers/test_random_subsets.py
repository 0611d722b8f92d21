"""Tests of random truncation: which nodes are kept, and which seeds decide."""

import keras
import numpy as np
import pytest
from catalogue import butterflies

from keras_butterfly import Butterfly, ButterflyDense


def wirings(cls, inputs=64, units=20, **arguments):
    """Return the wirings of a new layer with random subsets."""
    layer = cls(units, truncation="random", **arguments)
    restored = cls.from_config(layer.get_config())
    for built in (layer, restored):
        built.build((None, inputs))
    assert [part.wiring for part in butterflies(restored)] == [part.wiring for part in butterflies(layer)]
    return [part.wiring for part in butterflies(layer)]


@pytest.mark.parametrize(("inputs", "units"), [(64, 20), (20, 64), (50, 13)])
@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense])
def test_a_random_subset_is_the_same_in_every_layer_of_the_same_sizes_unless_a_seed_asks_for_another(cls, inputs, units):
    default = wirings(cls, inputs, units)
    keras.utils.set_random_seed(7)
    assert wirings(cls, inputs, units) == default
    for seed in (1, 2**32 - 1):
        assert all(seeded != unseeded for seeded, unseeded in zip(wirings(cls, inputs, units, seed=seed), default, strict=True))
        assert wirings(cls, inputs, units, seed=seed) == wirings(cls, inputs, units, seed=seed)


def test_the_butterflies_of_dense_draw_their_subsets_apart():
    """The sizes of J1 and J2^T mirror each other. With equal draws J2^T would have the transposed wiring of J1."""
    for arguments in ({}, {"seed": 4}, {"truncation_seeds": (5, 6)}):
        first, second = wirings(ButterflyDense, 64, 64, **arguments)
        assert first.outputs != second.inputs


def test_subsets_that_no_seed_asks_for_leave_the_config_without_one():
    config = Butterfly(5, truncation="random").get_config()
    assert (config["seed"], config["truncation_seed"]) == (None, None)
    config = ButterflyDense(5).get_config()
    assert (config["seed"], config["truncation_seeds"]) == (None, None)
    seeded = Butterfly(5, truncation="random", seed=3).get_config()
    assert (seeded["seed"], seeded["truncation_seed"]) == (3, None)
    assert ButterflyDense(5, truncation_seeds=(3, 4)).get_config()["truncation_seeds"] == [3, 4]


def test_truncation_seed_alone_fixes_the_subset():
    """`truncation_seed` takes precedence over `seed`, which then fixes only the weights."""
    kept = wirings(Butterfly, truncation_seed=1)
    assert kept == wirings(Butterfly, truncation_seed=1, seed=2) == wirings(Butterfly, seed=1) != wirings(Butterfly, seed=2)
    assert wirings(Butterfly, truncation_seed=0, seed=2) == wirings(Butterfly)
    first, second = (Butterfly(5, truncation="random", truncation_seed=1) for _ in range(2))
    first.build((None, 16))
    second.build((None, 16))
    assert not np.array_equal(first.gadgets, second.gadgets)


def test_truncation_seeds_of_dense_count_before_its_seed():
    kept = wirings(ButterflyDense, truncation_seeds=(3, 9))
    assert kept == wirings(ButterflyDense, truncation_seeds=[3, 9], seed=1)
    assert kept[0] == wirings(ButterflyDense, truncation_seeds=(3, 8))[0]
    assert kept[1] == wirings(ButterflyDense, truncation_seeds=(4, 9))[1]


def test_the_largest_seed_is_taken():
    layer = ButterflyDense(8, seed=2**32 - 1)
    layer.build((None, 8))
    assert layer.j2_t.seed == 0
