"""Measure lowerings of many sizes, and fit to them the costs that estimates are made of, in seconds per unit of work.

    python benchmarks/costs.py [--samples 15] [--runs 15] [--keep] [--output export/planning/costs.json --overwrite]

The fit is non-negative least squares on relative errors. Each precision is fitted separately, and so are one row and several
rows. The program prints how far the fitted estimates are from the measurements.

With `--keep` the costs in export/planning/costs.json stay as they are, and only those of new units of work are added. This
machine may be faster or slower than the one of the file. How many times is the median over lowerings without new units, and
all measurements are divided by that number.
"""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import date

import click
import numpy as np
import tensorflow as tf
from rich.progress import track
from scipy.optimize import nnls

from keras_butterfly import Butterfly, ButterflyDense
from keras_butterfly.export import files
from keras_butterfly.export.lowering import Dense, Fused, Layer, Lowering, lower
from keras_butterfly.export.measurement import devices
from keras_butterfly.export.measurement.timing import measure_all
from keras_butterfly.export.planning.candidates import lowerings
from keras_butterfly.export.planning.cost import COSTS, work
from keras_butterfly.export.tflite.converter import convert
from keras_butterfly.export.tflite.quantize import Precision

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MAX_DENSE_WIDTH = 4096
# A lowering of more factors than this takes long to convert.
MAX_FACTORS = 6
# Numbers of rows. One row is fitted separately, because XNNPACK has special kernels for it.
REGIMES = {"row": (1,), "rows": (3, 16, 64)}


def layers(kept: bool) -> Iterator[tuple[int, Layer]]:
    """Return the sizes and the layers to measure. Where costs are kept, those of full butterflies show the new units."""
    for n in SIZES:
        products = () if kept else (ButterflyDense(n, seed=0), ButterflyDense(n, k1=n // 4, k2=n // 4, seed=0))
        for layer in (Butterfly(seed=0), *products):
            layer.build((None, n))
            yield n, layer


def drawn(layer, n: int, samples: int, draw: random.Random, known: dict) -> list[Lowering]:
    """Return a sample of the fused lowerings of a layer, and all of its other lowerings.

    Where costs are kept, return a sample of the fused lowerings with new units of work, and one of those without.
    """
    choices = [lowering for lowering in lowerings(layer) if not isinstance(lowering, Dense) or n <= MAX_DENSE_WIDTH]
    fused = [lowering for lowering in choices if isinstance(lowering, Fused)]
    several = [lowering for lowering in fused if sum(len(grouping.blocks) for grouping in lowering.groupings) <= MAX_FACTORS]
    rest = [] if known else [lowering for lowering in choices if lowering not in fused]
    new = [lowering for lowering in several if known and not set(work(layer, lowering, 1)) <= set(known)]
    old = [lowering for lowering in several if lowering not in new]
    return rest + [each for kind in (new, old) for each in draw.sample(kind, min(samples, len(kind)))]


def measured(precision: Precision, rows: int, samples: int, runs: int, known: dict) -> list[tuple[dict, float]]:
    """Measure a sample of lowerings of every layer, and return the work and the seconds of each."""
    draw, points = random.Random(0), []
    for n, layer in track(list(layers(bool(known))), description=f"{precision.name or 'float32'}, {rows} rows"):
        spec = [tf.TensorSpec((rows, n), name="x")]
        x = np.random.default_rng(0).standard_normal((4 * rows, n)).astype("float32")
        batches = [{"x": x[start : start + rows]} for start in range(0, len(x), rows)]
        chosen = drawn(layer, n, samples, draw, known)
        models = {str(lowering): convert(lower(layer, lowering), spec, precision, batches) for lowering in chosen}
        latencies = measure_all(models, runs=runs) if models else {}
        points += [(work(layer, lowering, rows), latencies[str(lowering)].median) for lowering in chosen]
    return points


def fitted(points: Sequence[tuple[dict, float]], known: dict) -> dict[str, float]:
    """Return the seconds per unit of each kind of work: the known ones, and for other units those that fit `points` best."""
    units = sorted({unit for amounts, _ in points for unit in amounts} - known.keys())
    points = [point for point in points if not point[0].keys() <= known.keys()]
    seconds = np.array([second for _, second in points])
    rest = np.array([second - priced(amounts, known) for amounts, second in points]).clip(min=0.0) / seconds
    matrix = np.array([[amounts.get(unit, 0.0) for unit in units] for amounts, _ in points]) / seconds[:, None]
    scale = matrix.max(axis=0).clip(min=1e-30)
    solution, _ = nnls(matrix / scale, rest, maxiter=10_000)
    return dict(sorted({**known, **dict(zip(units, (solution / scale).tolist(), strict=True))}.items()))


def slowness(points: Sequence[tuple[dict, float]], known: dict) -> float:
    """Return the median of measured by estimated seconds over the lowerings whose units all have a cost in `known`."""
    return float(np.median([second / priced(amounts, known) for amounts, second in points if set(amounts) <= set(known)]))


def priced(amounts: dict, costs: dict) -> float:
    """Return the estimated seconds of a lowering: its amounts of work times their costs. Units without a cost count nothing."""
    return sum(amount * costs.get(unit, 0.0) for unit, amount in amounts.items())


def spread(points: Sequence[tuple[dict, float]], costs: dict[str, float]) -> str:
    """Return in words how far the estimates are from the measurements."""
    ratios = [priced(amounts, costs) / second for amounts, second in points]
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    return (
        f"estimate / measurement of {len(points)} lowerings: 10 % below {low:.2f}, median {middle:.2f}, 10 % above {high:.2f}"
    )


@click.command()
@click.option("--samples", default=15, show_default=True, type=click.IntRange(min=1), help="Fused lowerings of each layer.")
@click.option("--runs", default=15, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each.")
@click.option("--keep", is_flag=True, help="Keep the costs in costs.json, and fit only those of new units.")
@click.option("--output", type=click.Path(), help="Write the costs to this file, as JSON.")
@click.option("--overwrite", is_flag=True)
def main(samples, runs, keep, output, overwrite):
    if output:
        files.check_writable(output, overwrite)
    saved = json.loads(COSTS.read_text()) if keep else {}
    costs: dict = {}
    for name, quantize in PRECISIONS.items():
        costs[name] = {}
        for regime, several in REGIMES.items():
            known = saved["seconds"][name][regime] if keep else {}
            each = samples // len(several)
            points = [point for rows in several for point in measured(Precision(quantize), rows, each, runs, known)]
            if keep:
                slower = slowness(points, known)
                print(f"{name}, {regime}: this machine takes {slower:.2f} times the estimates.")
                points = [(amounts, second / slower) for amounts, second in points]
            costs[name][regime] = fitted(points, known)
            print(f"{name}, {regime}:", spread(points, costs[name][regime]), flush=True)
    host = devices.find("host")
    facts = {
        "machine": host.machine,
        "runtime": host.runtime,
        "date": str(date.today()),
        "command": "python benchmarks/costs.py" + (" --keep" if keep else ""),
    }
    # The facts of the costs that were kept stay, and those of the new ones are listed under "added".
    facts = {**saved, "added": [*saved.get("added", ()), facts]} if keep else facts
    if output:
        files.write(output, json.dumps({**facts, "seconds": costs}, indent=1).encode(), overwrite)


if __name__ == "__main__":
    main()
