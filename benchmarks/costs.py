"""Measure lowerings of many sizes, and fit to them the costs that estimates are made of, in seconds per unit of work.

    python benchmarks/costs.py [--samples 15] [--runs 15] [--output export/planning/costs.json --overwrite]

The fit is non-negative least squares on relative errors. Each precision is fitted separately, and so are one row and several
rows. The program prints how far the fitted estimates are from the measurements.
"""

import json
import random
from datetime import date

import click
import numpy as np
import tensorflow as tf
from rich.progress import track
from scipy.optimize import nnls

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.export import files
from keras_butterfly.export.lowering import Dense, Fused, Lowering, lower
from keras_butterfly.export.measurement import devices
from keras_butterfly.export.measurement.timing import measure_all
from keras_butterfly.export.planning.candidates import lowerings
from keras_butterfly.export.planning.cost import work
from keras_butterfly.export.tflite.converter import convert
from keras_butterfly.export.tflite.quantize import Precision

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MAX_DENSE_WIDTH = 4096
# Numbers of rows. One row is fitted separately, because XNNPACK has special kernels for it.
REGIMES = {"row": (1,), "rows": (3, 16, 64)}


def layers():
    for n in SIZES:
        for layer in (Butterfly(seed=0), ButterflyDense(n, seed=0), ButterflyDense(n, k1=n // 4, k2=n // 4, seed=0)):
            layer.build((None, n))
            yield n, layer


def drawn(layer, n: int, samples: int, draw: random.Random) -> list[Lowering]:
    """Return a sample of the fused lowerings of a layer, and all of its other lowerings."""
    choices = [lowering for lowering in lowerings(layer) if not isinstance(lowering, Dense) or n <= MAX_DENSE_WIDTH]
    fused = [lowering for lowering in choices if isinstance(lowering, Fused)]
    several = [lowering for lowering in fused if sum(len(grouping.counts) for grouping in lowering.groupings) <= 6]
    rest = [lowering for lowering in choices if lowering not in fused]
    return rest + draw.sample(several, min(samples, len(several)))


def measured(precision: Precision, rows: int, samples: int, runs: int) -> list[tuple[dict, float]]:
    """Measure a sample of lowerings of every layer, and return the work and the seconds of each."""
    draw, points = random.Random(0), []
    for n, layer in track(list(layers()), description=f"{precision.name or 'float32'}, {rows} rows"):
        spec = [tf.TensorSpec((rows, n), name="x")]
        x = np.random.default_rng(0).standard_normal((4 * rows, n)).astype("float32")
        batches = [{"x": x[start : start + rows]} for start in range(0, len(x), rows)]
        chosen = drawn(layer, n, samples, draw)
        models = {str(lowering): convert(lower(layer, lowering), spec, precision, batches) for lowering in chosen}
        latencies = measure_all(models, runs=runs)
        points += [(work(layer, lowering, rows), latencies[str(lowering)].median) for lowering in chosen]
    return points


def fitted(points: list[tuple[dict, float]]) -> dict[str, float]:
    """Return the seconds per unit of each kind of work that fit the measurements best."""
    units = sorted({unit for amounts, _ in points for unit in amounts})
    seconds = np.array([second for _, second in points])
    matrix = np.array([[amounts.get(unit, 0.0) for unit in units] for amounts, _ in points]) / seconds[:, None]
    scale = matrix.max(axis=0).clip(min=1e-30)
    solution, _ = nnls(matrix / scale, np.ones(len(points)), maxiter=10_000)
    return dict(zip(units, solution / scale, strict=True))


def spread(points: list[tuple[dict, float]], costs: dict[str, float]) -> str:
    ratios = [sum(amount * costs.get(unit, 0.0) for unit, amount in amounts.items()) / second for amounts, second in points]
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return (
        f"estimate / measurement of {len(points)} lowerings: 10 % below {low:.2f}, median {middle:.2f}, 10 % above {high:.2f}"
    )


@click.command()
@click.option("--samples", default=15, show_default=True, type=click.IntRange(min=1), help="Fused lowerings of each layer.")
@click.option("--runs", default=15, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each.")
@click.option("--output", type=click.Path(), help="Write the costs to this file, as JSON.")
@click.option("--overwrite", is_flag=True)
def main(samples, runs, output, overwrite):
    if output:
        files.check_writable(output, overwrite)
    costs: dict = {}
    for name, quantize in PRECISIONS.items():
        costs[name] = {}
        for regime, several in REGIMES.items():
            points = [point for rows in several for point in measured(Precision(quantize), rows, samples // len(several), runs)]
            costs[name][regime] = fitted(points)
            print(f"{name}, {regime}:", spread(points, costs[name][regime]), flush=True)
    host = devices.find("host")
    facts = {
        "machine": host.machine,
        "runtime": host.runtime,
        "date": str(date.today()),
        "command": "python benchmarks/costs.py",
    }
    if output:
        files.write(output, json.dumps({**facts, "seconds": costs}, indent=1).encode(), overwrite)


if __name__ == "__main__":
    main()
