"""Shared fixtures. TensorFlow is told to be quiet, and every test starts from the same seeds.

KERAS_BACKEND chooses the backend; what needs TensorFlow (export and all around it) is left out on the others.
"""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # tests of values compare in float64
# An export converts one lowering of each layer and times none. Tests of measuring use the fixture `measured`.
os.environ.setdefault("KERAS_BUTTERFLY_EFFORT", "estimate")

import keras
import numpy as np
import pytest

# The libraries consist of half a million objects, which live to the end. The garbage collector need not visit them each time.
gc.freeze()

if keras.backend.backend() != "tensorflow":
    collect_ignore = [
        "export",
        "compression/test_streams.py",
        "layers/test_saving.py",
        "test_backends.py",
        "test_distributed.py",
        "test_docs.py",
        "test_architecture.py",
        "test_evidence.py",
        "test_experiments.py",
        "test_ecosystem.py",
        "test_notebooks.py",
        "test_reports.py",
        "utils/test_quiet.py",
    ]


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _forgotten_wisdom():
    """No export knows what one in another test has measured."""
    if keras.backend.backend() == "tensorflow":
        from keras_butterfly.export import wisdom

        wisdom.forget()


@pytest.fixture
def measured(monkeypatch):
    """Let exports time a few lowerings of each layer on this machine, as effort="quick" does."""
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "quick")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
