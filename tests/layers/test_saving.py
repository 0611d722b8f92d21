"""Tests that load saved models in another process, in which only `import keras_butterfly` was run."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope

LOADER = """
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_butterfly

folder = Path(sys.argv[1])
x = np.load(folder / "inputs.npy")

whole = keras.models.load_model(folder / "model.keras")
rebuilt = keras.models.model_from_json((folder / "model.json").read_text())
before = rebuilt(x)
rebuilt.load_weights(folder / "model.weights.h5")
exported = tf.saved_model.load(str(folder / "exported"))
np.savez(
    folder / "outputs.npz",
    keras=whole(x),
    weights=rebuilt(x),
    unloaded=before,
    savedmodel=exported.serve(x),
    kernels=np.concatenate([np.ravel(layer.kernel) for layer in whole.layers if hasattr(layer, "wiring")]),
)
"""


def make_model():
    """Return a model of all three layers, with random subsets without seeds, the first nodes, listed nodes, and stacks."""
    inputs = keras.Input((6,))
    x = Butterfly(21, "relu", truncation="random")(inputs)
    x = Butterfly(10, truncation="random", use_bias=False)(x)
    x = Butterfly(10, stacks=2, lr_multiplier=3)(x)
    x = Butterfly(8, truncation=[9, 0, 14, 3, 5, 1, 12, 7], transposed=True, kernel_initializer="glorot_uniform")(x)
    x = Butterfly(12, truncation="random", seed=3)(x)
    x = Kaleidoscope(9)(x)
    outputs = ButterflyDense(7, "tanh", k1=4, k2=5)(x)
    return keras.Model(inputs, outputs)


def trained_model(rng):
    """Return the model with weights that no initializer returns. In another model they can only come from a file."""
    model = make_model()
    model.set_weights([weights + 0.1 * rng.standard_normal(weights.shape) for weights in model.get_weights()])
    return model


def test_predictions_are_equal_once_loaded(rng, tmp_path):
    model, x = trained_model(rng), rng.standard_normal((5, 6)).astype("float32")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    rebuilt = keras.models.model_from_json(model.to_json())
    assert np.abs(rebuilt(x) - model(x)).max() > 0.01
    rebuilt.load_weights(tmp_path / "model.weights.h5")
    for loaded in (rebuilt, keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def here_and_there(tmp_path_factory):
    """Return the outputs of the model in this process, and those in a new process for each saved form of the model."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    model = trained_model(rng)
    x = rng.standard_normal((5, 6)).astype("float32")
    np.save(folder / "inputs.npy", x)
    (folder / "model.json").write_text(model.to_json())
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    model.export(folder / "exported", format="tf_saved_model", verbose=False)
    done = subprocess.run([sys.executable, "-c", LOADER, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return model, x, np.load(folder / "outputs.npz")


@pytest.mark.long
@pytest.mark.parametrize("form", ["keras", "weights", "savedmodel"])
def test_predictions_are_equal_in_a_new_process(form, here_and_there):
    model, x, there = here_and_there
    np.testing.assert_allclose(there[form], model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_weights_file_is_what_makes_them_equal(here_and_there):
    model, x, there = here_and_there
    assert np.abs(there["unloaded"] - model(x)).max() > 0.01


@pytest.mark.long
def test_kernels_of_the_random_subsets_are_equal_in_a_new_process(here_and_there):
    model, _, there = here_and_there
    kernels = [np.ravel(layer.kernel) for layer in model.layers if isinstance(layer, Butterfly)]
    assert len(kernels) == 5
    np.testing.assert_allclose(there["kernels"], np.concatenate(kernels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [Butterfly, ButterflyDense, Kaleidoscope])
def test_names_in_saved_files_never_change(cls):
    assert keras.saving.get_registered_name(cls) == f"keras_butterfly>{cls.__name__}"


def test_a_frozen_layer_stays_frozen(tmp_path):
    model = keras.Sequential([keras.Input((6,)), Butterfly(4), ButterflyDense(3)])
    for layer in model.layers:
        layer.trainable = False
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").trainable_variables == []


def test_training_continues_where_it_was_saved(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 6)), rng.standard_normal((8, 3))
    model = keras.Sequential([keras.Input((6,)), Butterfly(4), ButterflyDense(3)])
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    restored.run_eagerly = True
    for trained in (restored, model):
        trained.train_on_batch(x, y)
    for found, expected in zip(restored.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
