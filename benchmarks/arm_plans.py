"""How often the host's plan is not the best one on Arm, and what planning for Arm gains.

    keras-butterfly devices setup arm64
    python benchmarks/arm_plans.py plans.json

The lowerings of each layer are converted once, timed on this machine, and counted on an emulated Cortex-A76. The file keeps the
figures of all of them. The table compares the lowering that the times choose with the lowering that the counts choose.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

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


class Both:
    """A device that counts on an emulated Arm processor, and times the same files on this machine.

    Attributes:
        found: for each group of files that were measured together, name -> seconds, instructions, reads and bytes.
    """

    name, unit = "host and arm64", "counts"

    def __init__(self):
        self.host, self.arm, self.found = find("host"), find("arm64"), []
        self.runtime, self.machine = self.arm.runtime, self.arm.machine

    def measure(self, models: Mapping[str, bytes], **settings):
        latencies = self.host.measure(models, **{**settings, "on_round": lambda _: None})
        counts = self.arm.measure(models, **settings)
        self.found.append(
            {
                name: {
                    "seconds": latencies[name].median,
                    "instructions": counts[name].instructions,
                    "reads": counts[name].reads,
                    "bytes": len(models[name]),
                }
                for name in models
            }
        )
        return counts


def figures(kind: str, n: int, quantize: str | None) -> dict:
    """Return the figures of all lowerings of one layer, and which ones are exact enough, by the name of the lowering."""
    both = Both()
    model = keras.Sequential([keras.Input((n,)), LAYERS[kind](n, seed=0)])
    data = np.random.default_rng(0).standard_normal((200, n)).astype("float32") if quantize else None
    # "measure" whatever the environment says, so that the lowerings are those of an ordinary export.
    settings = {"quantize": quantize, "representative_data": data, "effort": "measure"}
    exported = export.to_tflite(model, device=both, wisdom=export.Wisdom(), progress=False, **settings)
    (plan,) = exported.plan
    exact = {str(c.lowering) for c in plan.candidates if c.measured.error <= plan.limit or str(c.lowering) == "dense"}
    return {name: {**each, "exact": name in exact} for name, each in both.found[0].items()}


def table(found: dict) -> TextTable:
    """Return a row for each layer: what the times choose, what the counts choose, and the counts of both and of Dense."""
    rows = TextTable("layer", "by times", "by counts", "instructions", "reads", "gain", "Dense / counts")
    for name, lowerings in found.items():
        exact = {lowering: each for lowering, each in lowerings.items() if each["exact"]}
        by_times, by_counts = (min(exact, key=lambda lowering, c=cost: c(exact[lowering])) for cost in (_seconds, _cost))
        a, b, dense = exact[by_times], exact[by_counts], lowerings["dense"]
        rows.add_row(
            name,
            by_times,
            "the same" if by_times == by_counts else by_counts,
            f"{a['instructions']:,} -> {b['instructions']:,}",
            f"{a['reads']:,} -> {b['reads']:,}",
            f"{_cost(a) / _cost(b) - 1:.1%}",
            f"{dense['instructions'] / b['instructions']:.1f}, {dense['reads'] / b['reads']:.1f}",
        )
    return rows


def _seconds(figure: dict) -> float:
    return figure["seconds"]


def _cost(figure: dict) -> float:
    return export.Counts(figure["instructions"], figure["reads"], "", "", "").cost


def main(path: str):
    found = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    for quantize in PRECISIONS:
        for n in SIZES:
            for kind in LAYERS:
                name = f"{kind} {n} {quantize or 'float32'}"
                if name not in found:
                    found[name] = figures(kind, n, quantize)
                    files.write(path, json.dumps(found, indent=1).encode(), overwrite=True)
                    print(name, flush=True)
    Console(width=200).print(table(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
