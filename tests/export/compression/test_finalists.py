"""Which models are trained to the end."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_butterfly.compression.replace as replace
from keras_butterfly.export.compression.blueprint import Blueprint
from keras_butterfly.export.compression.costs import Cost
from keras_butterfly.export.compression.families import Entry
from keras_butterfly.export.compression.finalists import UNCHANGED, Finalist, Finalists
from keras_butterfly.export.compression.memory import Memory
from keras_butterfly.export.compression.narrowing import StrongestUnits
from keras_butterfly.export.compression.structures import LOW_RANK, Structure


def family(name, seconds, scores):
    """Models of one layer, and the scores that they get."""
    entries = [
        Entry(Blueprint((("layer", Structure(f"{name} {number}", name)),)), Cost(each, 1), each, 1 / each)
        for number, each in enumerate(seconds)
    ]
    return entries, dict(zip([entry.blueprint for entry in entries], scores, strict=True))


@pytest.fixture
def trained(monkeypatch):
    """The names of the models that are trained, and a function (families, drop) that looks for the fastest."""
    names, scores = [], {}

    def train(self, blueprint, rate):
        names.append(blueprint.name)
        self.found[blueprint, "float32"] = Finalist(blueprint, None, None, None, scores[blueprint])

    def find(families, drop):
        names.clear()
        for _, more in families:
            scores.update(more)
        task = SimpleNamespace(clock=SimpleNamespace(is_over=lambda: False, show=lambda text: None))
        finalists = Finalists({"float32": task}, {(UNCHANGED, "float32"): Finalist(UNCHANGED, None, None, None, 1.0)})
        finalists.train_the_fastest([entries for entries, _ in families], drop)
        return [name.split(":")[0] for name in names]

    monkeypatch.setattr(Finalists, "_train_at_rates", train)
    return find


LOW = family("low", [1, 2, 3, 4, 5, 6, 7], [0.1, 0.5, 0.9, 0.91, 0.92, 0.93, 0.94])


def test_the_fastest_good_model_of_a_family_is_found(trained):
    assert trained([LOW], 0.1) == ["low 3", "low 1", "low 2"]


def test_a_drop_that_just_keeps_the_limit_is_good(trained):
    assert 1 - 0.18 > 0.82  # by round-off
    assert trained([family("low", [1, 2, 3], [0.5, 0.82, 0.95])], 0.18) == ["low 1", "low 0"]


def test_a_model_of_two_families_is_trained_once(trained):
    assert trained([LOW, LOW], 0.1) == ["low 3", "low 1", "low 2"]


def test_other_families_are_searched_until_they_have_a_good_model(trained):
    """Also a model that is slower than a good one of another family, but not more than twice as slow."""
    names = trained([LOW, family("butterfly", [3.5, 4.5, 5.5, 6.5, 9], [0.2, 0.3, 0.4, 0.95, 0.96])], 0.1)
    assert names == ["low 3", "butterfly 2", "low 1", "butterfly 3", "low 2"]


def test_a_family_with_a_good_model_is_searched_among_faster_ones_only(trained):
    names = trained([LOW, family("butterfly", [4.1, 4.2, 5.5, 6.5, 9], [0.9, 0.9, 0.95, 0.95, 0.96])], 0.1)
    assert names == ["low 3", "butterfly 2", "low 1", "low 2"]


@pytest.mark.parametrize(
    ("loads", "names"),
    [([0.9, 0.5, 1.0], ["a 0", "b 0", "c 0"]), ([1.2, 0.5, 3.0], ["b 0"]), ([3.0, 1.2, 2.0], ["b 0", "c 0", "a 0"])],
)
def test_a_family_without_a_model_that_fits_is_left_out_if_another_has_one(monkeypatch, loads, names):
    families = [family(name, [load], [0.9])[0] for name, load in zip("abc", loads, strict=True)]
    found = []
    monkeypatch.setattr(Finalists, "_best_within_limits", lambda self, entries: (entries[0], entries[0].load))
    monkeypatch.setattr(Finalists, "_train", lambda self, entry: found.append(entry.blueprint.name.split(":")[0]))
    task = SimpleNamespace(clock=SimpleNamespace(is_over=lambda: False))
    Finalists({"float32": task}).train_those_within_limits(families)
    assert found == names


def test_a_search_that_goes_on_later_reports_the_same_replacements(monkeypatch):
    """The layers of a narrower network are fitted before a training, and not if the trained weights are known."""
    monkeypatch.setattr(replace, "STEPS", 1)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, name="a"), keras.layers.Dense(3)])
    task = SimpleNamespace(
        model=model,
        lesson=SimpleNamespace(x=np.random.default_rng(0).normal(size=(20, 16)).astype("float32")),
        training=SimpleNamespace(seeded=lambda name: 0),
        seed_of_trial=lambda path, structure: 0,
        memory=Memory(None, {}),
    )
    blueprint = Blueprint(
        (("a", Structure("low rank 2", LOW_RANK, (("kind", "low_rank"), ("rank", 2)))),), StrongestUnits((("a", 8),))
    )
    (first, report), (second, later) = (Finalists({"float32": task})._built(blueprint, fitted) for fitted in (True, False))
    assert not np.allclose(first.get_weights()[0], second.get_weights()[0])
    assert report == later
    monkeypatch.setattr(replace, "fit", None)  # A fit is computed once.
    third, _ = Finalists({"float32": task})._built(blueprint, True)
    assert all(map(np.array_equal, third.get_weights(), first.get_weights()))


class Rates:
    """Finalists whose trainings only return known scores, one for each learning rate. None: the training diverges."""

    def __init__(self, monkeypatch, scores):
        self.scores, self.tried = scores, []
        clock = SimpleNamespace(is_over=lambda: False, show=lambda text: None)
        training = SimpleNamespace(learning_rates=tuple(scores))
        self.finalists = Finalists({"float32": SimpleNamespace(clock=clock, training=training)})
        monkeypatch.setattr(Finalists, "_trained", self.trained)

    def trained(self, blueprint, rate, is_needed):
        self.tried.append(rate)
        score = self.scores[rate]
        return {} if score is None else {"float32": Finalist(blueprint, None, None, None, score, rate)}


def test_the_best_of_several_learning_rates_is_kept(monkeypatch):
    rates, entry = Rates(monkeypatch, {1e-3: 0.7, 2e-3: 0.9, 4e-3: None, 8e-3: 0.8}), family("butterfly", [1], [0])[0][0]
    assert rates.finalists._train(entry).score == 0.9
    assert rates.finalists.found[entry.blueprint, "float32"].rate == 2e-3
    assert rates.finalists._train(entry).score == 0.9 and rates.tried == [1e-3, 2e-3, 4e-3, 8e-3]  # It is not trained again.


def test_a_known_learning_rate_is_tried_alone_unless_it_fails(monkeypatch):
    rates, (first, second) = Rates(monkeypatch, {1e-3: 0.7, 2e-3: 0.9, 4e-3: None}), family("butterfly", [1, 2], [0, 0])[0]
    assert rates.finalists._train(first, 1e-3).score == 0.7 and rates.tried == [1e-3]
    assert rates.finalists._train(second, 4e-3).score == 0.7 and rates.tried[1:] == [4e-3, 1e-3]


def test_the_first_model_of_a_family_shows_its_learning_rate(monkeypatch):
    rates = Rates(monkeypatch, {1e-3: 0.7, 2e-3: 0.9})
    rates.finalists.found[UNCHANGED, "float32"] = Finalist(UNCHANGED, None, None, None, 1.0)
    families = [family("low", [1, 3, 4], [0] * 3)[0], family("butterfly", [0.5, 2, 4], [0] * 3)[0]]
    rates.finalists.train_the_fastest(families, 0.2)
    assert rates.tried == [1e-3, 2e-3, 1e-3, 2e-3, 2e-3, 2e-3]


def test_each_precision_keeps_the_learning_rate_that_is_best_in_it(monkeypatch):
    entry = family("butterfly", [1], [0])[0][0]._replace(precision="int8")
    scores = {1e-3: {"float32": 0.9, "int8": 0.5}, 2e-3: {"float32": 0.8, "int8": 0.7}, 4e-3: {"float32": 0.7}}
    task = SimpleNamespace(
        clock=SimpleNamespace(is_over=lambda: False, show=lambda text: None),
        training=SimpleNamespace(learning_rates=tuple(scores)),
    )

    def train(self, blueprint, rate, is_needed):
        return {name: Finalist(blueprint, None, None, None, score) for name, score in scores[rate].items()}

    monkeypatch.setattr(Finalists, "_trained", train)
    finalists = Finalists({"float32": task, "int8": task})
    assert finalists._train(entry).score == 0.7
    assert {precision: found.score for (_, precision), found in finalists.found.items()} == {"float32": 0.9, "int8": 0.7}
