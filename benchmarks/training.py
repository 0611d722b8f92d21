"""Measure the forward and backward pass of single layers beside Dense: batch 128, float32, all variants in turn.

    python benchmarks/training.py [--sizes 1024,4096] [--batch 128] [--runs 15] [--json training.json]

The layers for every width n are Dense(n), the low-rank pair Dense(k)-Dense(n) with k = log2 n, Butterfly(n), and
ButterflyDense(n) with default k. Each is run as a TensorFlow graph, and compiled by XLA. The gradient is taken with respect to
the input and all weights.
"""

import json
import time
from collections.abc import Callable

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.export import files
from keras_butterfly.export.measurement import devices
from keras_butterfly.layers.butterfly_dense import default_width


def layers(n: int) -> dict[str, Callable[[], keras.Model]]:
    """Return a function for each kind of layer that makes a model of n inputs and n outputs."""
    parts = {
        "Dense": lambda: [keras.layers.Dense(n)],
        "low-rank pair": lambda: [keras.layers.Dense(default_width(n), use_bias=False), keras.layers.Dense(n)],
        "Butterfly": lambda: [Butterfly(n, seed=0)],
        "Butterfly gather": lambda: [Butterfly(n, seed=0, implementation="gather")],
        "ButterflyDense": lambda: [ButterflyDense(n, seed=0)],
    }
    return {name: lambda make=make: keras.Sequential([keras.Input((n,)), *make()]) for name, make in parts.items()}


def step(model: keras.Model, x: tf.Tensor, upstream: tf.Tensor, jit_compile: bool):
    """Return a function that runs the forward and backward pass once and waits for the result."""

    @tf.function(jit_compile=jit_compile, autograph=False)
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x, training=True) * upstream)
        return tape.gradient(loss, [x, *(weight.value for weight in model.trainable_weights)])

    return lambda: [gradient.numpy() for gradient in gradients(x)]


def measure(n: int, batch: int, runs: int) -> dict[str, list[float]]:
    """Measure all variants of width n, and return the raw seconds of each."""
    rng = np.random.default_rng(0)
    x, upstream = (tf.constant(rng.standard_normal((batch, n)), tf.float32) for _ in range(2))
    steps = {
        f"{name}{' XLA' if jit else ''}": step(make(), x, upstream, jit)
        for name, make in layers(n).items()
        for jit in (False, True)
    }
    for run in steps.values():  # traces and compiles, then warms up
        run(), run()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(n: int, batch: int, seconds: dict[str, list[float]]) -> Table:
    """Return a table of the raw seconds of each layer of width n, as medians in milliseconds."""
    result = Table(
        title=f"n = {n}, batch {batch}, forward + backward, TensorFlow {tf.__version__}, {devices.find('host').machine}",
        title_justify="left",
    )
    for column in ("layer", "graph ms", "against Dense", "XLA ms", "against Dense"):
        result.add_column(column, justify="left" if column == "layer" else "right")
    medians = {name: float(np.median(raw)) for name, raw in seconds.items()}
    for name in [name for name in medians if not name.endswith(" XLA")]:
        cells = []
        for suffix in ("", " XLA"):
            median = medians[name + suffix]
            cells += [f"{median * 1e3:,.2f}", f"{medians['Dense' + suffix] / median:.1f}x"]
        result.add_row(name, *cells)
    return result


@click.command()
@click.option("--sizes", default="1024,4096", show_default=True, help="Widths n, separated by commas.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=15, show_default=True, type=click.IntRange(min=1), help="Timed steps of each variant.")
@click.option("--json", "path", type=click.Path(), help="Also write all raw figures, in seconds, to this new file.")
def main(sizes, batch, runs, path):
    console = Console(width=120)
    if path:
        files.check_writable(path)
    report = {}
    for n in [int(size) for size in sizes.split(",")]:
        report[n] = measure(n, batch, runs)
        console.print(table(n, batch, report[n]))
    if path:
        files.write(path, json.dumps(report).encode())


if __name__ == "__main__":
    main()
