"""Check that no exported butterfly layer is slower than an exported Dense layer, for all sizes, ranks and precisions.

    python benchmarks/sweep.py [--sizes 8,16,...] [--precisions float32,float16,dynamic,int8] [--runs 60] [--json FILE]

Each butterfly layer is measured in turn with a Dense layer of the same width. Where a dense kernel is the fastest lowering, the
planner takes it. Both files then do the same, and the ratio of their latencies shows the noise.
"""

import json

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files

SIZES = (8, 16, 32, 64, 100, 128, 256, 300, 512, 640, 784, 1024, 1280, 2048, 3000, 4096, 8192)
# The relative difference that was seen between two measurements of the same file in one run.
NOISE = 0.1


def layers(n: int) -> dict[str, keras.Layer]:
    """Return the butterfly layers of width n, by name."""
    ranks = {"k = log2 n": None, "k = 64": 64, "k = n / 4": n // 4}
    butterfly_dense = {
        f"ButterflyDense, {name}": ButterflyDense(n, k1=k, k2=k, seed=0) for name, k in ranks.items() if k is None or k < n
    }
    return {"Butterfly": Butterfly(n, seed=0), **butterfly_dense}


def exported(layer: keras.Layer, n: int, precision: str) -> export.TFLiteModel:
    """Return the export of a model of a single layer."""
    quantize = None if precision == "float32" else precision
    typical = np.random.default_rng(0).standard_normal((100, n))
    model = keras.Sequential([keras.Input((n,)), layer])
    return export.to_tflite(model, quantize=quantize, representative_data=typical, wisdom=export.Wisdom())


def compared(n: int, precision: str, runs: int) -> list[dict]:
    """Export and measure the layers of width n beside Dense, and return the figures of each."""
    variants = {"Dense": exported(keras.layers.Dense(n), n, precision)}
    variants |= {name: exported(layer, n, precision) for name, layer in layers(n).items()}
    comparison = export.compare(variants, runs=runs)
    dense = variants.pop("Dense").parity.relative_error
    return [
        {
            "n": n,
            "precision": precision,
            "layer": name,
            "lowering": str(model.plan[0].lowering),
            "microseconds": comparison.latencies[name].median * 1e6,
            "speedup": comparison.speedup(name),
            "error_over_dense": model.parity.relative_error / dense if dense else 0.0,
        }
        for name, model in variants.items()
    ]


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Widths n, separated by commas.")
@click.option("--precisions", default="float32,float16,dynamic,int8", show_default=True)
@click.option("--runs", default=60, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
@click.option("--json", "path", type=click.Path(), help="Also write all rows to this new file.")
def main(sizes, precisions, runs, path):
    if path:
        files.check_writable(path)
    cases = [(int(n), precision) for precision in precisions.split(",") for n in sizes.split(",")]
    rows = [row for n, precision in track(cases, description="sizes") for row in compared(n, precision, runs)]
    table = Table("precision", "n", "layer", "lowering", "us", "speed-up", "error / Dense's")
    for row in rows:
        slower = row["speedup"] < 1 - NOISE
        speedup = f"{row['speedup']:.2f}x{' SLOWER' if slower else ''}"
        figures = f"{row['microseconds']:.2f}", speedup, f"{row['error_over_dense']:.2f}"
        table.add_row(row["precision"], str(row["n"]), row["layer"], row["lowering"], *figures)
    Console(width=150).print(table)
    slower = sum(row["speedup"] < 1 - NOISE for row in rows)
    print(f"{len(rows)} exports, {slower} slower than Dense by more than {NOISE:.0%}")
    if path:
        files.write(path, json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    main()
