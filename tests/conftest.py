"""Shared fixtures. TensorFlow is told to be quiet, and every test starts from the same seeds.

KERAS_BACKEND chooses the backend; what needs TensorFlow (export and all around it) is left out on the others.
"""

import gc
import os

import pytest

BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")  # tests of values compare in float64
# An export converts one lowering of each layer and times none. Tests of measuring use the fixture `measured`.
os.environ.setdefault("KERAS_BUTTERFLY_EFFORT", "estimate")
# Each processor has a process of pytest. More threads of linear algebra would only wait for each other, and waiting takes time.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_threads, "1")

# What needs TensorFlow, what does not depend on the backend, and the experiments.
if BACKEND != "tensorflow":
    collect_ignore = [
        "export",
        "compression/test_streams.py",
        "layers/test_saving.py",
        "structure/test_wiring.py",
        "test_architecture.py",
        "test_backends.py",
        "test_deploy.py",
        "test_distributed.py",
        "test_docs.py",
        "test_ecosystem.py",
        "test_evidence.py",
        "test_experiments.py",
        "test_fronts.py",
        "test_notebooks.py",
        "test_reports.py",
        "test_speech.py",
        "test_students.py",
        "test_tagging.py",
        "test_vision.py",
        "test_web_page.py",
        "test_wide.py",
        "utils/test_quiet.py",
    ]

# Keras is imported by the tests and not here, because pytest reads this file in one more process than those that run tests.


def pytest_collection_finish():
    """Freeze the half million objects of imported libraries, so that the garbage collector does not visit them again and again.

    By default it looks for garbage after 700 new objects, and one export makes many thousands.
    """
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """Start every test from the same seeds.

    When TensorFlow is seeded, it forgets its compiled kernels, and the test would have to compile them again. Here it keeps
    them. Only kernels of random operations that run eagerly have a state, and no test runs such operations.
    """
    import keras

    with monkeypatch.context() as patch:
        if BACKEND == "tensorflow":
            from tensorflow.python import pywrap_tfe

            patch.setattr(pywrap_tfe, "TFE_ContextClearCaches", lambda context: None)
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _forgotten_wisdom():
    """No export knows what one in another test has measured."""
    if BACKEND == "tensorflow":
        from keras_butterfly.export import wisdom

        wisdom.forget()


@pytest.fixture
def measured(monkeypatch):
    """Let exports time a few lowerings of each layer on this machine, as effort="quick" does."""
    monkeypatch.setenv("KERAS_BUTTERFLY_EFFORT", "quick")


@pytest.fixture
def graph():
    """A training in this test is long enough to pay for tracing a graph, which `eager` then leaves to Keras."""


@pytest.fixture
def eager(request, monkeypatch):
    """Let Keras train operation by operation on TensorFlow. Tracing and compiling a graph takes longer than a few steps."""
    if BACKEND == "tensorflow" and "graph" not in request.fixturenames:
        import keras

        trainer = next(base for base in keras.Model.__mro__ if "compile" in vars(base))
        compile_model = trainer.compile

        def compile_eagerly(model, *arguments, **settings):
            compile_model(model, *arguments, **settings | {"jit_compile": False, "run_eagerly": True})

        monkeypatch.setattr(trainer, "compile", compile_eagerly)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)
