"""A search that takes seconds: few structures, short trainings, and lowerings that are chosen by estimates."""

import pytest

import keras_butterfly.export.compression.finalists as finalists
import keras_butterfly.export.compression.harm as harm
import keras_butterfly.export.compression.narrower as narrower
import keras_butterfly.export.compression.trials as trials


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "estimate")
    monkeypatch.setattr(trials, "MOST_STRUCTURES", 4)
    monkeypatch.setattr(narrower, "FACTORS", (1 / 2, 1 / 4))
    monkeypatch.setattr(narrower, "BUTTERFLY_FACTORS", (1 / 2,))
    monkeypatch.setattr(narrower, "BUTTERFLIES", ("radix 4",))
    monkeypatch.setattr(harm, "STEPS", 20)
    monkeypatch.setattr(finalists, "MOST", 3)
    monkeypatch.setattr(finalists, "COMPILED", False)
