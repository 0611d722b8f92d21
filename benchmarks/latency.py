"""Latency of exported layers against Dense: float32, one thread, all variants interleaved in one run.

    python benchmarks/latency.py [--sizes 256,1024,4096] [--batch 1] [--runs 300] [--json latency.json]

For every width n it exports Dense(n), Butterfly(n) as "gather" and "auto", and ButterflyDense(n) with default k as "auto",
prints medians and speed-ups, and a model of one addition, whose time is what an invocation costs by itself.
"""

import json

import click
import keras
from rich.console import Console

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files

# The least speed-ups over Dense(n) and over the butterfly's own gather export that the project aims at, at n = 1024, batch 1.
TARGETS = {"Butterfly auto": 30, "ButterflyDense auto": 40, "Butterfly auto over gather": 5}


def exported(layer: keras.Layer, n: int, batch: int, lowering: str = "auto") -> export.TFLiteModel:
    return export.to_tflite(keras.Sequential([keras.Input((n,)), layer]), lowering=lowering, batch_size=batch)


def compare(n: int, batch: int, runs: int) -> export.Comparison:
    butterfly = Butterfly(kernel_initializer="orthogonal", seed=0)
    models = {
        f"Dense({n})": exported(keras.layers.Dense(n), n, batch),
        f"Butterfly({n}) gather": exported(butterfly, n, batch, "gather"),
        f"Butterfly({n}) auto": exported(butterfly, n, batch),
        f"ButterflyDense({n}) auto": exported(ButterflyDense(n, seed=0), n, batch),
        "one addition": exported(keras.layers.Rescaling(1.0, 1.0), 1, batch),
    }
    return export.compare(models, runs=runs)


def against_targets(comparison: export.Comparison, n: int) -> list[str]:
    gather, auto = (comparison.latencies[f"Butterfly({n}) {lowering}"].median for lowering in ("gather", "auto"))
    reached = {
        "Butterfly auto": comparison.speedup(f"Butterfly({n}) auto"),
        "ButterflyDense auto": comparison.speedup(f"ButterflyDense({n}) auto"),
        "Butterfly auto over gather": gather / auto,
    }
    return [
        f"{name}: {reached[name]:.1f}x, aim {aim}x, {'reached' if reached[name] >= aim else 'MISSED'}"
        for name, aim in TARGETS.items()
    ]


@click.command()
@click.option("--sizes", default="256,1024,4096", show_default=True, help="Widths n, separated by commas.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=300, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
@click.option("--json", "path", type=click.Path(), help="Also write all raw figures to this new file.")
def main(sizes, batch, runs, path):
    console = Console(width=140)
    if path:
        files.check_writable(path)
    report = {}
    for n in [int(size) for size in sizes.split(",")]:
        comparison = compare(n, batch, runs)
        report[n] = comparison.to_dict()
        console.print(comparison.table())
        if (n, batch) == (1024, 1):
            console.print(*against_targets(comparison, n), "", sep="\n", highlight=False)
    if path:
        files.write(path, json.dumps(report).encode())


if __name__ == "__main__":
    main()
