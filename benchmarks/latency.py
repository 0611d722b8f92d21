"""Measure the latency of exported butterfly layers beside an exported Dense layer, with one thread and all files in turn.

    python benchmarks/latency.py [--sizes 256,512,1024,2048,4096,8192] [--batch 1] [--quantize int8] [--radix 4] [--runs 200]
        [--json FILE]

For every width n the program exports Dense(n), Butterfly(n) with the lowerings "gather" and "auto", and ButterflyDense(n) with
default k and the lowering "auto". Dense is quantized as the butterflies are.

Output: a table of medians, speed-ups, and errors against Keras on normally distributed inputs. Then a table of the speed-ups
beside the project's aims, and of how near each butterfly is to its limit. The limit is

    bytes of the file / memory bandwidth of this machine + number of operators x time of one more small operator

The bandwidth and the time of an operator are measured first.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the bandwidth of one thread, as the models run on one

import json
import time

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files
from keras_butterfly.export.tflite.converter import convert

SIZES = (256, 512, 1024, 2048, 4096, 8192)
# The smallest speed-ups that the project aims at, by batch and precision. They are over Dense, and those of "over gather" are
# over the export of the same butterfly with the lowering "gather".
AIMS = {
    (1, None): {
        "Butterfly": dict(zip(SIZES, (2, 4.5, 35, 65, 150, 350), strict=True)),
        "ButterflyDense": dict(zip(SIZES, (2.5, 6, 55, 100, 300, 600), strict=True)),
        "over gather": dict(zip(SIZES, (4, 4, 6, 5, 6, 4), strict=True)),
    },
    (128, None): {"Butterfly": dict(zip(SIZES, (2, 4, 8, 10, 20, 25), strict=True))},
    (1, "int8"): {"Butterfly": {512: 1, 1024: 1, 2048: 1, 4096: 20, 8192: 1}},
}
# precision -> the largest error that the project aims at, as a multiple of the error of Dense.
MAX_ERRORS = {"int8": 1.5}
STREAM = 2**26  # number of float32 values, 256 MiB
ADDITIONS = 65


def exported(layer: keras.Layer, n: int, batch: int, quantize: str | None, lowering: str = "auto") -> export.TFLiteModel:
    """Return the export of a model of a single layer on `n` inputs."""
    # Only quantization needs data. Without data an export is compared on a few random batches, which take less memory.
    typical = np.random.default_rng(0).standard_normal((max(1000, 100 * batch), n)) if quantize else None
    model = keras.Sequential([keras.Input((n,)), layer])
    return export.to_tflite(
        model, lowering=lowering, quantize=quantize, representative_data=typical, batch_size=batch, wisdom=export.Wisdom()
    )


def models(n: int, batch: int, quantize: str | None, radix: int) -> dict[str, export.TFLiteModel]:
    """Return the exports of one width, by name."""
    butterfly = Butterfly(radix=radix, seed=0)
    return {
        f"Dense({n})": exported(keras.layers.Dense(n), n, batch, quantize),
        f"Butterfly({n}) gather": exported(butterfly, n, batch, quantize, "gather"),
        f"Butterfly({n}) auto": exported(butterfly, n, batch, quantize),
        f"ButterflyDense({n}) auto": exported(ButterflyDense(n, seed=0), n, batch, quantize),
    }


def bandwidth() -> float:
    """Return how many bytes per second one thread reads, measured by the dot product of one long vector with itself."""
    values = np.ones(STREAM, np.float32)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        np.dot(values, values)
        seconds.append(time.perf_counter() - start)
    return values.nbytes / float(np.median(seconds))


def overheads() -> tuple[float, float]:
    """Return the seconds of an invocation of a model with one small operator, and the seconds that each further one adds."""

    def additions(count):
        def added(x, y):
            for _ in range(count):
                x = x + y  # The converter cannot simplify a sum of two inputs.
            return x

        return convert(added, [tf.TensorSpec((1, 1), name=name) for name in ("x", "y")])

    one, many = additions(1), additions(ADDITIONS)
    measured = export.compare({"one": one, "many": many}, runs=200)
    counts = {name: len(measured.operators[name]) for name in measured.operators}
    times = {name: latency.median for name, latency in measured.latencies.items()}
    return times["one"], (times["many"] - times["one"]) / (counts["many"] - counts["one"])


def speedups(comparison: export.Comparison, n: int) -> dict[str, float]:
    """Return the speed-ups of one width that have aims, by the names in `AIMS`."""
    gather, auto = (comparison.latencies[f"Butterfly({n}) {lowering}"].median for lowering in ("gather", "auto"))
    return {
        "Butterfly": comparison.speedup(f"Butterfly({n}) auto"),
        "ButterflyDense": comparison.speedup(f"ButterflyDense({n}) auto"),
        "over gather": gather / auto,
    }


def listed(title: str, values: dict, form: str = "") -> str:
    """Return a line of text with a title, and the name and the value of each model."""
    return f"{title}: {', '.join(f'{name} {value:{form}}' for name, value in values.items())}"


def against_aims(reached: dict[int, dict[str, float]], aims: dict[str, dict[int, float]]) -> Table:
    """Return a table of the speed-ups at each width, beside those that the project aims at."""
    table = Table("", *(f"n = {n}" for n in reached), title="speed-up (aim)", title_justify="left")
    for name in next(iter(reached.values())):
        cells = []
        for n, ratios in reached.items():
            aim = aims.get(name, {}).get(n)
            text = f"{ratios[name]:.1f}x"
            cells.append(text if aim is None else f"{text} ({aim:g}x{'' if ratios[name] >= aim else ', MISSED'})")
        table.add_row(name, *cells)
    return table


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Widths n, separated by commas.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--quantize", type=click.Choice(["float16", "dynamic", "int8"]), help="[default: float32]")
@click.option("--radix", default=4, show_default=True, type=click.IntRange(min=2), help="Of Butterfly(n).")
@click.option("--runs", default=200, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
@click.option("--json", "path", type=click.Path(), help="Also write all raw figures to this new file.")
def main(sizes, batch, quantize, radix, runs, path):
    console = Console(width=150)
    if path:
        files.check_writable(path)
    stream, (invocation, operator) = bandwidth(), overheads()
    console.print(
        f"streaming bandwidth {stream / 1e9:.1f} GB/s; an invocation {invocation * 1e6:.2f} us, "
        f"every further small operator {operator * 1e6:.3f} us",
        highlight=False,
    )
    report: dict = {"bandwidth": stream, "invocation": invocation, "operator": operator, "sizes": {}}
    reached, all_errors = {}, {}
    for n in [int(size) for size in sizes.split(",")]:
        variants = models(n, batch, quantize, radix)
        comparison = export.compare(variants, runs=runs)
        errors = all_errors[n] = {name: model.parity.relative_error for name, model in variants.items()}
        limits = {
            name: invocation + model.size_bytes / stream + (len(model.operators) - 1) * operator
            for name, model in variants.items()
        }
        report["sizes"][n] = {**comparison.to_dict(), "relative_errors": errors, "limits": limits}
        reached[n] = speedups(comparison, n)
        console.print(comparison.table())
        nearness = {name: comparison.latencies[name].median / limit for name, limit in limits.items()}
        lowered = {name: str(model.plan[0].lowering) for name, model in variants.items() if model.plan}
        lines = listed("error", errors, ".1e"), listed("time / limit", nearness, ".1f"), listed("lowered to", lowered), ""
        console.print(*lines, sep="\n", highlight=False)
    console.print(against_aims(reached, AIMS.get((batch, quantize), {})))
    if quantize in MAX_ERRORS:
        ratios = {n: errors[f"Butterfly({n}) auto"] / errors[f"Dense({n})"] for n, errors in all_errors.items()}
        aimed = (f"n = {n} {ratio:.2f}{'' if ratio <= MAX_ERRORS[quantize] else ' MISSED'}" for n, ratio in ratios.items())
        console.print(
            f"error of Butterfly over Dense's (aim at most {MAX_ERRORS[quantize]}):", ", ".join(aimed), highlight=False
        )
    if path:
        files.write(path, json.dumps(report).encode())


if __name__ == "__main__":
    main()
