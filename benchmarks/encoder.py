"""Compare the latency of an exported `ButterflyAutoencoder.encoder` with the dense encoder of principal components.

    python benchmarks/encoder.py [--n 4096] [--k 64] [--ell 64 --ell 384] [--quantize int8] [--runs 200]

Data: for n = 4096 the Olivetti faces, which are read from --data or downloaded by scikit-learn. For other n a Gaussian matrix
of rank 2 k.

Encoders: scikit-learn computes the principal components. The butterfly is trained by `solve`, whose result is that of phase 1
of two-phase learning. Latency and size do not depend on the training.

All encoders are exported and measured in turn. The table shows which is faster.
"""

import sys
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

from keras_butterfly import ButterflyAutoencoder, export
from keras_butterfly.autoencoder.model import default_ell

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import matrices


def dense_encoder(X: np.ndarray, k: int) -> keras.Model:
    """Return the encoder of the first `k` principal components of the columns of `X`."""
    from sklearn.decomposition import TruncatedSVD

    model = keras.Sequential([keras.Input((len(X),)), keras.layers.Dense(k, use_bias=False)])
    model.layers[0].set_weights([TruncatedSVD(k, algorithm="arpack", random_state=0).fit(X.T).components_.T])
    return model


@click.command()
@click.option("--n", default=4096, show_default=True)
@click.option("--k", default=64, show_default=True)
@click.option("--ell", "ells", multiple=True, type=int, help="Repeatable. Default: k, 2 k and the paper's.")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="See examples/matrices.py.")
@click.option("--quantize", type=click.Choice(["float16", "dynamic", "int8"]))
@click.option("--runs", default=200, show_default=True)
def main(n, k, ells, data, quantize, runs):
    console = Console(width=140)
    matrix = matrices.olivetti(data) if n == 4096 else matrices.gaussian(2 * k, n)
    x = matrix.X.T.astype("float32")
    settings = {"quantize": quantize, "representative_data": x[:200] if quantize else None}
    exported = {f"principal components, {n} -> {k}": export.to_tflite(dense_encoder(matrix.X, k), **settings)}
    for ell in ells or (k, 2 * k, default_ell(k, n)):
        model = ButterflyAutoencoder(k, ell, seed=0)
        loss = model.solve(x)
        name = f"butterfly, ell = {ell}"
        exported[name] = export.to_tflite(model.encoder, **settings)
        plan, weights = exported[name].plan[0], model.encoder_parameters
        exported[f"{name}, smallest file"] = export.to_tflite(model.encoder, objective="size", **settings)
        console.print(f"{name}: {weights:,} weights, loss {loss / np.sum(x**2):.4f} of ||X||^2, lowered {plan.lowering}")
    console.print(f"{matrix.origin}; {quantize or 'float32'}, batch 1")
    console.print(export.compare(exported, runs=runs).table())


if __name__ == "__main__":
    main()
