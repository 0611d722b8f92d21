"""Check that the page docs/evidence.md shows the figures of its JSON files."""

import json
from pathlib import Path

import pytest
from evidence_page import NAMES, Setting, best, family, front, plot_exports, plot_weights, settings_of, with_tables

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


def test_a_front_holds_what_nothing_beats():
    assert front([(3, 5), (1, 2), (2, 1), (2, 4), (4, 4)]) == [(1, 2), (2, 4), (3, 5)]
    assert [family(kind) for kind in ("radix 4", "two stages", "dense, pruned", "dense", "low rank 10")] == [
        "butterfly",
        "butterfly",
        "dense, pruned",
        "dense",
        "low rank",
    ]


def test_the_plots_show_every_data_set_and_every_file():
    titles = [axis.get_title() for axis in plot_weights(TREES).axes]
    assert [title.split(",")[0] for title in titles] == [NAMES[name] for name in TREES]
    exports = TREES["fashion_mnist"]["exports"]["distilled"]
    points = sum(len(collection.get_offsets()) for collection in plot_exports(TREES["fashion_mnist"]).axes[0].collections)
    assert points == sum(map(len, exports.values()))
