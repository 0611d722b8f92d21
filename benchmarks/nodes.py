"""Measure what the choice of nodes costs after the export: the first nodes, the default of `Butterfly`, or a random subset.

    python benchmarks/nodes.py [--radix 2] [--runs 300] [--quantize dynamic]

A random subset of the nodes becomes a GATHER operator. XNNPACK does not have it, so the graph is cut into two partitions.

The program exports single layers and the network 784-1024-1024-10. Each is exported with the default nodes, and with a random
subset of all N nodes and, where the layer widens, the largest stride first: the defaults that `Butterfly` once had. All files
are measured in turn in one run, with batch 1 and one thread. Without --quantize they are in float32.
"""

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_butterfly import Butterfly, export
from keras_butterfly.structure.wiring import padded_size

SHAPES = ((784, 1024), (1024, 784), (640, 640), (1000, 600))
NODES = ("first", "random")


def butterfly(n: int, units: int, nodes: str, radix: int, **arguments) -> Butterfly:
    """Return a butterfly from `n` inputs to `units` outputs, with the default nodes or a random subset of all N nodes."""
    if nodes == "first":
        return Butterfly(units, radix=radix, **arguments)
    drawn = np.random.RandomState(0).permutation(padded_size(max(n, units)))[: min(n, units)]
    order = "decreasing" if units > n else "increasing"
    return Butterfly(units, radix=radix, truncation=np.sort(drawn), order=order, **arguments)


def networks(nodes: str, radix: int) -> dict[str, keras.Model]:
    """Return the models to compare, by name."""
    single = {
        f"{n} -> {units}": keras.Sequential([keras.Input((n,)), butterfly(n, units, nodes, radix)]) for n, units in SHAPES
    }
    hidden = [butterfly(n, 1024, nodes, radix, activation="relu") for n in (784, 1024)]
    head = keras.layers.Dense(10, activation="softmax")
    return {**single, "784-1024-1024-10": keras.Sequential([keras.Input((784,)), *hidden, head])}


@click.command()
@click.option("--radix", default=4, show_default=True, type=click.IntRange(min=2), help="Of all butterflies.")
@click.option("--runs", default=300, show_default=True, type=click.IntRange(min=1), help="Timed blocks of each model.")
@click.option("--quantize", type=click.Choice(["float16", "dynamic"]), help="[default: float32]")
def main(radix, runs, quantize):
    exported = {
        f"{name}, {nodes}": export.to_tflite(model, quantize=quantize)
        for nodes in NODES
        for name, model in networks(nodes, radix).items()
    }
    comparison = export.compare(exported, runs=runs)
    facts = comparison.latencies[comparison.baseline]
    title = f"{quantize or 'float32'}, us (XNNPACK partitions, KiB); {facts.runtime}, {facts.machine}"
    table = Table("", *(f"{nodes} nodes" for nodes in NODES), "speed-up", title=title, title_justify="left")
    for name in networks("first", radix):
        found = [exported[f"{name}, {nodes}"] for nodes in NODES]
        times = [comparison.latencies[f"{name}, {nodes}"].median * 1e6 for nodes in NODES]
        cells = [
            f"{time:.2f} ({model.partitions}, {model.size_bytes / 1024:.0f}){', GATHER' if 'GATHER' in model.operators else ''}"
            for time, model in zip(times, found, strict=True)
        ]
        table.add_row(name, *cells, f"{times[1] / times[0]:.2f}x")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
