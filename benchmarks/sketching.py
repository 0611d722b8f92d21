"""Measure how fast sketches are applied: B X for a matrix X of shape (n, d), NumPy arrays in and out.

    python benchmarks/sketching.py [--n 25000] [--d 200] [--ell 40] [--density 0.01] [--runs 30]

The figures are medians of seconds, and the variants take turns. The variants are:

- the Gaussian sketch as NumPy's matmul;
- the butterfly sketch stage by stage and by block factors, both compiled by XLA, and folded into one matrix;
- sparse sketches with one and with four non-zeros in each column, as scipy.sparse products;
- the sparse sketch with one non-zero in each column, by taking the rows of X for each row of B;
- a single row of a dense sketch. X is read once and little else is done, so hardly any sketch is faster.

Then the same is measured for a scipy sparse matrix X, in which the part `density` of all entries is not zero.
"""

import time

import click
import numpy as np
import scipy.sparse
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_butterfly.sketching import ButterflySketch, GaussianSketch, SparseSketch
from keras_butterfly.structure import kernels
from keras_butterfly.structure.fusion import best_factors


def compiled(function):
    """Return `function`, compiled by XLA, on NumPy arrays."""
    traced = tf.function(function, jit_compile=True)
    return lambda X: traced(X).numpy()


def dense_variants(n: int, d: int, ell: int) -> dict:
    """Return functions that apply sketches to a dense X, by name."""
    butterfly, gaussian = ButterflySketch(ell, seed=0), GaussianSketch(ell, seed=0)
    for sketch in (butterfly, gaussian):
        sketch.build((n, d))
    wiring, weights = butterfly.butterfly.wiring, butterfly.butterfly.gadget_weights[0]
    matrix, folded = np.asarray(gaussian.matrix), np.asarray(butterfly.matrix)
    factors = best_factors(wiring)
    variants = {
        "one row of a dense sketch": lambda X: matrix[0] @ X,
        "Gaussian, matmul": lambda X: matrix @ X,
        "butterfly, folded before": lambda X: folded @ X,
        "butterfly, folded each time": lambda X: np.asarray(butterfly.matrix) @ X,
        "butterfly, by stages": compiled(lambda X: tf.transpose(kernels.apply_stages(tf.transpose(X), wiring, weights))),
        f"butterfly, factors of {tuple(factor.count for factor in factors)} stages": compiled(
            lambda X: tf.transpose(kernels.apply_factors(tf.transpose(X), wiring, weights, factors))
        ),
    }
    return variants | sparse_products(n, d, ell) | {"sparse, 1 per column, by taking rows": taken(n, d, ell)}


def taken(n: int, d: int, ell: int):
    """Return a function that applies a sketch with one non-zero in each column by taking rows of X."""
    sketch = SparseSketch(ell, seed=0)
    sketch.build((n, d))
    matrix = np.asarray(sketch.matrix)
    places = [np.flatnonzero(row) for row in matrix]
    values = [row[place] for row, place in zip(matrix, places, strict=True)]
    return lambda X: np.stack([value @ X.take(place, 0) for value, place in zip(values, places, strict=True)])


def sparse_products(n: int, d: int, ell: int) -> dict:
    """Return functions that apply sparse sketches as products of scipy.sparse, by name."""
    variants = {}
    for nonzeros in (1, 4):
        sketch = SparseSketch(ell, nonzeros, seed=0)
        sketch.build((n, d))
        matrix = scipy.sparse.csr_matrix(np.asarray(sketch.matrix))
        variants[f"sparse, {nonzeros} per column"] = lambda X, matrix=matrix: matrix @ X
    return variants


def sparse_variants(n: int, d: int, ell: int) -> dict:
    """Return functions that apply sketches to a sparse X, by name.

    A dense sketch costs `ell` multiply-adds for every non-zero of X, whatever its structure.
    """
    gaussian = GaussianSketch(ell, seed=0)
    gaussian.build((n, d))
    transposed = np.ascontiguousarray(np.asarray(gaussian.matrix).T)
    return {"Gaussian or butterfly, folded": lambda X: X.T @ transposed} | sparse_products(n, d, ell)


def medians(variants: dict, X, runs: int) -> dict[str, float]:
    """Return the median seconds of each variant. The variants take turns, and the first round is not timed."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(runs + 1):
        for name, apply in variants.items():
            start = time.perf_counter()
            apply(X)
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def table(title: str, found: dict[str, float], baseline: str) -> Table:
    """Return a table of the median seconds of each variant in milliseconds, and of the speed-ups over the baseline."""
    shown = Table(title=title, title_justify="left")
    for column in ("variant", "median ms", f"speed-up over {baseline}"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, seconds in found.items():
        shown.add_row(name, f"{1e3 * seconds:.2f}", f"{found[baseline] / seconds:.2f}x")
    return shown


@click.command()
@click.option("--n", default=25_000, show_default=True)
@click.option("--d", default=200, show_default=True)
@click.option("--ell", default=40, show_default=True)
@click.option("--density", default=0.01, show_default=True)
@click.option("--runs", default=30, show_default=True)
def main(n, d, ell, density, runs):
    console, rng = Console(width=120), np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype("float32")
    found = medians(dense_variants(n, d, ell), X, runs)
    console.print(table(f"X ({n}, {d}) dense, ell = {ell}, float32", found, "Gaussian, matmul"))
    sparse = scipy.sparse.random(n, d, density, format="csr", dtype="float32", random_state=0)
    found = medians(sparse_variants(n, d, ell), sparse, runs)
    title = f"X ({n}, {d}) with {density:.1%} non-zeros, ell = {ell}, float32"
    console.print(table(title, found, "Gaussian or butterfly, folded"))


if __name__ == "__main__":
    main()
