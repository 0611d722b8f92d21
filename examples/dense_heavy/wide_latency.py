"""How fast are networks whose wide dense layers are replaced by butterflies? Untrained networks, exported and measured.

    python examples/dense_heavy/wide_latency.py FOLDER [--model NAME ...] [--precision NAME ...] [--quick]

Networks: those of `wide_models.py`, and "head", the dense head of the VGG-like classifier alone. Kinds of layers: those of
`wide_kinds.py` but the pruned ones, whose file is as large and fast as the dense network's. The width of "narrow dense, equal
latency" is searched for, in float32. The weights are random, because their values change neither size nor latency.

All files of one network and precision are measured in turn: one image at a time, one thread. Run it when nothing else runs.

Output: every result is kept in FOLDER/latency.json. If the program is interrupted, start it again to continue. To measure a
network again, remove its entry there.
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
from wide_kinds import DENSE, KINDS, PRUNED, REFERENCE, STEP, Network

from keras_butterfly import export

PRECISIONS = {"float32": None, "dynamic": "dynamic", "int8": "int8"}
MODELS = {"head": wide_models.head, **wide_models.MODELS}
QUICK = {
    "head": {"width": 256, "features": 128},
    "vgg": {"width": 256, "channels": (4, 4, 8)},
    "mixer": {"width": 64, "blocks": 1},
    "transformer": {"width": 64, "blocks": 1},
}
RUNS = 100


class Work:
    """The exports of one network, and a JSON file of what was measured."""

    def __init__(self, results: Results, name: str, width: int, **sizes):
        self.results, self.name = results, name
        self.network = Network(partial(MODELS[name], **sizes), width)
        self.inputs = examples(self.network.make(width=STEP))

    def export(self, model: keras.Model, precision: str = "float32") -> export.TFLiteModel:
        """Return a network as a .tflite file. As the network is untrained, any error of its probabilities is tolerated."""
        return export.to_tflite(model, quantize=PRECISIONS[precision], representative_data=self.inputs, tolerance=1.0)

    def width_of_equal_latency(self) -> int:
        """Return the largest multiple of `STEP` at which the dense network is as fast as that with butterflies of radix 4."""
        butterfly, slow, fast = self.export(self.network.untrained(REFERENCE)), self.network.width, STEP
        while slow - fast > STEP:
            width = (slow + fast) // (2 * STEP) * STEP
            latencies = export.compare(
                {"butterfly": butterfly, "dense": self.export(self.network.make(width=width))}, runs=RUNS
            )
            fast, slow = (width, slow) if latencies.speedup("dense") >= 1 else (fast, width)
        return fast

    def networks(self) -> dict[str, keras.Model]:
        """Return the network in its variants, by kind."""
        width = self.results.once((self.name, "width of equal latency"), self.width_of_equal_latency)
        self.network.width_of_equal_latency = width
        return {kind: self.network.untrained(kind) for kind in KINDS if kind != PRUNED}

    def measure(self, precision: str) -> dict[str, dict]:
        """Return the weights, the bytes, the seconds and the lowerings of each variant of the network."""
        models = self.networks()
        files = {kind: self.export(model, precision) for kind, model in models.items()}
        latencies = export.compare(files, runs=RUNS).latencies
        return {
            kind: {
                "weights": models[kind].count_params(),
                "bytes": file.size_bytes,
                "seconds": latencies[kind].median,
                "interquartile range": latencies[kind].iqr,
                "lowerings": sorted({str(plan.lowering) for plan in file.plan}),
            }
            for kind, file in files.items()
        }

    def all_precisions(self, precisions) -> dict[str, dict]:
        """Return what `measure` returns for each precision. What was measured before is not measured again."""
        return {each: self.results.once((self.name, each), partial(self.measure, each)) for each in precisions}


def examples(model: keras.Model) -> np.ndarray:
    """Return random inputs of a network, on which int8 is calibrated: of images values from 0 to 255, else from 0 to 1."""
    largest = 255 if len(model.input_shape) == 4 else 1
    return (largest * np.random.default_rng(0).uniform(size=(40, *model.input_shape[1:]))).astype("float32")


def table(name: str, results: dict[str, dict]) -> Table:
    """Return a table of the variants of a network: weights, and for each precision the size, the latency and the gain."""
    shown = Table("layers", "weights", *results, title=f"{name}: KiB, us, times as fast as dense")
    for kind, first in next(iter(results.values())).items():
        cells = [
            f"{found[kind]['bytes'] / 1024:,.0f}, {found[kind]['seconds'] * 1e6:,.1f}, "
            f"{found[DENSE]['seconds'] / found[kind]['seconds']:.1f}x"
            for found in results.values()
        ]
        shown.add_row(kind, f"{first['weights']:,}", *cells)
    return shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)), help="Repeatable. Default: all.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(list(PRECISIONS)), help="Repeatable. Default: all.")
@click.option("--quick", is_flag=True, help="Small networks.")
def main(folder, names, precisions, quick):
    console = Console(width=150)
    sizes = QUICK if quick else wide_models.SIZES
    try:
        results = Results(folder / "latency.json", {"sizes": sizes, "runs": RUNS})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for name in names or MODELS:
        work = Work(results, name, **sizes[name])
        console.print(table(name, work.all_precisions(precisions or PRECISIONS)))


if __name__ == "__main__":
    main()
