"""Whether an export has become dearer on Arm: the counts of 18 standard exports beside those in benchmarks/arm.json.

    keras-butterfly devices setup arm64
    python benchmarks/arm.py            # exits with code 1 if a count is more than 2 % above the one in the file
    python benchmarks/arm.py --update   # writes the file

The exports are Dense, Butterfly and ButterflyDense with 256, 1024 and 4096 units, in float32 and in int8, planned by estimates.
Their weights and data have fixed seeds, and counts have no noise. So the same code gives the same counts on every machine.
"""

import json
import sys
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files
from keras_butterfly.export.measurement.timing import measure_all
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable

PINNED = Path(__file__).with_name("arm.json")
TOLERANCE = 0.02
LAYERS = {
    "Dense": lambda n: keras.layers.Dense(n, kernel_initializer=keras.initializers.GlorotUniform(seed=0)),
    "Butterfly": lambda n: Butterfly(n, seed=0),
    "ButterflyDense": lambda n: ButterflyDense(n, seed=0),
}
SIZES, PRECISIONS = (256, 1024, 4096), (None, "int8")


def exported(kind: str, n: int, quantize: str | None) -> bytes:
    """Return the .tflite file of one layer. It is the same at every call."""
    keras.utils.set_random_seed(0)  # of initializers that take no seed from their layer, such as that of W' in ButterflyDense
    model = keras.Sequential([keras.Input((n,)), LAYERS[kind](n)])
    data = np.random.default_rng(0).standard_normal((100, n)).astype("float32") if quantize else None
    # Where an estimate is not exact enough, the candidates are measured. The counts of arm64 make that repeatable too.
    settings = {"effort": "estimate", "device": "arm64", "wisdom": export.Wisdom(), "progress": False}
    return export.to_tflite(model, quantize=quantize, representative_data=data, **settings).content


def measured() -> dict:
    """Return the conditions of the measurement, and the counts of all exports."""
    names = [(kind, n, quantize) for kind in LAYERS for n in SIZES for quantize in PRECISIONS]
    with Progress() as bars:
        models = {
            f"{kind} {n} {quantize or 'float32'}": exported(kind, n, quantize)
            for kind, n, quantize in bars.each(names, "export")
        }
    figures = measure_all(models, device="arm64")
    first = next(iter(figures.values()))
    counts = {name: {"instructions": each.instructions, "reads": each.reads} for name, each in figures.items()}
    return {"core": first.core, "runtime": first.runtime, "machine": first.machine, "date": first.when[:10], "counts": counts}


def table(before: dict, after: dict) -> TextTable:
    """Return the counts before and after, with the change of each in percent."""
    rows = TextTable("export", title=f"{after['core']}, {after['runtime']}, {after['machine']}", title_justify="left")
    for column in ("instructions before", "after", "change", "reads before", "after", "change"):
        rows.add_column(column, justify="right")
    for name, new in after["counts"].items():
        cells = []
        for unit, count in new.items():
            old = before["counts"][name][unit]
            cells += [f"{old:,}", f"{count:,}", f"{count / old - 1:+.1%}"]
        rows.add_row(name, *cells)
    return rows


def dearer(before: dict, after: dict) -> list[str]:
    """Return the names of the exports that execute more instructions or reads than the tolerance permits."""
    limit = 1 + TOLERANCE
    return [
        name
        for name, new in after["counts"].items()
        if any(count > limit * before["counts"][name][unit] for unit, count in new.items())
    ]


@click.command()
@click.option("--update", is_flag=True, help="Write the counts to benchmarks/arm.json.")
def main(update):
    if not update and not PINNED.exists():
        raise click.ClickException("Expected the counts in benchmarks/arm.json. Run `python benchmarks/arm.py --update` first.")
    after = measured()
    if update:
        files.write(PINNED, (json.dumps(after, indent=1) + "\n").encode(), overwrite=True)
    before = json.loads(PINNED.read_text())
    Console(width=130).print(table(before, after))
    names = dearer(before, after)
    if names:
        print(
            f"Dearer by more than {TOLERANCE:.0%}: {', '.join(names)}. benchmarks/arm.json was made with {before['runtime']} "
            f"and {before['machine']}. If the change is wanted, run `python benchmarks/arm.py --update`."
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
