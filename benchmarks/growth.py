"""Measure how the time of a training step grows with the width n, beside n log n and n^2, and the peak memory at the largest n.

    python benchmarks/growth.py [--sizes 512,...,16384] [--batch 128] [--memory-batch 32] [--plot FILE] [--json FILE]

The steps are those of training.py. For the peak memory each layer is run in a new process. The figure is the most memory that
the process used, less what it used before the layer was made, as Linux reports it. It comprises weights, activations, gradients
and the graph.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import training
from rich.console import Console
from rich.table import Table

from keras_butterfly.export import files
from keras_butterfly.export.measurement import plots

LAYERS = ("Dense", "low-rank pair", "Butterfly", "ButterflyDense")
# As in all plots; the butterfly stage by stage, which those do not show, in orange.
COLORS = {
    "Dense": plots.KINDS["dense"],
    "low-rank pair": plots.KINDS["low rank"],
    "Butterfly": plots.KINDS["butterfly"],
    "Butterfly gather": "#E69F00",
    "ButterflyDense": plots.KINDS["J2^T W' J1"],
}
PEAK = """
import resource, sys
import tensorflow as tf
sys.path.insert(0, {folder!r})
import training
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
x, upstream = (tf.zeros(({batch}, {n})) for _ in range(2))
tf.linalg.matmul(x, x, transpose_b=True)  # Starts the threads of the runtime.
before = peak()
run = training.step(training.layers({n})[{layer!r}](), x, upstream, jit_compile=False)
run(), run()
print(peak() - before)
"""


def peak_memory(layer: str, n: int, batch: int) -> int:
    """Return how many bytes of memory a training step of the layer needs at most."""
    program = PEAK.format(folder=str(Path(__file__).parent), batch=batch, n=n, layer=layer)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{layer} at n = {n} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def table(times: dict[int, dict[str, float]]) -> Table:
    """Return a table of the seconds of a step in milliseconds, with a row for each width."""
    names = list(next(iter(times.values())))
    result = Table(title="Median milliseconds of a step, forward and backward", title_justify="left")
    for column in ("n", *names):
        result.add_column(column, justify="right")
    for n, medians in times.items():
        result.add_row(str(n), *(f"{medians[name] * 1e3:,.2f}" for name in names))
    return result


@plots.style()
def figure(times: dict[int, dict[str, float]], batch: int):
    """Return a matplotlib Figure of the time over n on logarithmic axes, with the slopes of n log n and n^2."""
    picture, (axes,) = plots.panels(1, height=4.6)
    sizes = np.array(list(times))
    for name in next(iter(times.values())):
        kind = name.removesuffix(" XLA")
        line = {
            "color": COLORS[kind],
            "linestyle": "-" if kind == name else "--",
            "fillstyle": "full" if kind == name else "none",
        }
        axes.plot(sizes, [medians[name] * 1e3 for medians in times.values()], marker="o", label=name, **line)
    for label, work, name in (("n log n", sizes * np.log2(sizes), "Butterfly XLA"), ("n^2", sizes**2.0, "Dense")):
        start = times[int(sizes[0])][name] * 1e3
        axes.plot(sizes, start * work / work[0], color="gray", linestyle=":" if label == "n^2" else "-.", label=label)
    axes.set(xscale="log", xlabel="width n", ylabel="time of a step, ms", title=f"training step, batch {batch}")
    plots.log_scale(axes, "y")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    picture.legend(loc="outside right upper")
    return picture


@click.command()
@click.option("--sizes", default="512,1024,2048,4096,8192,16384", show_default=True, help="Widths n, separated by commas.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--memory-batch", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Timed steps of each layer.")
@click.option("--plot", "picture", type=click.Path(), help="Draw to this new file.")
@click.option("--json", "path", type=click.Path(), help="Write the figures, in seconds and bytes, to this new file.")
def main(sizes, batch, memory_batch, runs, picture, path):
    console, widths = Console(width=140), [int(size) for size in sizes.split(",")]
    for name in filter(None, (picture, path)):
        files.check_writable(name)
    if picture:
        import matplotlib  # noqa: F401 (found missing before the work, not after)
    memory = {layer: peak_memory(layer, widths[-1], memory_batch) for layer in LAYERS}
    for layer, peak in memory.items():
        console.print(f"peak memory, n = {widths[-1]}, batch {memory_batch}: {layer} {peak / 2**20:,.0f} MiB", highlight=False)
    times = {}
    for n in widths:
        seconds = training.measure(n, batch, runs)
        times[n] = {name: float(np.median(raw)) for name, raw in seconds.items()}
        console.print(f"n = {n} done")
    console.print(table(times))
    if path:
        files.write(path, json.dumps({"times": times, "peak_memory": memory}, indent=2).encode())
    if picture:
        plots.save(figure(times, batch), picture)


if __name__ == "__main__":
    main()
