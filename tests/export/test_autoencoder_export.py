"""Tests of exporting the encoder-decoder network: the encoder alone, and the whole network."""

import numpy as np
import pytest

from keras_butterfly import ButterflyAutoencoder, export


@pytest.fixture
def trained(rng):
    x = rng.standard_normal((200, 96)).astype("float32")
    model = ButterflyAutoencoder(8, seed=0)
    model.solve(x)
    return model, x


def test_encoder_and_whole_compute_what_their_matrices_do(trained):
    model, x = trained
    code = x @ np.asarray(model.butterfly.kernel) @ np.asarray(model.code.kernel)
    encoder = export.to_tflite(model.encoder, batch_size=None)
    np.testing.assert_allclose(encoder.predict(x), code, rtol=1e-4, atol=1e-5)
    whole = export.to_tflite(model, batch_size=None)
    np.testing.assert_allclose(whole.predict(x), code @ np.asarray(model.decoder.kernel), rtol=1e-4, atol=1e-5)
    assert encoder.size_bytes < whole.size_bytes


def test_int8(trained):
    model, x = trained
    exported = export.to_tflite(model.encoder, quantize="int8", representative_data=x)
    assert exported.parity.relative_error < 0.05
