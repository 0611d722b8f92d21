"""Magnitude pruning, a rival of butterflies: dense layers whose smallest weights are set to zero while they are trained."""

import keras
import numpy as np
from keras import ops

# Steps between two prunings, and the part of the training after which the final sparsity is reached.
EVERY, RAMP = 100, 0.6
# The weights in a file. Keras saves the first two alone, as those of a `Dense` layer.
SAVED = ("kernel", "bias", "mask")


class PrunedDense(keras.layers.Dense):
    """A `Dense` layer whose kernel is multiplied by a mask of zeros and ones.

    The mask is a weight that is not trained. An exported file holds the whole kernel, because TFLite has no kernels for
    matrices with scattered zeros.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.mask = self.add_weight(name="mask", shape=self.kernel.shape, initializer="ones", trainable=False)

    def save_own_variables(self, store):
        for name in SAVED:
            store[name] = getattr(self, name)

    def load_own_variables(self, store):
        for name in SAVED:
            getattr(self, name).assign(store[name])

    def call(self, inputs, training=None):
        outputs = ops.matmul(inputs, ops.multiply(self.kernel, self.mask)) + self.bias
        return self.activation(outputs)


class MagnitudePruning(keras.callbacks.Callback):
    """A callback that prunes the smallest weights of some layers, more and more, until `kept` of them are left.

    At step t of the first 60 % of the training, T steps, the part (kept / all) + (1 - kept / all) (1 - t / T)^3 is left. All
    layers share one threshold.

    Args:
        layers: the `PrunedDense` layers.
        kept: number of weights that are left, without biases.
        steps: number of steps of the training.
        every: number of steps between two prunings.

    Reference: Zhu, Gupta, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression*, 2017.
    """

    def __init__(self, layers: list[PrunedDense], kept: int, steps: int, every: int = EVERY):
        super().__init__()
        self.layers, self.kept, self.ramp, self.step, self.every = layers, kept, max(1, int(RAMP * steps)), 0, every

    def on_epoch_begin(self, epoch, logs=None):
        if self.params.get("steps"):
            # A training that was interrupted begins in a later epoch.
            self.step = epoch * self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step > self.ramp or (self.step % self.every and self.step != self.ramp):
            return
        if hasattr(self.model, "jax_state_sync"):  # On JAX the variables hold the state of the last synchronization.
            self.model.jax_state_sync()
        magnitudes = [np.abs(ops.convert_to_numpy(layer.kernel)) for layer in self.layers]
        flat = np.concatenate([magnitude.reshape(-1) for magnitude in magnitudes])
        left = self.kept / flat.size + (1 - self.kept / flat.size) * (1 - self.step / self.ramp) ** 3
        place = flat.size - max(1, round(left * flat.size))
        threshold = np.partition(flat, place)[place]
        for layer, magnitude in zip(self.layers, magnitudes, strict=True):
            layer.mask.assign((magnitude >= threshold).astype("float32"))
