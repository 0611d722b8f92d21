"""The layers give equal values and gradients on TensorFlow, JAX and torch, and import no TensorFlow on the others."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not find_spec(name), reason=f"{name} is not installed"))
    for name in ("jax", "torch")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that gives a backend's results, computed once each."""
    folder, done = tmp_path_factory.mktemp("backends"), {}
    rng = np.random.default_rng(0)
    cases = folder / "cases.npz"
    np.savez(cases, x=rng.standard_normal((5, 24)).astype("float32"), upstream=rng.standard_normal((5, 40)).astype("float32"))

    def results(backend):
        if backend not in done:
            path = folder / f"{backend}.npz"
            command = [sys.executable, HERE / "backend_worker.py", cases, path]
            environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "0"}
            process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
            assert process.returncode == 0, process.stderr[-2000:]
            done[backend] = dict(np.load(path))
        return done[backend]

    return results


@pytest.mark.skipif(not find_spec("jax"), reason="jax is not installed")
def test_a_layer_runs_on_jax_without_tensorflow():
    """Start one process that gives a layer the identity. All other tests here compare a catalogue of layers, and take long."""
    program = (
        "import sys, numpy as np, keras_butterfly\n"
        "layer = keras_butterfly.Butterfly(seed=0)\n"
        "print(np.abs(np.asarray(layer(np.eye(8))) - np.asarray(layer.kernel)).max(), 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    error, imported = process.stdout.split()
    assert float(error) < 1e-6 and imported == "False"


@pytest.mark.long
@pytest.mark.parametrize("backend", OTHERS)
def test_values_and_gradients_equal_those_of_tensorflow(backend, run):
    expected, found = run("tensorflow"), run(backend)
    assert found.keys() == expected.keys()
    names = [name for name in expected if name != "imported"]
    assert len(names) >= 12 * 4
    for name in names:
        scale = max(1.0, np.abs(expected[name]).max())
        # Sums of some hundred float32 products, in another order.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name)
    assert max(np.abs(expected[name]).max() for name in names) > 1


@pytest.mark.long
@pytest.mark.parametrize("backend", OTHERS)
def test_tensorflow_is_not_imported(backend, run):
    imported = set(run(backend)["imported"])
    assert {"keras_butterfly", backend} <= imported
    assert "tensorflow" not in imported
    assert "tensorflow" in set(run("tensorflow")["imported"])
