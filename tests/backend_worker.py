"""Run by test_backends.py in a process of its own for each backend: values and gradients of layers with given weights.

KERAS_BACKEND=... python backend_worker.py CASES.npz RESULTS.npz
"""

import sys

import numpy as np
from backend import value_and_gradients

from keras_butterfly import Butterfly, ButterflyDense, Kaleidoscope, LowRank

N = 24
LAYERS = {
    "butterfly": lambda: Butterfly(activation="tanh", seed=1),
    "gather": lambda: Butterfly(activation="tanh", seed=1, implementation="gather"),
    "truncated": lambda: Butterfly(7, seed=2),
    "random subset": lambda: Butterfly(7, truncation="random", use_bias=False, seed=2),
    "expanded": lambda: Butterfly(40, truncation="random", seed=3, stacks=2, lr_multiplier=3),
    "replacement": lambda: ButterflyDense(11, "relu", seed=4, kernel_initializer="ones"),
    "kaleidoscope": lambda: Kaleidoscope(16, seed=5),
    "radix 4": lambda: Butterfly(activation="tanh", radix=4, seed=6),
    "radices, by gather": lambda: Butterfly(17, radix=(3, 2, 4), truncation="random", seed=7, implementation="gather"),
    "radices, fused": lambda: Butterfly(40, radix=(5, 8), seed=8),
    "radices of a replacement": lambda: ButterflyDense(11, radix=(4, 6), seed=9, kernel_initializer="ones"),
    "low rank": lambda: LowRank(40, "relu", rank=3, kernel_initializer="ones"),
}


def main(cases, results):
    given, found = np.load(cases), {"imported": np.array(sorted(name for name in sys.modules if "." not in name))}
    for name, make in LAYERS.items():
        layer = make()
        layer.build((None, N))
        # NumPy draws the initial weights, so they are equal before any are set.
        found[f"{name}/initial"] = np.concatenate([np.ravel(weights) for weights in layer.get_weights()])
        layer.set_weights(
            [weights + 0.1 * np.sin(np.arange(weights.size)).reshape(weights.shape) for weights in layer.get_weights()]
        )
        sources = [given["x"], *layer.trainable_variables]
        upstream = given["upstream"][:, : layer.compute_output_shape((1, N))[1]]
        value, gradients = value_and_gradients(layer, sources, upstream)
        found[f"{name}/value"] = value
        found |= {f"{name}/gradient {index}": gradient for index, gradient in enumerate(gradients)}
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
