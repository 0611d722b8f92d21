"""How fast are networks whose dense layers are replaced by butterflies? Untrained networks, exported and measured.

    python examples/dense_heavy/wide_latency.py FOLDER [--model NAME ...] [--precision NAME ...] [--quick]

Models: those of `wide_models.py`, and "head", the dense head of the VGG-like classifier alone. In each of them the wide dense
layers are replaced: in the transformer the projections of the attention too. The weights are random, because their values
change neither size nor latency.

Kinds: "dense"; "radix 4" and "two stages", butterflies; and "low rank", pairs of thin matrices with about as many weights as
the butterflies of radix 4. All files of one model and precision are measured in turn: one image at a time, one thread.

Output: every result is kept in FOLDER/latency.json. If the program is interrupted, start it again to continue.
"""

import sys
from functools import partial
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import wide_models
from results import Results

from keras_butterfly import export, replace_dense

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
# Smaller layers, such as those of ten classes, stay dense.
MIN_WEIGHTS = 100_000
RADICES = {"radix 4": 4, "two stages": "auto"}
DENSE, LOW_RANK = "dense", "low rank"


def head(width: int = 4096) -> keras.Model:
    """Return the dense head of the VGG-like classifier, on 1,024 features."""
    hidden = [keras.layers.Dense(width, activation="relu", name=f"head_{each}") for each in range(2)]
    return keras.Sequential([keras.Input((1024,)), *hidden, keras.layers.Dense(wide_models.CLASSES, activation="softmax")])


MODELS = {"head": head, **wide_models.MODELS}
QUICK = {
    "head": {"width": 512},
    "vgg": {"width": 512, "channels": (4, 4, 16)},
    "mixer": {"width": 128, "hidden": 1024, "blocks": 1},
    "transformer": {"width": 128, "hidden": 1024, "blocks": 1},
}


def variants(model: keras.Model) -> dict[str, keras.Model]:
    """Return the model with its dense layers and with layers of each other kind in their place, by kind."""

    def replaced(**arguments):
        return replace_dense(model, min_weights=MIN_WEIGHTS, where=dense, initialize="fresh", seed=0, **arguments)[0]

    found = {DENSE: model, **{kind: replaced(radix=radix) for kind, radix in RADICES.items()}}
    rank, target = 1, found["radix 4"].count_params()
    while (thin := replaced(kind="low_rank", rank=rank)).count_params() < target:
        rank += 1
    return found | {f"{LOW_RANK} {rank}": thin}


def dense(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is one of those that are replaced: all dense maps but convolutions."""
    return not isinstance(layer, keras.layers.Conv2D)


def measure(model: keras.Model, precision: str) -> dict[str, dict]:
    """Export a model in its variants, and return the bytes, the seconds and the weights of each."""
    data = np.random.default_rng(0).uniform(size=(40, *model.input_shape[1:])).astype("float32")
    made = variants(model)
    files = {
        kind: export.to_tflite(each, quantize=PRECISIONS[precision], representative_data=data, tolerance=1.0)
        for kind, each in made.items()
    }
    latencies = export.compare(files, runs=100).latencies
    return {
        kind: {
            "weights": made[kind].count_params(),
            "bytes": file.size_bytes,
            "seconds": latencies[kind].median,
            "lowerings": sorted({str(plan.lowering) for plan in file.plan}),
        }
        for kind, file in files.items()
    }


def table(results: dict, name: str) -> Table:
    """Return a table of the variants of a model: weights, and for each precision the size, the latency and the gain."""
    shown = Table("layers", "weights", *results[name], title=f"{name}: KiB, us, times as fast as dense")
    for kind, first in next(iter(results[name].values())).items():
        cells = []
        for found in results[name].values():
            gain = found[DENSE]["seconds"] / found[kind]["seconds"]
            cells.append(f"{found[kind]['bytes'] / 1024:,.0f}, {found[kind]['seconds'] * 1e6:,.1f}, {gain:.1f}x")
        shown.add_row(kind, f"{first['weights']:,}", *cells)
    return shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)), help="Repeatable. Default: all.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(list(PRECISIONS)), help="Repeatable. Default: all.")
@click.option("--quick", is_flag=True, help="Small networks.")
def main(folder, names, precisions, quick):
    console = Console(width=150)
    names, precisions = names or tuple(MODELS), precisions or tuple(PRECISIONS)
    try:
        results = Results(folder / "latency.json", {"quick": quick})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for name in names:
        for precision in precisions:
            keras.utils.set_random_seed(0)
            model = MODELS[name](**(QUICK[name] if quick else {}))
            results.once((name, precision), partial(measure, model, precision))
        console.print(table(results.tree, name))


if __name__ == "__main__":
    main()
