"""Shared fixtures. TensorFlow is told to be quiet, and every test starts from the same seeds.

KERAS_BACKEND chooses the backend; what needs TensorFlow (export and all around it) is left out on the others.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # tests of values compare in float64

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    collect_ignore = [
        "export",
        "compression/test_streams.py",
        "layers/test_saving.py",
        "test_backends.py",
        "test_distributed.py",
        "test_ecosystem.py",
        "test_notebooks.py",
        "test_reports.py",
        "utils/test_quiet.py",
    ]


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _few_candidates(monkeypatch):
    """Each export measures fewer lowerings than by default, to save time, and none knows what another has measured."""
    if keras.backend.backend() == "tensorflow":
        from keras_butterfly.export import wisdom
        from keras_butterfly.export.planning import candidates

        monkeypatch.setattr(candidates, "MAX_MEASURED", 5)
        monkeypatch.setattr(candidates, "MAX_IN_FLOAT32", 1)
        monkeypatch.setattr(candidates, "MAX_WITH_FLOAT32_WEIGHTS", 1)
        wisdom.forget()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
