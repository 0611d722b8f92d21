"""The page docs/fronts.md: which kind of models is picked, and whether a rival beats the picks."""

import json
from pathlib import Path

import pytest
from fronts_page import KEYS, NAMES, limit_of, limits_of, plot_fronts, winners_table, with_tables

ROOT = Path(__file__).parent.parent
PATHS = {name: ROOT / "docs" / "compress" / f"{name}.json" for name in NAMES}
TREES = {name: json.loads(path.read_text()) for name, path in PATHS.items() if path.exists()}


def point(family, score, unseen, size):
    return {
        "name": f"{family} {size}",
        "family": family,
        "score": score,
        "unseen": unseen,
        "size_bytes": size,
        "median_seconds": size * 1e-9,
    }


def result(pick, *points):
    return {"limit": 100, "pick": pick, "points": [point("original", 0.9, 0.9, 1000), *points]}


def limit(*results):
    return limit_of("hapt", "size", "1/10", {f"seed {seed}": each for seed, each in enumerate(results)})


def test_the_tables_of_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "fronts.md").read_text()
    assert TREES
    assert with_tables(page, TREES) == page


def test_the_most_accurate_model_that_keeps_the_limit_stands_for_its_kind():
    found = limit(
        result(
            "butterfly 90",
            point("butterfly", 0.8, 0.81, 90),
            point("narrower butterfly", 0.7, 0.99, 50),
            point("low rank", 0.95, 0.95, 101),
            point("narrower", 0.6, 0.61, 100),
        )
    )
    assert {group: models.mean for group, models in found.groups.items()} == {"butterfly": 0.81, "narrow dense": 0.61}
    assert (found.winner, found.picks.mean, found.picks.cost) == ("butterfly", 0.81, 90)


def test_no_pick_where_nothing_keeps_the_limit():
    found = limit(result("narrower 200", point("narrower", 0.6, 0.6, 200)))
    assert (found.winner, found.picks, found.groups, found.beaten_by) == (None, None, {}, None)


@pytest.mark.parametrize(
    ("rivals", "size", "beaten_by"),
    [
        ((0.84, 0.83), 90, "low rank"),
        ((0.84, 0.83), 95, None),  # it costs more than the picks
        ((0.84, 0.79), 90, None),  # ahead by 0.015, with a standard error of 0.025
        ((0.80, 0.79), 90, None),
        ((0.801,), 90, "low rank"),  # with one seed any lead counts
        ((0.80,), 90, None),
    ],
)
def test_a_rival_beats_the_picks_by_more_than_a_standard_error_at_no_more_cost(rivals, size, beaten_by):
    results = [
        result("butterfly 90", point("butterfly", 0.9, 0.8, 90), point("low rank", 0.8, unseen, size)) for unseen in rivals
    ]
    assert limit(*results).beaten_by == beaten_by


def test_wins_are_counted_over_the_tasks():
    trees = {
        "hapt": {"seed 0": {"size": {"1/10": result("butterfly 90", point("butterfly", 0.9, 0.9, 90))}}},
        "isolet": {"seed 0": {"size": {"1/10": result("low rank 90", point("low rank", 0.9, 0.9, 90))}}},
    }
    assert winners_table(trees).split("\n")[-1] == "| 1/10 of the size | 0 of 2 | 1 of 2 | 1 of 2 | 2 of 2 |"


def test_the_plot_has_two_panels_for_each_task():
    figure = plot_fronts(TREES)
    assert len(figure.axes) == len(KEYS) * len(TREES)
    known = [bool(list(limits_of({name: tree}, cost))) for name, tree in TREES.items() for cost in KEYS]
    assert [axis.has_data() and axis.get_visible() for axis in figure.axes] == known
    assert any(known)
