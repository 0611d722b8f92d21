"""The families of models among which the search chooses."""

import math

import pytest

from keras_butterfly.export.compression.blueprint import Blueprint
from keras_butterfly.export.compression.costs import Cost
from keras_butterfly.export.compression.families import Tried, of_blueprints, of_structures, of_widths
from keras_butterfly.export.compression.narrower import by_multiplier, by_widths
from keras_butterfly.export.compression.narrowing import StrongestUnits
from keras_butterfly.export.compression.structures import DENSE, Structure
from keras_butterfly.export.compression.targets import Targets

THIN, BUTTERFLY = Structure("low rank 2", "low rank"), Structure("radix 4", "butterfly")
TRIED = {
    "a": [Tried(DENSE, Cost(10e-6, 1000), 0.0), Tried(THIN, Cost(1e-6, 100), 0.5), Tried(BUTTERFLY, Cost(2e-6, 90), 0.1)],
    "b": [Tried(DENSE, Cost(20e-6, 2000), 0.0), Tried(THIN, Cost(2e-6, 300), 0.2)],
}


def test_the_best_mixes_by_rising_load():
    found = of_structures(TRIED, Cost(1e-6, 500), Targets(latency=10e-6), ("low rank", "butterfly"))
    assert [entry.blueprint.name for entry in found] == [
        "low rank 2: a, b",
        "radix 4: a; low rank 2: b",
        "low rank 2: b",
        "radix 4: a",
    ]
    assert found[1].cost == pytest.approx((5e-6, 890))
    assert found[1].load == pytest.approx(0.5)
    assert found[1].harm == pytest.approx(0.3)
    assert [entry.harm for entry in found] == sorted((entry.harm for entry in found), reverse=True)


def test_families_and_costs_that_count():
    only = of_structures(TRIED, Cost(0, 0), Targets(size=100), ("butterfly",))
    assert [entry.blueprint.layers for entry in only] == [{"a": "radix 4"}]
    assert only[0].load == pytest.approx(20.9)
    assert of_structures({}, Cost(1, 1), Targets(size=100), ("butterfly",)) == []


def test_narrower_networks_cost_what_the_measured_ones_next_to_them_do():
    anchors = {1.0: Cost(16e-6, 16000), 0.5: Cost(4e-6, 4000), 0.25: Cost(1e-6, 1000)}
    found = of_widths(by_widths({"a": 256, "b": 128}), anchors, Targets(size=4000))
    assert [entry.load for entry in found] == sorted(entry.load for entry in found)
    half = next(entry for entry in found if entry.blueprint.narrowing.units == {"a": 128, "b": 64})
    assert half.cost == pytest.approx(anchors[0.5])
    assert half.blueprint.name == "narrower, 128 and 64 units"
    between = [entry for entry in found if 0.25 < entry.load < 1]
    assert between
    for entry in between:  # the costs above are the squares of the factors
        assert math.sqrt(entry.load) / 2 == pytest.approx(1 / entry.harm)
    arguments = {"a": {"units": 256}, "b": {"key_dim": 128}}
    multiplied = of_widths(by_multiplier(arguments), anchors, Targets(size=4000))
    assert [entry.cost for entry in multiplied] == [entry.cost for entry in found]
    half = next(entry for entry in multiplied if entry.blueprint.narrowing.multiplier == 0.5)
    assert half.blueprint.name == "all layers narrower, width multiplier 0.5"
    assert half.blueprint.layers == {"a": "units 128", "b": "key_dim 64"}
    assert half.blueprint.family == "narrower"
    assert of_widths(by_widths({"a": 1}), {1.0: Cost(1, 1)}, Targets(size=1)) == []


def test_of_networks_that_cost_the_same_the_one_with_more_weights_is_taken():
    narrow, few, many = (Blueprint((("a", BUTTERFLY),), StrongestUnits((("a", width),))) for width in (32, 64, 65))
    costs = {many: Cost(3e-6, 400), few: Cost(3e-6, 400), narrow: Cost(1e-6, 100)}
    found = of_blueprints(costs, {narrow: 10, few: 20, many: 30}, Targets(size=400))
    assert [(entry.blueprint, entry.load) for entry in found] == [(narrow, 0.25), (many, 1.0)]
