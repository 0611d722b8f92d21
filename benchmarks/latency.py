"""Latency of exported layers against Dense: one thread, all variants interleaved in one run.

    python benchmarks/latency.py [--sizes 256,1024,4096] [--batch 1] [--quantize int8] [--runs 300] [--json FILE]

For every width n it exports Dense(n), Butterfly(n) as "gather" and "auto", and ButterflyDense(n) with default k as "auto",
prints medians, speed-ups and errors against Keras on normal inputs, and a model of one addition, whose time is what an
invocation costs by itself. Dense is quantised as the butterflies are.
"""

import json

import click
import keras
import numpy as np
from rich.console import Console

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files

# The least speed-ups over Dense(n) and over the butterfly's own gather export that the project aims at, at n = 1024, batch 1.
TARGETS = {"Butterfly auto": 30, "ButterflyDense auto": 40, "Butterfly auto over gather": 5}


def exported(layer: keras.Layer, n: int, batch: int, quantize: str | None, lowering: str = "auto") -> export.TFLiteModel:
    typical = np.random.default_rng(0).standard_normal((100 * batch, n))
    model = keras.Sequential([keras.Input((n,)), layer])
    settings = {"quantize": quantize, "representative_data": typical, "batch_size": batch}
    return export.to_tflite(model, lowering=lowering, **settings)


def models(n: int, batch: int, quantize: str | None) -> dict[str, export.TFLiteModel]:
    butterfly = Butterfly(kernel_initializer="orthogonal", seed=0)
    return {
        f"Dense({n})": exported(keras.layers.Dense(n), n, batch, quantize),
        f"Butterfly({n}) gather": exported(butterfly, n, batch, quantize, "gather"),
        f"Butterfly({n}) auto": exported(butterfly, n, batch, quantize),
        f"ButterflyDense({n}) auto": exported(ButterflyDense(n, seed=0), n, batch, quantize),
        "one addition": exported(keras.layers.Rescaling(1.0, 1.0), 1, batch, None),
    }


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
@click.option("--quantize", type=click.Choice(["float16", "dynamic", "int8"]), help="[default: float32]")
@click.option("--runs", default=300, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
@click.option("--json", "path", type=click.Path(), help="Also write all raw figures to this new file.")
def main(sizes, batch, quantize, runs, path):
    console = Console(width=140)
    if path:
        files.check_writable(path)
    report = {}
    for n in [int(size) for size in sizes.split(",")]:
        variants = models(n, batch, quantize)
        comparison = export.compare(variants, runs=runs)
        errors = {name: model.parity.relative_error for name, model in variants.items()}
        report[n] = {**comparison.to_dict(), "relative_errors": errors}
        console.print(comparison.table())
        console.print("error: ", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()), highlight=False)
        if (n, batch, quantize) == (1024, 1, None):
            console.print(*against_targets(comparison, n), "", sep="\n", highlight=False)
    if path:
        files.write(path, json.dumps(report).encode())


if __name__ == "__main__":
    main()
