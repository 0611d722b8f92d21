"""The structures that are tried for a layer."""

import keras
import numpy as np
import pytest

from keras_butterfly import replace_dense
from keras_butterfly.compression.dense_map import DenseMap
from keras_butterfly.export.compression.structures import structures_of, three_stages


@pytest.mark.parametrize(("size", "stages"), [(1024, (8, 8, 16)), (64, (4, 4, 4)), (784, (8, 8, 16)), (2048, (8, 16, 16))])
def test_three_stages(size, stages):
    assert three_stages(size) == stages
    assert np.prod(stages) // 2 < size <= np.prod(stages)


@pytest.mark.parametrize(("inputs", "units"), [(64, 128), (70, 10), (3, 5), (1, 1)])
def test_each_structure_makes_a_layer(inputs, units):
    model = keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units, name="layer")])
    found = structures_of(DenseMap.of(model.layers[0]))
    assert len({structure.name for structure in found}) == len(found)
    for structure in found:
        new, report = replace_dense(model, where=["layer"], initialize="fresh", progress=False, **structure.settings)
        assert report.replacements[0].units == units
        assert (structure.family == "low rank") == (report.replacements[0].kind == "LowRank")
        assert new.count_params() > 0


def test_a_layer_of_rank_one_is_not_tried():
    model = keras.Sequential([keras.Input((70,)), keras.layers.Dense(10, name="layer")])
    names = [structure.name for structure in structures_of(DenseMap.of(model.layers[0]))]
    assert names == ["two stages", "low rank 2", "radix 4", "three stages"]
