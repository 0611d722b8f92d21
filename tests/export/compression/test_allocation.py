"""The merge of the layers' fronts, against a search through all combinations."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_butterfly.export.compression.allocation import Option, allocations, unbeaten

NUMBERS = st.integers(0, 12).map(float)


@st.composite
def layers(draw):
    """Some layers, each with some options of one or two costs."""
    costs = draw(st.integers(1, 2))
    option = st.tuples(st.tuples(*[NUMBERS] * costs), NUMBERS)
    found = draw(st.lists(st.lists(option, min_size=1, max_size=5), min_size=1, max_size=4))
    return [[Option(cost, harm, (index,)) for index, (cost, harm) in enumerate(options)] for options in found]


def brute_force(options):
    """The values of all combinations that no other beats."""
    sums = set()
    for combination in product(*options):
        costs = tuple(map(sum, zip(*[option.costs for option in combination], strict=True)))
        sums.add((*costs, sum(option.harm for option in combination)))
    return {a for a in sums if not any(b != a and all(x <= y for x, y in zip(b, a, strict=True)) for b in sums)}


@settings(max_examples=200, deadline=None)
@given(layers())
def test_the_merge_finds_what_a_search_through_all_combinations_finds(options):
    found = allocations(options)
    assert {(*each.costs, each.harm) for each in found} == brute_force(options)
    for each in found:
        picked = [layer[index] for layer, index in zip(options, each.picks, strict=True)]
        assert each.harm == sum(option.harm for option in picked)
        assert each.costs == tuple(map(sum, zip(*[option.costs for option in picked], strict=True)))
    assert [each.costs for each in found] == sorted(each.costs for each in found)


def test_few_are_left_of_many_and_the_ends_are_among_them():
    options = [[Option((2.0**i * (1 + 0.01 * layer),), 10.0 - i, (i,)) for i in range(10)] for layer in range(8)]
    found = allocations(options, most=40)
    assert 10 < len(found) <= 40
    exact = allocations(options, most=10**6)
    assert found[0].harm == pytest.approx(exact[0].harm, rel=0.1)
    assert found[-1].harm == pytest.approx(exact[-1].harm, abs=1.0)
    # Each allocation that was left out has one that costs a little more and harms no more.
    for each in exact:
        assert any(other.harm <= each.harm and other.costs[0] <= 1.5 * each.costs[0] for other in found)


def test_of_equal_options_the_first_is_kept():
    options = [Option((1.0,), 2.0, (0,)), Option((1.0,), 2.0, (1,)), Option((2.0,), 2.0, (2,)), Option((3.0,), 1.0, (3,))]
    assert [option.picks for option in unbeaten(options)] == [(0,), (3,)]
