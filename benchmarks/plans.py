"""How often the host's plan is not the best one on another device, and what planning for that device gains.

    keras-butterfly devices setup arm64        # or browser
    python benchmarks/plans.py arm64 plans.json

The lowerings of each layer are converted once, timed on this machine, and measured on the device: counted on an emulated
Cortex-A76 ("arm64"), or timed in headless Chromium ("browser"). The file keeps the figures of all of them. The table compares
the lowering that the host's times choose with the one that the device's figures choose. In the browser, times that differ by
less than 5 % count as equal, because its clock is coarse and its times vary.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import click
import keras
import numpy as np
from rich.console import Console

from keras_butterfly import Butterfly, ButterflyDense, export
from keras_butterfly.export import files
from keras_butterfly.export.measurement.devices import find
from keras_butterfly.utils.text_table import TextTable

SIZES = (256, 1024, 4096)
LAYERS = {"Butterfly": Butterfly, "ButterflyDense": ButterflyDense}
PRECISIONS = (None, "int8")
# The part by which the host's choice may be dearer on the device and still count as equally good.
TIES = {"arm64": 0.0, "browser": 0.05}


class Both:
    """A device that measures on another device, and times the same files on this machine.

    Attributes:
        found: for each group of files that were measured together, name -> seconds on the host, what the device measured, and
            bytes.
    """

    def __init__(self, name: str):
        self.host, self.other, self.found = find("host"), find(name), []
        self.name, self.unit = f"host and {name}", getattr(self.other, "unit", "seconds")
        self.runtime, self.machine = self.other.runtime, self.other.machine

    def measure(self, models: Mapping[str, bytes], **settings):
        latencies = self.host.measure(models, **{**settings, "on_round": lambda _: None})
        measured = self.other.measure(models, **settings)
        self.found.append(
            {
                name: {"host": latencies[name].median, "bytes": len(models[name]), **figures_of(measured[name])}
                for name in models
            }
        )
        return measured


def figures_of(measured: export.Latency | export.Counts) -> dict:
    """Return what a device measured: instructions and reads, or seconds."""
    if isinstance(measured, export.Counts):
        return {"instructions": measured.instructions, "reads": measured.reads}
    return {"seconds": measured.median}


def figures(device: str, kind: str, n: int, quantize: str | None) -> dict:
    """Return the figures of all lowerings of one layer, and which ones are exact enough, by the name of the lowering."""
    both = Both(device)
    model = keras.Sequential([keras.Input((n,)), LAYERS[kind](n, seed=0)])
    data = np.random.default_rng(0).standard_normal((200, n)).astype("float32") if quantize else None
    # "measure" whatever the environment says, so that the lowerings are those of an ordinary export.
    settings = {"quantize": quantize, "representative_data": data, "effort": "measure"}
    exported = export.to_tflite(model, device=both, wisdom=export.Wisdom(), progress=False, **settings)
    (plan,) = exported.plan
    exact = {str(c.lowering) for c in plan.candidates if c.measured.error <= plan.limit or str(c.lowering) == "dense"}
    return {name: {**each, "exact": name in exact} for name, each in both.found[0].items()}


def table(device: str, found: dict) -> TextTable:
    """Return a row for each layer: what the host and what the device chooses, and the device's figures of both and of Dense."""
    rows = TextTable("layer", "by the host", f"by {device}", "figures of both", "gain", "Dense / best")
    for name, lowerings in found.items():
        exact = {lowering: each for lowering, each in lowerings.items() if each["exact"]}
        host, best = (min(exact, key=lambda lowering, of=of: of(exact[lowering])) for of in (lambda each: each["host"], cost))
        a, b, dense = exact[host], exact[best], lowerings.get("dense")
        gain = cost(a) / cost(b) - 1
        same = host == best or gain <= TIES[device]
        pairs = [f"{text(a, key)} -> {text(b, key)}" for key in keys(a)]
        # Not every plan measures the dense kernel.
        ratios = ", ".join(f"{dense[key] / b[key]:.1f}" for key in keys(a)) if dense else ""
        rows.add_row(name, host, "the same" if same else best, "; ".join(pairs), "" if same else f"{gain:.1%}", ratios)
    return rows


def cost(figure: dict) -> float:
    """Return what the device's planner minimizes."""
    if "seconds" in figure:
        return figure["seconds"]
    return export.Counts(figure["instructions"], figure["reads"], "", "", "").cost


def keys(figure: dict) -> tuple[str, ...]:
    """Return the names of what the device measured."""
    return ("seconds",) if "seconds" in figure else ("instructions", "reads")


def text(figure: dict, key: str) -> str:
    """Return one figure with its unit."""
    return f"{figure[key] * 1e6:.1f} us" if key == "seconds" else f"{figure[key]:,} {key}"


@click.command()
@click.argument("device", type=click.Choice(list(TIES)))
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def main(device, path):
    found = json.loads(path.read_text()) if path.exists() else {}
    for quantize in PRECISIONS:
        for n in SIZES:
            for kind in LAYERS:
                name = f"{kind} {n} {quantize or 'float32'}"
                if name not in found:
                    found[name] = figures(device, kind, n, quantize)
                    files.write(path, json.dumps(found, indent=1).encode(), overwrite=True)
                    click.echo(name)
    Console(width=200).print(table(device, found))


if __name__ == "__main__":
    main()
