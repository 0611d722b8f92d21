"""A search that takes seconds: few structures, short trainings, and lowerings that are chosen by estimates."""

import pytest

import keras_butterfly.export.compression.finalists as finalists
import keras_butterfly.export.compression.harm as harm
import keras_butterfly.export.compression.narrower as narrower
import keras_butterfly.export.compression.structured as structured
import keras_butterfly.export.compression.trials as trials


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
    monkeypatch.setattr(trials, "MOST_STRUCTURES", 4)
    monkeypatch.setattr(narrower, "FACTORS", (1 / 2, 1 / 4))
    for family, kind in structured.KINDS.items():
        monkeypatch.setitem(structured.KINDS, family, kind._replace(factors=(1 / 2,), choices=kind.choices[:1]))
    monkeypatch.setattr(harm, "STEPS", 20)
    monkeypatch.setattr(finalists, "MOST", 3)
    monkeypatch.setattr(finalists, "COMPILED", False)
