"""Shared fixtures. TensorFlow is told to be quiet, and every test starts from the same seeds.

KERAS_BACKEND chooses the backend; what needs TensorFlow (export and all around it) is left out on the others.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # tests of values compare in float64

import keras
import numpy as np
import pytest

TENSORFLOW_ONLY = ("convert", "lowering", "measure", "cli", "notebooks", "saving", "backends", "distributed")
if keras.backend.backend() != "tensorflow":
    collect_ignore = [f"test_{name}.py" for name in TENSORFLOW_ONLY]


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
