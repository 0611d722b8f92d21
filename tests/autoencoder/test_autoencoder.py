"""Tests of ButterflyAutoencoder and two-phase learning: counts, values, PCA, Theorem 1, saving, bad input."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from oracles import effective_count

from keras_butterfly import Butterfly, ButterflyAutoencoder, summary, two_phase_fit
from keras_butterfly.autoencoder import landscape
from keras_butterfly.autoencoder.model import default_ell
from keras_butterfly.layers import initializers

pytestmark = pytest.mark.usefixtures("eager")
N, RANK, EXAMPLES = 64, 12, 96


@pytest.fixture
def x(rng):
    """Return examples of rank 12 whose singular values decrease slowly."""
    directions = np.linalg.qr(rng.standard_normal((N, RANK)))[0]
    return (rng.standard_normal((EXAMPLES, RANK)) * np.arange(1, RANK + 1) ** -0.5 @ directions.T).astype("float32")


def repeated(x, batches):
    """Repeat the examples so that an epoch has so many batches. Starting an epoch takes longer than a step."""
    return np.tile(x, (batches, 1))


def dense(layer):
    return ops.convert_to_numpy(layer.kernel).astype(float)


def squared_error(model, x, y=None):
    return np.sum((ops.convert_to_numpy(model(x)).astype(float) - (x if y is None else y)) ** 2)


def principal(x, k):
    return np.sum(np.linalg.svd(x.astype(float), compute_uv=False)[k:] ** 2)


def test_it_is_the_product_of_its_matrices(x):
    model = ButterflyAutoencoder(4, seed=0)
    found = ops.convert_to_numpy(model(x))
    code = x @ dense(model.butterfly) @ dense(model.code)
    np.testing.assert_allclose(ops.convert_to_numpy(model.encoder(x)), code, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, code @ dense(model.decoder), rtol=1e-4, atol=1e-5)
    assert model.compute_output_shape((None, N)) == (None, N)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 300), st.data())
def test_the_encoder_holds_no_more_weights_than_the_paper_says(n, data):
    k = data.draw(st.integers(1, min(n, 40)))
    model = ButterflyAutoencoder(k, seed=0)
    model.build((None, n))
    ell, size = model.butterfly.units, 1 << (n - 1).bit_length()
    assert ell == min(n, k * (int(np.log(k)) + 2))
    assert model.encoder_parameters == sum(int(np.prod(weight.shape)) for weight in model.encoder.weights)
    assert model.encoder_parameters <= k * ell + 2 * size * np.log2(ell) + 6 * size


def test_the_count_is_that_of_all_paths():
    model = ButterflyAutoencoder(3, 5)
    model.build((None, 32))
    assert model.encoder_parameters == effective_count(model.butterfly.wiring) + 15
    assert (default_ell(1, 100), default_ell(8, 100), default_ell(64, 1024), default_ell(64, 100)) == (2, 32, 384, 100)
    assert [row.layer for row in summary(model).rows] == ["encoder/butterfly", "encoder/code", "decoder"]


@pytest.mark.usefixtures("graph")
def test_fit_reaches_principal_components(x):
    """Adam gets within 2 % of PCA, which the initial butterfly cannot reach."""
    model = ButterflyAutoencoder(4, 6, seed=0)
    model.build(x.shape)
    best = principal(x, 4)
    assert landscape.optimal_loss(model.butterfly, x.T, x.T, 4) > 1.05 * best
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 600)), "mse")
    model.fit(repeated(x, 600), batch_size=EXAMPLES, shuffle=False, verbose=0)
    assert squared_error(model, x) < 1.02 * best


def test_solve_is_the_optimum_for_the_present_butterfly(x):
    model = ButterflyAutoencoder(4, 6, seed=0)
    found = model.solve(x)
    assert found == pytest.approx(squared_error(model, x), rel=1e-4)
    assert found == pytest.approx(landscape.optimal_loss(model.butterfly, x.T, x.T, 4), rel=1e-6)
    before = squared_error(model, x)
    model.decoder.kernel.assign(model.decoder.kernel + 0.01)
    assert squared_error(model, x) > before


def test_regression_of_rank_k_on_other_targets(x, rng):
    y = (x @ rng.standard_normal((N, 7))).astype("float32")
    model = ButterflyAutoencoder(3, 12, 7, seed=0)
    loss = model.solve(x, y)
    assert tuple(model(x).shape) == (EXAMPLES, 7)
    # 12 outputs suffice for the rank of x, so this is reduced rank regression on x itself.
    assert loss == pytest.approx(principal(y, 3), rel=1e-3)
    model.compile("adam", "mse")
    model.fit(x, y, epochs=1, verbose=0)


class Snapshots(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.butterflies, self.decoders = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.butterflies.append(ops.convert_to_numpy(self.model.butterfly.gadgets).copy())
        self.decoders.append(ops.convert_to_numpy(self.model.decoder.kernel).copy())


@pytest.mark.usefixtures("graph")
def test_two_phases(x):
    model, seen = ButterflyAutoencoder(4, 6, seed=0), Snapshots()
    model.build(x.shape)
    start = ops.convert_to_numpy(model.butterfly.gadgets).copy()
    schedule = keras.optimizers.schedules.CosineDecay(0.02, 600)
    settings = {"batch_size": EXAMPLES, "shuffle": False, "verbose": 0, "callbacks": [seen]}
    fixed = landscape.optimal_loss(model.butterfly, x.T, x.T, 4) / x.size
    history = two_phase_fit(model, repeated(x, 60), epochs=(10, 7), optimizer=keras.optimizers.Adam(schedule), **settings)
    assert history.history["phase"] == [1] * 10 + [2] * 7
    assert history.epoch == list(range(17))
    assert len(history.history["loss"]) == len(seen.butterflies) == 17
    assert all((each == start).all() for each in seen.butterflies[:10])
    assert (seen.butterflies[10] != start).any()
    assert (seen.decoders[0] != seen.decoders[1]).any()
    # Phase 1 ends at the loss that Theorem 1 gives for every local minimum. Phase 2 gets below that loss.
    assert history.history["loss"][9] == pytest.approx(fixed, rel=0.02)
    assert history.history["loss"][9] > fixed * (1 - 1e-4)
    assert squared_error(model, x) < 1.02 * principal(x, 4) < 0.98 * fixed * x.size
    assert model.butterfly.trainable


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_an_interruption_leaves_every_layer_trainable(x):
    model = ButterflyAutoencoder(4, seed=0)
    with pytest.raises(KeyboardInterrupt):
        two_phase_fit(model, x, epochs=(2, 2), verbose=0, callbacks=[Interrupt()])
    assert model.butterfly.trainable
    assert len(model.trainable_variables) == 3


def test_two_phases_of_any_model_with_butterflies(x):
    inner = keras.Sequential([keras.Input((N,)), Butterfly(8, seed=0)])
    fixed = Butterfly(16, seed=0)
    fixed.trainable = False
    model = keras.Sequential([keras.Input((N,)), inner, fixed, keras.layers.Dense(N)])
    before = [ops.convert_to_numpy(layer.gadgets).copy() for layer in (inner.layers[0], fixed)]
    two_phase_fit(model, x, x, epochs=(1, 1), verbose=0)
    changed = [
        (ops.convert_to_numpy(layer.gadgets) != old).any() for layer, old in zip((inner.layers[0], fixed), before, strict=True)
    ]
    assert changed == [True, False]
    assert not fixed.trainable


def test_the_butterfly_is_the_papers():
    """Look at the defaults: a random subset, the same at every build, no bias, the FJLT, and increasing strides."""
    first, second = ButterflyAutoencoder(4), ButterflyAutoencoder(4)
    for model in (first, second):
        model.build((None, 100))
        assert model.butterfly.truncation == "random"
        assert model.butterfly.wiring.increasing
        assert model.butterfly.bias is None
        assert isinstance(model.butterfly.kernel_initializer, initializers.FJLT)
        assert (model.get_config()["seed"], model.get_config()["truncation_seed"]) == (None, None)
    outputs = first.butterfly.wiring.outputs
    assert outputs == second.butterfly.wiring.outputs != tuple(range(first.butterfly.units))
    assert max(outputs) < 100
    assert np.abs(dense(first.butterfly) - dense(second.butterfly)).max() > 0.01
    other = ButterflyAutoencoder(4, truncation_seed=1)
    other.build((None, 100))
    assert other.butterfly.wiring.outputs != outputs


def test_saved_and_loaded(x, tmp_path):
    model = ButterflyAutoencoder(4, truncation_seed=3)
    model.compile("adam", "mse")
    model.fit(x, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x)))
    assert loaded.butterfly.wiring.outputs == model.butterfly.wiring.outputs
    loaded.fit(x, epochs=1, verbose=0)
    model.encoder.save(tmp_path / "encoder.keras")
    encoder = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(encoder(x)), ops.convert_to_numpy(model.encoder(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: ButterflyAutoencoder(5, 4), "`ell` must be at least k, 5. Received: ell=4"),
        (lambda x: ButterflyAutoencoder(0), "`k` must be a positive integer"),
        (lambda x: ButterflyAutoencoder(5, outputs=4), "`outputs` must be at least k, 5"),
        (lambda x: ButterflyAutoencoder(2, 65)(x), "k=2, ell=65, n=64"),
        (lambda x: ButterflyAutoencoder(65)(x), "k <= ell <= n and k <= outputs. Received: k=65"),
        (lambda x: ButterflyAutoencoder(2).encoder_parameters, "ButterflyAutoencoder .* is not built"),
        (lambda x: compiled().fit(x * np.nan), "Expected finite numbers in `x`"),
        (lambda x: compiled().fit(np.ones_like(x)), "Expected examples that differ in `x`. Received: 96 equal examples"),
        (lambda x: compiled().fit(x, x + np.inf), "Expected finite numbers in `y`"),
        (lambda x: compiled().fit(x[0]), r"Expected `x` as an array \(examples, size\)"),
        (lambda x: ButterflyAutoencoder(2).solve(np.zeros((5, N))), "Expected examples that differ"),
        (lambda x: ButterflyAutoencoder(2).solve(x, x[:, :5]), r"targets of shape \(examples, 64\)"),
        (lambda x: two_phase_fit(compiled(), x, epochs=10), "`epochs` must be two positive integers"),
        (lambda x: two_phase_fit(compiled(), x, epochs=(1, 0)), "`epochs` must be a positive integer"),
        (lambda x: two_phase_fit(compiled(), x * np.nan, epochs=(1, 1)), "Expected finite numbers"),
        (lambda x: two_phase_fit(dense_only(), x, x, epochs=(1, 1)), "Expected a model with a Butterfly layer"),
        (lambda x: two_phase_fit("model", x, x, epochs=(1, 1)), "`model` must be a keras.Model. Received: str"),
        (lambda x: two_phase_fit(classifier(), x * np.nan, x, epochs=(1, 1)), "Expected finite numbers in `x`"),
        (lambda x: two_phase_fit(classifier(), x[:, 1:], x, epochs=(1, 1)), "Expected `x` of the shapes"),
        (lambda x: two_phase_fit(classifier(), x, epochs=(1, 1)), "Expected `y` for the loss. Received: y=None"),
        (lambda x: two_phase_fit(built(), x[:, 1:], epochs=(1, 1)), "on which the model '.*' runs. Keras says: Input 0 .*63"),
        (lambda x: two_phase_fit(classifier(), x, x[1:], epochs=(1, 1)), "as many labels as examples, 96, in `y`"),
        (lambda x: two_phase_fit(classifier(), x, x * np.nan, epochs=(1, 1)), "Expected finite numbers in `y`"),
        (lambda x: two_phase_fit(classifier(), x, [7] * 96, epochs=(1, 1), loss=SPARSE), "Expected labels within 0 .. 3"),
        (
            lambda x: two_phase_fit(classifier(), x, x[:, :4], epochs=(1, 1), validation_data=(x, x)),
            r"Expected labels of the shape \(96, 4\) for the loss mean_squared_error. Received: \(96, 64\)",
        ),
    ],
)
def test_bad_input(x, make, message):
    with pytest.raises(ValueError, match=message):
        make(x)


def compiled():
    model = ButterflyAutoencoder(2, seed=0)
    model.compile("adam", "mse")
    return model


def built():
    model = ButterflyAutoencoder(2, seed=0)
    model.build((None, N))
    return model


SPARSE = "sparse_categorical_crossentropy"


def classifier():
    return keras.Sequential([keras.Input((N,)), Butterfly(8, seed=0), keras.layers.Dense(4, "softmax")])


def test_two_phases_take_labels_as_a_list(x):
    two_phase_fit(classifier(), x, [0, 1, 2, 3] * 24, loss=SPARSE, epochs=(1, 1), verbose=0)


def dense_only():
    return keras.Sequential([keras.Input((N,)), keras.layers.Dense(N)])


def test_an_interrupted_model_goes_on_with_everything_trained(x):
    model = ButterflyAutoencoder(4, seed=0)
    with pytest.raises(KeyboardInterrupt):
        two_phase_fit(model, x, epochs=(2, 2), verbose=0, callbacks=[Interrupt()])
    before = ops.convert_to_numpy(model.butterfly.gadgets).copy()
    model.fit(x, epochs=1, verbose=0)
    assert (ops.convert_to_numpy(model.butterfly.gadgets) != before).any()


def test_what_is_frozen_inside_stays_so_after_two_phases(x):
    model = ButterflyAutoencoder(4, seed=0)
    model.build(x.shape)
    model.butterfly.trainable = False
    two_phase_fit(model, x, epochs=(1, 1), frozen=[model.encoder], verbose=0)
    assert not model.butterfly.trainable
    assert model.code.trainable


def test_the_history_is_right_whatever_callbacks_are_given(x):
    history = two_phase_fit(ButterflyAutoencoder(4, seed=0), x, epochs=(1, 2), verbose=0, callbacks=[keras.callbacks.History()])
    assert (len(history.history["loss"]), history.history["phase"], history.epoch) == (3, [1, 2, 2], [0, 1, 2])


def test_without_targets_they_are_the_inputs_everywhere(x):
    model = compiled()
    model.fit(x, None, 32, validation_data=(x,), verbose=0)
    model.fit(ops.convert_to_tensor(x), verbose=0)
    assert model.evaluate(x, verbose=0) == pytest.approx(squared_error(model, x) / x.size, rel=1e-4)


def test_float64(x):
    wide = x.astype("float64")
    model = ButterflyAutoencoder(2, 4, seed=0, dtype="float64")
    found = ops.convert_to_numpy(model(wide))
    expected = wide @ dense(model.butterfly) @ dense(model.code) @ dense(model.decoder)
    tolerance = 1e-5 if keras.backend.backend() == "torch" else 1e-12
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
