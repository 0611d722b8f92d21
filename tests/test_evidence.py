"""Check that the page docs/evidence.md shows the figures of its JSON files."""

import json
from pathlib import Path

import pytest
from evidence_page import (
    NAMES,
    Setting,
    best,
    export_table,
    family,
    plot_exports,
    plot_weights,
    settings_of,
    settings_shown,
    with_tables,
)

ROOT = Path(__file__).parent.parent
TREES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "evidence").glob("*.json"))}


def test_the_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "evidence.md").read_text()
    assert set(TREES) >= {"fashion_mnist", "hapt", "isolet"}
    assert with_tables(page, TREES) == page
    for name in TREES:
        assert f"<!-- accuracy {name} -->\n| hidden layers |" in page


def test_a_table_of_unknown_results_is_refused():
    with pytest.raises(ValueError, match=r"Expected a table of .* Received: '<!-- accuracy moon -->"):
        with_tables("<!-- accuracy moon -->\n<!-- end -->", TREES)


def test_the_best_setting_is_that_of_most_seeds_and_the_highest_mean():
    def run(*accuracies):
        return {f"seed {seed}": {"accuracy": accuracy, "weights": 7} for seed, accuracy in enumerate(accuracies)}

    tree = {"scratch": {"radix 4": {"dropout 0": {"rate 0.001": run(0.9), "rate 0.002": run(0.7, 0.8)}}}}
    tree["scratch"]["radix 4"]["dropout 0.1"] = {"rate 0.002": run(0.8, 0.9)}
    assert [setting.mean for setting in settings_of(tree["scratch"]["radix 4"])] == pytest.approx([0.75, 0.85])
    assert best(tree, "scratch", "radix 4") == Setting(0.0, 0.002, (0.7, 0.8), 7)
    assert best(tree, "scratch", "radix 4", with_dropout=True).dropout == 0.1
    assert best(tree, "distilled", "radix 4") is None


def test_the_first_words_of_a_kind_tell_its_family():
    assert [family(kind) for kind in ("radix 4", "two stages", "dense, pruned", "dense", "low rank 10")] == [
        "butterfly",
        "butterfly",
        "dense, pruned",
        "dense",
        "low rank",
    ]


def test_a_missing_precision_leaves_an_empty_cell():
    file = {"bytes": 2048, "seconds": 5e-6, "accuracy": 0.9}
    exports = {"float32": {"dense": file}, "dynamic": {"radix 4": file}, "int8": {"dense": file}}
    assert export_table({"exports": {"scratch": exports}}, "scratch").split("\n") == [
        "| hidden layers | float32: KiB, us | dynamic: KiB, us | int8: KiB, us | accuracy float32, dynamic, int8 |",
        "|---|---|---|---|---|",
        "| dense | 2, 5.0 |  | 2, 5.0 | 0.9000, -, 0.9000 |",
        "| radix 4 |  | 2, 5.0 |  | -, 0.9000, - |",
    ]


def test_each_row_of_a_table_has_as_many_cells_as_its_header():
    page = (ROOT / "docs" / "evidence.md").read_text()
    tables = [
        block.split("\n") for block in page.split("\n\n") if block.startswith(("<!-- accuracy", "<!-- exports", "<!-- starts"))
    ]
    assert len(tables) >= 6
    for _, header, *rows, _ in tables:
        assert {row.count("|") for row in rows} == {header.count("|")}


def test_the_plots_show_every_data_set_and_every_file():
    trees = TREES | {"cifar10": TREES["hapt"]}
    axes = plot_weights(trees).axes
    assert [axis.get_title("right").split(",")[0] for axis in axes] == [NAMES[name] for name in trees]
    for axis, tree in zip(axes, trees.values(), strict=True):
        assert {label.get_text().rpartition(":")[0] for label in axis.get_yticklabels()} == set(settings_shown(tree)[1])
    exports = TREES["fashion_mnist"]["exports"]["distilled"]
    for axis in plot_exports(TREES["fashion_mnist"]).axes:
        assert sum(len(collection.get_offsets()) for collection in axis.collections) == sum(map(len, exports.values()))
        assert {text.get_text() for text in axis.texts} == set(exports["float32"])
