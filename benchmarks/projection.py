"""Measure how well butterflies approximate given kernels without training, beside truncated SVD and Monarch of equal size.

    python benchmarks/projection.py --model FILE.keras [--layer hidden_1] [--map NAME ...] [--json FILE]

Two relative errors in the 2-norm are reported:

- the error of the kernel, if the factors are fitted to the kernel;
- the error of the layer's outputs on 4,096 Fashion-MNIST training images about their mean, if the factors are fitted to these
  outputs. The SVD is then that of the outputs.

The trained kernel is that of a layer of --model, a network on flattened Fashion-MNIST images. benchmarks/evidence.py leaves
such networks in its folder.
"""

import json

import click
import keras
import numpy as np
import scipy.fft
import scipy.linalg
from keras import ops
from keras_butterfly_cli.datasets import load
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_butterfly import Butterfly, ButterflyDense, transforms
from keras_butterfly.compression import fitting
from keras_butterfly.export import files
from keras_butterfly.structure.factorization import low_rank, monarch

N = 1024
FITTED_ON = 4096


def relative(approximation, exact) -> float:
    """Return the relative error of an approximation in the 2-norm."""
    return float(np.linalg.norm(approximation - exact) / np.linalg.norm(exact))


def layers() -> dict[str, keras.layers.Layer]:
    """Return the butterfly layers to fit, by name."""
    made = {f"butterfly, {n} stack{'s' * (n > 1)}": Butterfly(N, radix=2, stacks=n, seed=0) for n in (1, 2, 3)}
    made |= {f"ButterflyDense, k = {k}": ButterflyDense(N, k1=k, k2=k, use_bias=False, seed=0) for k in (10, 64)}
    for layer in made.values():
        layer.build((None, N))
    return made


def kernels(trained) -> dict[str, np.ndarray]:
    """Return the kernels to approximate, by name."""
    butterfly = Butterfly(N, radix=2, seed=1)
    butterfly.build((None, N))
    return {
        "trained": trained,
        "Gaussian": np.random.default_rng(0).standard_normal((N, N)) / np.sqrt(N),
        "Hadamard": scipy.linalg.hadamard(N) / np.sqrt(N),
        "a butterfly": ops.convert_to_numpy(butterfly.kernel),
        "DCT-II": scipy.fft.dct(np.eye(N), norm="ortho"),
    }


def rows(kernels: dict[str, np.ndarray], x: np.ndarray, chosen, console: Console):
    """Yield the name, the weights, the error of each kernel, and the error of the outputs on `x`, for each map.

    Args:
        kernels: name -> kernel. The outputs are those of the kernel "trained".
        x: the inputs of the layer.
        chosen: the names of the maps to fit. Empty: all.
        console: shows the progress.
    """
    outputs = x @ kernels["trained"]
    fitted = {name: layer for name, layer in layers().items() if not chosen or name in chosen}
    for name, layer in track(fitted.items(), "fit", console=console, disable=not console.is_terminal):
        # The DCT-II is not a single butterfly. `transforms.dct` represents it exactly by a product of butterflies.
        errors = {key: fitting.fit(layer, kernel) for key, kernel in kernels.items()}
        yield name, layer.effective_parameters, errors, fitting.fit(layer, kernels["trained"], (x, outputs))
    for rank in (10, 20, 30, 32):
        errors = {key: relative(low_rank(kernel, rank), kernel) for key, kernel in kernels.items()}
        directions = np.linalg.svd(outputs, full_matrices=False)[2][:rank]
        yield f"SVD, rank {rank}", 2 * N * rank, errors, relative(outputs @ directions.T @ directions, outputs)
    projected = {key: product(*monarch(kernel, (32, 32))) for key, kernel in kernels.items()}
    errors = {key: relative(projected[key], kernel) for key, kernel in kernels.items()}
    yield "Monarch, radix 32", 2 * N * 32, errors, relative(x @ projected["trained"], outputs)


def product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the dense matrix (N, N) of two Monarch factors."""
    return np.einsum("jlp,pjo->jlop", first, second).reshape(N, N)


@click.command()
@click.option("--model", "path", type=click.Path(exists=True), required=True, help="A trained .keras file.")
@click.option("--layer", default="hidden_1", show_default=True, help="Its Dense(1024) on 1024 inputs.")
@click.option("--map", "chosen", multiple=True, type=click.Choice(list(layers())), help="Fit only this; repeatable.")
@click.option("--json", "report", type=click.Path(), help="Also write the figures to this new file.")
def main(path, layer, chosen, report):
    if report:
        files.check_writable(report)
    console, model = Console(width=140), keras.models.load_model(path)
    dense = model.get_layer(layer)
    images = load("fashion_mnist").x_train[:FITTED_ON]
    x = keras.Model(model.inputs, dense.input).predict(images, verbose=0)
    known = kernels(ops.convert_to_numpy(dense.kernel))
    table = Table("map", title="Relative error of the kernel, and of the outputs on data", title_justify="left")
    for column in ("weights", *known, "outputs of trained"):
        table.add_column(column, justify="right")
    found = []
    for name, weights, errors, on_data in rows(known, x - x.mean(0), chosen, console):
        found.append({"map": name, "weights": weights, "kernel": errors, "outputs": on_data})
        table.add_row(
            name,
            f"{weights:,}",
            *(f"{error:.1e}" if error < 1e-3 else f"{error:.3f}" for error in errors.values()),
            f"{on_data:.3f}",
        )
        console.print(f"{name}: {on_data:.3f}")
    exact = relative(transforms.dct(N)(np.eye(N, dtype=np.float32)), known["DCT-II"])
    console.print(table)
    console.print(f"transforms.dct({N}), a product of 10 butterflies: DCT-II within {exact:.1e}")
    if report:
        files.write(report, json.dumps(found, indent=2).encode())


if __name__ == "__main__":
    main()
