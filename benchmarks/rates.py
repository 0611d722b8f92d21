"""Compare the two learning rates with which `export.compress` trains its models, from the searches of `fronts.py`.

    python benchmarks/rates.py FOLDER

FOLDER is that of `python benchmarks/fronts.py FOLDER`, whose searches train each model with 1e-3 and with 3e-3. This prints a
table in Markdown: by how many points the models of each kind are more accurate with 3e-3, on average. The accuracies are those
of float32 files on the examples that the search scores on. The number of models is in brackets.
"""

import json
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
from fronts_page import NAMES

LOW, HIGH = " at 0.001", " at 0.003"
KINDS = ("width multiplier", "narrow dense", "low rank", "butterfly", "several kinds")


def kind_of(layers: dict[str, str], name: str) -> str:
    """Return the kind of a model, one of `KINDS`, from what its changed layers become and from its name."""
    if name.startswith("all layers narrower"):
        return "width multiplier"
    structures = {structure.split(",")[0] for structure in layers.values()} - {"dense"}
    if not structures:
        return "narrow dense"
    are_low_rank = [structure.startswith("low rank") for structure in structures]
    if all(are_low_rank):
        return "low rank"
    return "several kinds" if any(are_low_rank) else "butterfly"


def gains(path: Path) -> dict[str, list[float]]:
    """Return what the higher rate gains in the search kept in the file `path`: percentage points of each model, by its kind."""
    results = json.loads(path.read_text())["results"]
    of_size, of_latency = (results.get(f"scores of float32 files for {objective}", {}) for objective in ("size", "latency"))
    scores, found = of_size | of_latency, defaultdict(list)
    for key in scores:
        model = key.removesuffix(LOW)
        if key != model and model + HIGH in scores:
            layers, _ = json.loads(model)
            found[kind_of(layers, results["finalists"][key])].append(100 * (scores[model + HIGH] - scores[key]))
    return found


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder):
    click.echo(f"| data | {' | '.join(KINDS)} |\n|{'---|' * (1 + len(KINDS))}")
    for task, title in NAMES.items():
        found = defaultdict(list)
        for path in sorted(folder.glob(f"{task}-[0-9]*/compression.json")):
            for kind, values in gains(path).items():
                found[kind] += values
        cells = [f"{np.mean(found[kind]):+.1f} ({len(found[kind])})" if found[kind] else "" for kind in KINDS]
        click.echo(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
