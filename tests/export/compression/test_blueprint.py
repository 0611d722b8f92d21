"""How a compressed model is made of the original."""

from functools import partial

import keras
import numpy as np
import pytest

from keras_butterfly.export.compression.blueprint import KIND_OF, Blueprint
from keras_butterfly.export.compression.harm import try_layer
from keras_butterfly.export.compression.imitation import Lesson
from keras_butterfly.export.compression.narrowing import StrongestUnits
from keras_butterfly.export.compression.replaceable import replaceable_layers
from keras_butterfly.export.compression.structures import (
    BUTTERFLY,
    LOW_RANK,
    Structure,
    low_rank,
    named_structure,
    structures_of,
)
from keras_butterfly.utils.model_walk import layer_at

X = np.random.default_rng(0).normal(size=(64, 40)).astype("float32")


@pytest.mark.parametrize(
    "name",
    [
        "J2^T W' J1, k = 8",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("two stages", "radix 4 + rank 1", "low rank 8")),
    ],
)
def test_a_layer_starts_as_its_trial_ended(name, monkeypatch):
    monkeypatch.setattr("keras_butterfly.export.compression.harm.STEPS", 2)
    keras.utils.set_random_seed(0)
    first, second = (keras.layers.Dense(units, "relu", name=name) for name, units in (("first", 70), ("second", 70)))
    model = keras.Sequential([keras.Input((40,)), first, second])
    lesson = Lesson.of(model, X)
    place = next(each for each in replaceable_layers(model, X, None, None) if each.path == "second")
    structures = {each.name: each for each in structures_of(place.dense)}
    tried = structures[name]
    trial = try_layer(model, place, tried, lesson, lesson, 32, seed=7)
    blueprint = Blueprint(structures=(("first", structures["two stages"]), ("second", tried)))
    seeds = {"first": 3, "second": 7}
    new, report = blueprint.build(model, X, {("second", name): trial.weights}, lambda path, structure: seeds[path])
    assert [each.layer for each in report.replacements] == ["first", "second"]
    alone, _ = Blueprint(structures=(("second", tried),)).build(
        model, X, {("second", name): trial.weights}, lambda path, structure: 7
    )
    # The model with this layer alone is that of the trial: its harm is the same.
    outputs = np.asarray(alone.predict(X, verbose=0))
    error = np.square(outputs - lesson.targets[0]).mean() / np.square(lesson.targets[0]).mean()
    assert error == pytest.approx(trial.harm, rel=1e-4)
    np.testing.assert_allclose(layer_at(new, "second").kernel, layer_at(alone, "second").kernel)


def test_new_layers_of_a_frozen_network_can_be_trained():
    frozen = keras.Sequential(
        [keras.Input((40,)), keras.layers.Dense(96, name="a"), keras.layers.Dense(96, name="b")], name="frozen"
    )
    frozen.trainable = False
    model = keras.Sequential([frozen, keras.layers.Dense(6, name="head")])
    structures = {each.name: each for each in structures_of(replaceable_layers(model, X, ["a"], None)[0].dense)}
    replaced = Blueprint((("frozen/a", structures["radix 4"]),))
    narrower = Blueprint((("frozen/a", structures["radix 4"]),), StrongestUnits((("frozen/a", 48),)))
    for blueprint, trained in ((replaced, ["frozen/a", "head"]), (narrower, ["frozen/a", "frozen/b", "head"])):
        new, _ = blueprint.build(model, X, {}, lambda path, structure: 1)
        assert [path for path in ("frozen/a", "frozen/b", "head") if layer_at(new, path).trainable_weights] == trained
        assert len(new.trainable_weights) == sum(len(layer_at(new, path).trainable_weights) for path in trained)


def test_every_family_has_a_kind():
    low_rank, butterfly = Structure("low rank 4", LOW_RANK), Structure("two stages", BUTTERFLY)
    pairs = [(low_rank, low_rank), (butterfly, butterfly), (low_rank, butterfly)]
    made = [Blueprint(structures=(("a", first), ("b", second))) for first, second in pairs]
    narrowing = StrongestUnits((("a", 4),))
    made += [Blueprint(), Blueprint(narrowing=narrowing)]
    made += [Blueprint((("a", structure),), narrowing) for structure in (butterfly, low_rank)]
    assert {each.family for each in made} == set(KIND_OF)


def test_a_narrower_network_with_butterflies():
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(96, "relu", name="a"), keras.layers.Dense(6, name="head")])
    structures = {each.name: each for each in structures_of(replaceable_layers(model, X, ["a"], None)[0].dense)}
    blueprint = Blueprint((("a", structures["radix 4"]),), StrongestUnits((("a", 48),)))
    assert blueprint.name == "narrower, 48 units; radix 4: a"
    assert blueprint.family == "narrower butterfly"
    assert blueprint.layers == {"a": "radix 4, 48 units"}
    new, report = blueprint.build(model, X, {}, lambda path, structure: 1)
    assert (new.get_layer("a").units, new.get_layer("a").radix) == (48, 4)
    assert [(each.layer, each.kind, each.units) for each in report.replacements] == [("a", "Butterfly", 48)]
    # The head keeps the rows of the units that are left.
    rows = np.asarray(model.get_layer("head").kernel)
    assert all(any(np.array_equal(row, each) for each in rows) for row in np.asarray(new.get_layer("head").kernel))


@pytest.mark.parametrize(
    "structure_of", [partial(named_structure, name="radix 4"), partial(low_rank, part=1 / 4)], ids=["radix 4", "low rank"]
)
def test_the_layers_of_a_narrower_network_are_fitted_to_its_dense_layers(structure_of):
    keras.utils.set_random_seed(0)
    first, second = (keras.layers.Dense(96, "relu", bias_initializer="normal", name=name) for name in ("a", "b"))
    model = keras.Sequential([keras.Input((40,)), first, second, keras.layers.Dense(6, name="head")])
    narrowing = StrongestUnits((("a", 48), ("b", 48)))
    dense = narrowing.narrowed(model)
    places = replaceable_layers(dense, X, None, None)
    wanted = tuple((each.path, structure_of(each.dense)) for each in places if each.path != "head")
    errors = []
    for fitted in (False, True):
        new, _ = Blueprint(wanted, narrowing).build(model, X, {}, lambda path, structure: 1, fitted)
        errors.append(np.linalg.norm(new.predict(X, verbose=0) - dense.predict(X, verbose=0)))
    assert errors[1] < 0.7 * errors[0]
