"""Write the tables of docs/design.md about the training of students, from the results of benchmarks/students.py.

    python benchmarks/students_page.py [FOLDER] [--page docs/design.md]

FOLDER holds a JSON file for each data set, by default docs/students. In the page, a table stands between the lines
`<!-- students TABLE -->` and `<!-- end -->`. Everything else in the page stays as it is.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import page_tables
from fronts_page import standard_error
from students import VARIANTS

from keras_butterfly.export import files

DOCS = Path(__file__).parent.parent / "docs"
NAMES = {"hapt": "HAPT", "fashion_mnist": "Fashion-MNIST", "isolet": "ISOLET"}
PLAIN = "plain"
# name -> the variant with which it is compared. All other variants are compared with the plain distillation.
REFERENCES = {
    "no labels, temperature 1": "no labels",
    "labels only, twice the epochs": "labels only",
    "labels only, three times the epochs": "labels only",
    "constant rate, average, momentum 0.99": "constant rate",
    "constant rate, average, momentum 0.999": "constant rate",
    "product of two, alternating": "product of two",
    "sum of two, alternating": "sum of two",
}
# The rows of the table about int8: the structure, and its training without and with rounding.
STRUCTURES = {
    "radix 4": (PLAIN, "rounded outputs", "all rounded"),
    "radix 2": ("radix 2", "radix 2, rounded outputs"),
    "two stages": ("two stages", "two stages, rounded outputs"),
    "dense": ("dense", "dense, rounded outputs"),
}
TRAININGS = ("plain", "rounded outputs", "all rounded")
# The roundings, in words.
PLACES = {
    "inputs": "the inputs",
    "hidden_0": "the outputs of the first layer",
    "hidden_1": "the outputs of the second layer",
    "logits": "the logits, which enter the softmax",
    "weights": "the weights of block factors and kernels",
    "factors": "the values between two block factors",
    "all": "all of these",
    "all but logits": "all but the logits",
}
PRECISIONS = {"float32": "Keras", "int8": "int8", "int8 outputs": "int8, head in int8", "int8 throughout": "int8 throughout"}


def accuracies(tree: dict, precision: str, variant: str) -> np.ndarray | None:
    """Return the test accuracy of a variant in percent, for each seed, or None if it was not trained."""
    runs = tree.get(precision, {}).get(variant)
    if runs is None:
        return None
    return 100 * np.array([run["accuracy"] if isinstance(run, dict) else run for run in runs.values()])


def difference(values: np.ndarray, others: np.ndarray) -> str:
    """Return the mean of the differences of the same seeds, with its standard error."""
    pairs = values - others
    return f"{pairs.mean():+.2f} ± {standard_error(pairs):.2f}"


def variants_table(trees: dict[str, dict]) -> str:
    """Return the table in Markdown of what each variant of the training reaches."""
    heads = [f"{NAMES[name]}, % | difference" for name in trees]
    lines = [f"| training | {' | '.join(heads)} | compared with |", f"|---|{'---|---|' * len(trees)}---|"]
    quantized = {each for variants in STRUCTURES.values() for each in variants} - {PLAIN}
    trained = {name for tree in trees.values() for name in tree["float32"]} - quantized
    names = [name for name in ("teacher", *VARIANTS) if name in trained]
    for name in names:
        reference = REFERENCES.get(name, PLAIN) if name not in (PLAIN, "teacher") else ""
        cells = [name]
        for tree in trees.values():
            values, others = (accuracies(tree, "float32", each) for each in (name, reference))
            cells.append("" if values is None else f"{values.mean():.2f}")
            cells.append("" if values is None or others is None else difference(values, others))
        lines.append(f"| {' | '.join(cells)} | {reference}{' ' if reference else ''}|")
    return "\n".join(lines)


def int8_table(trees: dict[str, dict]) -> str:
    """Return the table in Markdown of what students reach in int8, trained with and without rounding, on HAPT."""
    tree, rows = trees["hapt"], []
    for structure, variants in STRUCTURES.items():
        for variant, training in zip(variants, TRAININGS, strict=False):
            found = [accuracies(tree, precision, variant) for precision in PRECISIONS]
            if found[0] is not None:
                rows.append([structure, training, *(_against(found[0], each) for each in found)])
    return page_tables.in_markdown(["layers", "training", *PRECISIONS.values()], rows)


def _against(reference: np.ndarray, values: np.ndarray | None) -> str:
    """Return the mean of an accuracy, and how far it is from that of the same networks in Keras."""
    if values is None:
        return ""
    return f"{values.mean():.2f}" if values is reference else f"{values.mean():.2f} ({difference(values, reference)})"


def places_table(trees: dict[str, dict]) -> str:
    """Return the table in Markdown of the accuracy on HAPT that each rounding costs alone, in points."""
    tree, structures = trees["hapt"], {name: variants[0] for name, variants in STRUCTURES.items()}
    known = {name: list(tree["rounded"][variant].values()) for name, variant in structures.items()}
    rows = []
    for place, label in PLACES.items():
        cells = [
            difference(100 * np.array([run[place] for run in runs]), accuracies(tree, "float32", structures[name]))
            for name, runs in known.items()
        ]
        rows.append([label, *cells])
    return page_tables.in_markdown(["rounded to int8", *known], rows)


TABLES = {"variants": variants_table, "places": places_table, "int8": int8_table}


def with_tables(page: str, trees: dict[str, dict]) -> str:
    """Return `page`, a text in Markdown, with each of its tables replaced by one made from the results `trees`."""
    return page_tables.replaced(page, rf"students (?:{'|'.join(TABLES)})", lambda name: TABLES[name.split()[1]](trees))


@click.command()
@click.argument("folder", default=DOCS / "students", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", default=DOCS / "design.md", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder, page):
    trees = {name: json.loads(path.read_text()) for name in NAMES if (path := folder / f"{name}.json").exists()}
    files.write(page, with_tables(page.read_text(), trees).encode(), overwrite=True)


if __name__ == "__main__":
    main()
