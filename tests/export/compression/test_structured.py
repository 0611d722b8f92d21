"""Narrower networks with butterflies or low-rank layers: which are made, how often each is built, and what they cost."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_butterfly.export.compression.structured as structured
from keras_butterfly.export.compression.blueprint import Blueprint
from keras_butterfly.export.compression.memory import Memory
from keras_butterfly.export.compression.structured import BUTTERFLIES, LOW_RANKS, structured_networks

FEW_BUTTERFLIES = BUTTERFLIES._replace(factors=(1 / 2, 1 / 4), choices=(BUTTERFLIES.choices[0], BUTTERFLIES.choices[2]))
FEW_LOW_RANKS = LOW_RANKS._replace(factors=(1 / 2, 1 / 4), choices=LOW_RANKS.choices[:2])
KINDS = pytest.mark.parametrize("kind", [FEW_BUTTERFLIES, FEW_LOW_RANKS], ids=["butterflies", "low rank"])


@pytest.fixture
def task():
    """A search whose exports are the models themselves, and cost a second for each weight."""
    layers = [keras.layers.Dense(units, "relu", name=name) for name, units in (("a", 256), ("b", 256), ("c", 8))]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(3, name="head")])
    exporter = SimpleNamespace(measure=lambda files: {name: (file.count_params(), 1) for name, file in files.items()})
    return SimpleNamespace(
        model=model,
        lesson=SimpleNamespace(x=np.zeros((2, 64), "float32")),
        exporter=exporter,
        export_untrained=lambda model, name: model,
        memory=Memory(None, {}),
        is_over=lambda *stage: False,
        kind_of_costs="costs",
        seed_of_trial=lambda path, structure: 0,
    )


WIDTHS = {"a": 256, "b": 256, "c": 8}


@KINDS
def test_each_network_is_built_once_and_measured_once(kind, task, monkeypatch):
    built, build = [], Blueprint.build

    def counted(blueprint, *arguments):
        built.append(blueprint)
        return build(blueprint, *arguments)

    monkeypatch.setattr(Blueprint, "build", counted)
    costs, weights = structured_networks(task, kind, WIDTHS, {"a", "b"})
    assert len(built) == len(weights) == 4
    assert list(costs) == list(weights) == built
    assert [cost.seconds for cost in costs.values()] == list(weights.values())
    monkeypatch.setattr(task.exporter, "measure", None)  # What is known is not measured again.
    assert structured_networks(task, kind, WIDTHS, {"a", "b"}) == (costs, weights)


def test_a_layer_in_which_a_butterfly_saves_little_stays_dense(task):
    _, weights = structured_networks(task, FEW_BUTTERFLIES, WIDTHS, set(WIDTHS))
    assert weights
    for blueprint in weights:
        assert {path for path, _ in blueprint.structures} == {"a", "b"}
        assert blueprint.narrowing.units.keys() == WIDTHS.keys()


@KINDS
def test_no_network_where_no_layer_can_have_a_structure(kind, task, monkeypatch):
    monkeypatch.setattr(structured, "narrow", None)  # Nothing is built in vain.
    assert structured_networks(task, kind, WIDTHS, set()) == ({}, {})


def test_no_more_networks_are_built_once_the_time_is_over(task):
    exported = []
    task.export_untrained = lambda model, name: exported.append(name) or model
    task.is_over = lambda *stage: len(exported) == 2
    costs, weights = structured_networks(task, FEW_LOW_RANKS, WIDTHS, {"a", "b"})
    assert [blueprint.name for blueprint in costs] == [blueprint.name for blueprint in weights] == exported


def test_the_ranks_are_parts_of_the_narrower_widths(task):
    _, weights = structured_networks(task, FEW_LOW_RANKS, WIDTHS, {"a", "b"})
    assert [blueprint.name for blueprint in weights] == [
        "narrower, 128 and 4 units; low rank 4: a; low rank 8: b",
        "narrower, 128 and 4 units; low rank 8: a; low rank 16: b",
        "narrower, 64 and 2 units; low rank 4: a, b",
        "narrower, 64 and 2 units; low rank 8: a, b",
    ]
    assert {blueprint.family for blueprint in weights} == {"narrower low rank"}


def test_a_network_whose_export_fails_has_no_costs(task):
    def refused(model, name):
        if "two stages" in name:
            raise ValueError("off")
        return model

    task.export_untrained = refused
    costs, weights = structured_networks(task, FEW_BUTTERFLIES, WIDTHS, {"a", "b"})
    assert len(weights) == 4
    assert [blueprint.name for blueprint in costs] == [each.name for each in weights if "radix 4" in each.name]
