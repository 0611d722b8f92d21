"""Tests of LoRA in ButterflyDense."""

import keras
import numpy as np
import pytest
from catalogue import build, close, numpy, raises

from keras_butterfly import ButterflyDense


def lora_layer(**kwargs):
    layer = ButterflyDense(12, k1=6, k2=5, lora_rank=2, lora_alpha=3.0, seed=0, **kwargs)
    layer.build((None, 20))
    return layer


def test_lora_starts_from_the_same_map_and_trains_only_its_update_and_the_bias():
    layer, plain = lora_layer(), ButterflyDense(12, k1=6, k2=5, seed=0)
    plain.build((None, 20))
    plain.set_weights([weight for weight in layer.get_weights() if weight.shape not in ((6, 2), (2, 5))])
    close(layer.kernel, plain.kernel)
    assert {weight.name for weight in layer.trainable_weights} == {"lora_kernel_a", "lora_kernel_b", "bias"}
    assert layer.count_params() == layer.effective_parameters + 12 == plain.count_params() + 6 * 2 + 2 * 5


def test_lora_keeps_the_rest_frozen_when_the_layer_is_frozen_and_thawed():
    layer = lora_layer()
    layer.trainable = False
    assert layer.trainable_weights == []
    layer.trainable = True
    assert {weight.name for weight in layer.trainable_weights} == {"lora_kernel_a", "lora_kernel_b", "bias"}


def test_lora_adds_its_product_to_the_middle(rng):
    layer = lora_layer()
    layer.lora_kernel_b.assign(rng.standard_normal((2, 5)))
    update = numpy(layer.lora_kernel_a) @ numpy(layer.lora_kernel_b)
    close(layer.middle_kernel, numpy(layer._kernel) + 3.0 / 2 * update)
    x = rng.standard_normal((4, 20)).astype("float32")
    close(layer.linear(x), x @ numpy(layer.j1.kernel) @ numpy(layer.middle_kernel) @ numpy(layer.j2_t.kernel))


def test_lora_learns_and_is_merged_when_saved(rng, tmp_path):
    x = rng.standard_normal((32, 20)).astype("float32")
    model = keras.Sequential([keras.Input((20,)), lora_layer()])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(x, x[:, :12], epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert np.abs(restored.layers[0].lora_kernel_b).max() == 0
    np.testing.assert_allclose(restored.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "rank", "message"),
    [
        (lambda: ButterflyDense(4), 2, "is not built"),
        (lora_layer, 2, "in which it is already enabled"),
        (lambda: build("dense, narrowing", kernel_constraint="non_neg"), 2, "Expected a layer without `kernel_constraint`"),
        (lambda: build("dense, narrowing"), 0, "`rank` must be a positive integer. Received: rank=0"),
    ],
)
def test_lora_refuses(layer, rank, message):
    with raises(message):
        layer().enable_lora(rank)
