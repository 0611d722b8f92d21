"""Shared fixtures. TensorFlow is told to be quiet, and every test starts from the same seeds.

KERAS_BACKEND chooses the backend; what needs TensorFlow (export and all around it) is left out on the others.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # tests of values compare in float64
os.environ.setdefault("KERAS_BUTTERFLY_EFFORT", "quick")  # each export measures fewer lowerings than by default, to save time

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
        "test_docs.py",
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
def rng():
    return np.random.default_rng(0)
