"""Measure what the radix of a butterfly costs after the export, in each precision.

    python benchmarks/radices.py [--size 1024] [--radix 2 --radix 4 ...] [--runs 300]

The program exports Butterfly(n) with each radix in float32, "dynamic" and "int8". All files are measured in turn in one run,
with batch 1 and one thread.
"""

import click
import keras
import numpy as np
from keras_butterfly_cli.parameters import RadixType
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly, export

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}


def exported(size: int, radix, quantize: str | None) -> export.TFLiteModel:
    """Return the export of a butterfly on `size` inputs, calibrated on normally distributed numbers."""
    model = keras.Sequential([keras.Input((size,)), Butterfly(radix=radix, seed=0)])
    typical = np.random.default_rng(0).standard_normal((256, size)).astype("float32")
    return export.to_tflite(model, quantize=quantize, representative_data=typical)


@click.command()
@click.option("--size", default=1024, show_default=True, type=click.IntRange(min=2))
@click.option(
    "--radix",
    "radices",
    multiple=True,
    default=("2", "4", "8,8,16", "32,32"),
    show_default=True,
    type=RadixType(),
    help="Repeatable: a number, one number for each stage, or auto.",
)
@click.option("--runs", default=300, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
def main(size, radices, runs):
    models = {f"{r} {name}": exported(size, r, quantize) for r in radices for name, quantize in PRECISIONS.items()}
    comparison = export.compare(models, runs=runs)
    facts = comparison.latencies[comparison.baseline]
    table = Table(
        "radix", title=f"Butterfly({size}), us (KiB): lowering; {facts.runtime}, {facts.machine}", title_justify="left"
    )
    for precision in PRECISIONS:
        table.add_column(precision)
    for radix in radices:
        names = [f"{radix} {precision}" for precision in PRECISIONS]
        table.add_row(
            str(radix),
            *(
                f"{comparison.latencies[name].median * 1e6:.2f} ({models[name].size_bytes / 1024:.0f}): "
                f"{models[name].plan[0].lowering}"
                for name in names
            ),
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
