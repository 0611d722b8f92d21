"""Tests of wirings: exact counts compared with brute force and the paper, the random subset, and bad input."""

from dataclasses import FrozenInstanceError
from math import comb

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_butterfly.structure import fusion
from keras_butterfly.structure.wiring import Wiring, padded_size, radices_of

# Sizes 1, 2, 3, primes, powers of two, next to powers of two; wide and tall.
SIZES = [
    *[(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3), (2, 3), (3, 2), (4, 4), (5, 5), (7, 7), (13, 13), (17, 17)],
    *[(16, 16), (16, 1), (1, 16), (16, 5), (5, 16), (11, 2), (2, 11), (13, 7), (7, 13), (31, 4), (4, 33), (32, 31), (31, 32)],
]


def assert_matches_brute_force(wiring):
    edges = oracles.effective_edges(wiring)
    assert wiring.effective_weights == sum(map(len, edges))
    # Each effective edge, and no other edge, has a position in the flat vector, in the right order.
    position = 0
    for row, radix, stride, expected in zip(wiring.edge_index, wiring.radices, wiring.strides, edges, strict=True):
        places = row.reshape(-1, radix, radix, stride)  # (h, i, o, l)
        found = {}
        for h, i, o, low in np.ndindex(*places.shape):
            source, target = (radix * h + i) * stride + low, (radix * h + o) * stride + low
            if places[h, i, o, low] < wiring.effective_weights:
                found[source, target] = places[h, i, o, low]
        assert found == {edge: position + k for k, edge in enumerate(expected)}
        position += len(expected)


@pytest.mark.parametrize("choice", [{"transposed": True}, {"order": "increasing"}, {"order": "decreasing"}], ids=str)
@pytest.mark.parametrize("truncation", ["random", "first"])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_effective_edges_are_those_on_a_path(inputs, outputs, truncation, choice):
    assert_matches_brute_force(Wiring.butterfly(inputs, outputs, truncation=truncation, seed=3, **choice))


RADICES = [(16, 16, 4), (20, 32, 8), (30, 11, (2, 3, 5)), (7, 24, (4, 6)), (12, 12, (12,)), (25, 9, "auto"), (9, 40, 8)]


@pytest.mark.parametrize("choice", [{}, {"transposed": True}, {"order": "increasing"}, {"order": "decreasing"}], ids=str)
@pytest.mark.parametrize("truncation", ["random", "first"])
@pytest.mark.parametrize(("inputs", "outputs", "radix"), RADICES, ids=str)
def test_effective_edges_of_any_radix(inputs, outputs, radix, truncation, choice):
    wiring = Wiring.butterfly(inputs, outputs, radix=radix, truncation=truncation, seed=3, **choice)
    assert_matches_brute_force(wiring)
    assert wiring.effective_weights <= wiring.weight_bound
    assert wiring.transpose().effective_weights == wiring.effective_weights


@pytest.mark.parametrize(
    ("radix", "widest", "radices"),
    [
        (2, 1, ()),
        (2, 8, (2, 2, 2)),
        (4, 512, (4, 4, 4, 4, 2)),
        (4, 1000, (4, 4, 4, 4, 4)),
        (32, 8, (8,)),
        (32, 1024, (32, 32)),
        ((20, 32), 640, (20, 32)),
        ([3, 512], 1500, (3, 512)),
        ("auto", 784, (28, 28)),
        ("auto", 640, (20, 32)),
        ("auto", 1024, (32, 32)),
        ("auto", 13, (13,)),
        ("auto", 1, ()),
    ],
    ids=str,
)
def test_radices_of_a_size(radix, widest, radices):
    assert radices_of(radix, widest) == radices
    assert Wiring.butterfly(widest, widest, radix=radix).radices == radices


@given(st.integers(1, 5000))
def test_auto_radices_pad_little(widest):
    radices = radices_of("auto", widest)
    assert widest <= np.prod(radices, dtype=int) <= max(1.2 * widest, widest + 47)  # 145 needs 192 = 12 * 16 nodes


def test_a_transposed_butterfly_has_its_radices_backwards():
    wiring = Wiring.butterfly(512, 512, radix=4, transposed=True)
    assert wiring == Wiring.butterfly(512, 512, radix=4).transpose()
    assert wiring.radices == (2, 4, 4, 4, 4)
    # A sequence of radices has the order of the stages.
    assert Wiring.butterfly(6, 6, radix=(2, 3), transposed=True).radices == (2, 3)


@pytest.mark.parametrize(
    "radix", [0, 1, -2, 3, 6, 2.0, True, None, "two", (), (2, 1), (2, 0), (2, 2.5), ("2", "2"), {}], ids=str
)
def test_bad_radix(radix):
    with pytest.raises(ValueError, match="`radix` must be"):
        Wiring.butterfly(8, 8, radix=radix)


def test_radices_below_the_size_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"at least 1024.*radix=\(28, 28\), of product 784.*\(28, 37\) or \(32, 32\)"):
        Wiring.butterfly(784, 1024, radix=(28, 28))


@pytest.mark.parametrize("transposed", [False, True])
def test_effective_edges_of_explicit_unsorted_nodes(transposed):
    assert_matches_brute_force(Wiring.butterfly(16, 3, truncation=[9, 0, 14], transposed=transposed))
    assert_matches_brute_force(Wiring.butterfly(3, 16, truncation=[9, 0, 14]))
    assert_matches_brute_force(Wiring(8, (4, 2, 1) if transposed else (1, 2, 4), inputs=(6, 1), outputs=(3, 7, 0)))


@given(st.integers(1, 6), st.data())
@settings(deadline=None, max_examples=40)
def test_count_is_the_papers_walk_back_from_the_kept_outputs(stages, data):
    size = 2**stages
    kept = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True))
    wiring = Wiring.butterfly(size, len(kept), truncation=kept)
    assert wiring.effective_weights == oracles.papers_count(size, kept)


def test_untruncated_count_is_two_n_log_n():
    wiring = Wiring.butterfly(1024, 1024)
    assert wiring.effective_weights == wiring.weight_bound == 20_480


def test_counts_of_the_papers_example():
    draws = [Wiring.butterfly(1024, 10, truncation="random", seed=seed) for seed in range(100)]
    counts = np.array([wiring.effective_weights for wiring in draws])
    assert {wiring.weight_bound for wiring in draws} == {12_947}
    assert counts.max() <= 12_947
    assert 6_716 <= np.median(counts) <= 8_204  # the range of the counts in ten draws of the paper's walk
    # The expected count for a uniform draw of 10 out of 1024 nodes. After j steps back, S consists of groups of 2^j nodes.
    expected = sum(2 * 1024 * (1 - comb(1024 - 2**j, 10) / comb(1024, 10)) for j in range(10))
    assert abs(counts.mean() - expected) < 5 * counts.std() / np.sqrt(len(counts))


def test_count_of_the_papers_example_with_the_first_nodes():
    wiring = Wiring.butterfly(1024, 10)
    assert wiring.effective_weights == oracles.papers_count(1024, range(10)) == 8_684 <= wiring.weight_bound == 12_947


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["first", "random"]), st.booleans(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=160)
def test_count_stays_below_the_bound(inputs, outputs, truncation, transposed, seed):
    wiring = Wiring.butterfly(inputs, outputs, truncation=truncation, transposed=transposed, seed=seed)
    size, ell = padded_size(max(inputs, outputs)), min(inputs, outputs)
    assert wiring.size == size
    assert wiring.weight_bound <= 2 * size * np.log2(size)
    assert wiring.weight_bound <= 2 * size * np.log2(ell) + 6 * size
    assert wiring.effective_weights <= wiring.weight_bound


@pytest.mark.parametrize("n", range(1, 70))
def test_padded_size_is_the_next_power_of_two(n):
    size = padded_size(n)
    assert bin(size).count("1") == 1
    assert n <= size < 2 * n


@pytest.mark.parametrize("truncation", ["random", "first"])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_transposition_swaps_the_ends_and_keeps_the_count(inputs, outputs, truncation):
    wiring = Wiring.butterfly(inputs, outputs, truncation=truncation, seed=1)
    back = wiring.transpose()
    assert (back.inputs, back.outputs, back.strides) == (wiring.outputs, wiring.inputs, wiring.strides[::-1])
    assert back.transpose() == wiring
    assert back.effective_weights == wiring.effective_weights


@pytest.mark.parametrize("truncation", ["random", "first"])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 5), (11, 4), (11, 10), (9, 9)])
def test_transposed_expansion_is_the_transpose_of_the_truncation(inputs, outputs, truncation):
    truncated = Wiring.butterfly(inputs, outputs, truncation=truncation, seed=5)
    assert Wiring.butterfly(outputs, inputs, truncation=truncation, seed=5, transposed=True) == truncated.transpose()


# (inputs, outputs) -> (nodes, whether the small strides come first).
DEFAULTS = {
    (784, 1024): (1024, True),
    (1024, 784): (1024, True),
    (64, 1024): (1024, False),
    (256, 1024): (1024, False),
    (784, 256): (1024, True),
    (10, 10): (16, True),
    (8, 8): (8, True),
    (8, 9): (16, False),
    (9, 16): (16, True),
    (5, 8): (8, True),
    (4, 5): (8, False),
    (3, 8): (8, False),
    (8, 3): (8, True),
}
defaults = pytest.mark.parametrize(("inputs", "outputs"), DEFAULTS)


@defaults
def test_default_uses_the_first_nodes_of_both_sides(inputs, outputs):
    wiring = Wiring.butterfly(inputs, outputs)
    assert (wiring.size, wiring.inputs, wiring.outputs) == (
        DEFAULTS[inputs, outputs][0],
        tuple(range(inputs)),
        tuple(range(outputs)),
    )
    assert Wiring.butterfly(inputs, outputs, truncation="first") == wiring


@defaults
@pytest.mark.parametrize("truncation", ["first", "random"])
def test_default_order_spreads_the_inputs_first_only_where_they_must_reach_more_nodes(inputs, outputs, truncation):
    size, increasing = DEFAULTS[inputs, outputs]
    strides = tuple(2**t for t in range(size.bit_length() - 1))
    wiring = Wiring.butterfly(inputs, outputs, truncation=truncation)
    assert wiring.strides == (strides if increasing else strides[::-1])
    assert wiring.increasing == increasing


@defaults
def test_transposed_runs_backwards_and_an_order_counts_whatever_the_sizes(inputs, outputs):
    size = DEFAULTS[inputs, outputs][0]
    strides = tuple(2**t for t in range(size.bit_length() - 1))
    assert Wiring.butterfly(inputs, outputs, transposed=True).strides == strides[::-1]
    for transposed in (False, True):
        for order, expected in (("increasing", strides), ("decreasing", strides[::-1])):
            assert Wiring.butterfly(inputs, outputs, transposed=transposed, order=order).strides == expected


def test_wider_side_uses_the_first_nodes():
    assert Wiring.butterfly(11, 4).inputs == tuple(range(11))
    assert Wiring.butterfly(4, 11).outputs == tuple(range(11))
    assert Wiring.butterfly(11, 11).inputs == tuple(range(11))
    assert Wiring.butterfly(11, 11, transposed=True).outputs == tuple(range(11))


def random_subset(inputs, outputs, **seed):
    wiring = Wiring.butterfly(inputs, outputs, truncation="random", **seed)
    return wiring.outputs if inputs >= outputs else wiring.inputs


def test_random_subset_never_changes():
    assert random_subset(16, 5, seed=0) == (1, 6, 8, 9, 13)
    assert random_subset(5, 16, seed=7) == (2, 5, 8, 10, 12)
    assert random_subset(1024, 10, seed=0) == (1, 27, 77, 230, 320, 609, 751, 772, 924, 927)
    assert random_subset(784, 10, seed=0) == (14, 31, 55, 85, 299, 392, 647, 693, 711, 765)
    assert random_subset(5, 11, seed=3) == (1, 2, 4, 5, 9)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_random_subset_without_a_seed_is_a_fixed_function_of_the_sizes(inputs, outputs):
    assert random_subset(inputs, outputs) == random_subset(inputs, outputs) == random_subset(inputs, outputs, seed=0)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_random_subset_is_sorted_distinct_and_fixed_by_the_seed(inputs, outputs, seed):
    kept = random_subset(inputs, outputs, seed=seed)
    assert len(kept) == min(inputs, outputs)
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(range(max(inputs, outputs)))
    assert kept == random_subset(inputs, outputs, seed=seed)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 16, 300, 784])
def test_random_subset_of_a_square_is_all_of_the_first_nodes(n, transposed):
    for seed in range(5):
        random = Wiring.butterfly(n, n, truncation="random", transposed=transposed, seed=seed)
        assert random == Wiring.butterfly(n, n, truncation="first", transposed=transposed)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 5), (13, 5), (5, 13)])
def test_every_one_of_the_first_nodes_is_equally_likely_to_be_kept_and_no_other(inputs, outputs):
    draws, widest, ell = 2000, max(inputs, outputs), min(inputs, outputs)
    counts = np.zeros(16)
    for seed in range(draws):
        counts[list(random_subset(inputs, outputs, seed=seed))] += 1
    share = ell / widest
    assert np.all(np.abs(counts[:widest] - draws * share) < 5 * np.sqrt(draws * share * (1 - share)))
    assert not counts[widest:].any()


def test_first_keeps_the_first_nodes_and_explicit_nodes_keep_their_order():
    assert Wiring.butterfly(16, 5, truncation="first").outputs == (0, 1, 2, 3, 4)
    assert Wiring.butterfly(5, 16, truncation="first").inputs == (0, 1, 2, 3, 4)
    assert Wiring.butterfly(16, 3, truncation=np.array([9, 0, 14])).outputs == (9, 0, 14)


@pytest.mark.parametrize(
    ("frozen", "field"),
    [
        (Wiring.butterfly(8, 3), "size"),
        (Wiring.butterfly(8, 3).stages[0], "offset"),
        (fusion.factors(Wiring.butterfly(8, 3), (2, 1))[0], "count"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_structure_is_frozen(frozen, field):
    with pytest.raises(FrozenInstanceError):
        setattr(frozen, field, 0)


def test_equal_wirings_are_equal_keys():
    def wiring(seed):
        return Wiring.butterfly(16, 5, truncation="random", seed=seed)

    plans = {wiring(0): "plan"}
    assert plans[wiring(0)] == "plan"
    assert wiring(1) not in plans


@pytest.mark.parametrize("value", [0, -1, 1.5, 4.0, "a", None, True])
@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_counts_must_be_positive_integers(name, value):
    counts = {"inputs": 8, "outputs": 8, name: value}
    with pytest.raises(ValueError, match=rf"`{name}` must be a positive integer\. Received: {name}={value!r}"):
        Wiring.butterfly(**counts)


@pytest.mark.parametrize(
    ("truncation", "message"),
    [
        ("last", r'must be "first", "random" or a sequence of node indices. Received: truncation=\'last\''),
        ([0, 1, 8], r"must be within 0 \.\. 7\. Received indices out of range: \[8\]"),
        ([0, -1, 2], r"must be within 0 \.\. 7\. Received indices out of range: \[-1\]"),
        ([2, 5, 2], r"must name each node once\. Received repeated indices: \[2\]"),
        ([0, 1], r"must name as many nodes as the narrower side has values, 3\. Received: 2 indices"),
        ([0, 1, 2, 3], r"must name as many nodes as the narrower side has values, 3\. Received: 4 indices"),
        ([], r"must name at least one node"),
        ([0, 1.5, 2], r"must be a sequence of integer node indices\. Received: truncation=\[0, 1\.5, 2\]"),
        (3, r"must be a sequence of integer node indices\. Received: truncation=3"),
        (None, r"must be a sequence of integer node indices\. Received: truncation=None"),
    ],
)
def test_bad_truncation(truncation, message):
    with pytest.raises(ValueError, match=f"`truncation` {message}"):
        Wiring.butterfly(8, 3, truncation=truncation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 3}, r"`strides` must rise from 1 .*\. Received: strides=\(1, 2, 4\), size=3"),
        ({"size": 0}, r"`strides` must rise from 1 .*\. Received: strides=\(1, 2, 4\), size=0"),
        ({"size": 4}, r"`strides` must rise from 1 .*\. Received: strides=\(1, 2, 4\), size=4"),
        ({"strides": (1, 4, 2)}, r"`strides` must rise from 1 or fall to 1.*\. Received: strides=\(1, 4, 2\)"),
        ({"strides": (2, 4)}, r"`strides` must rise from 1 .*\. Received: strides=\(2, 4\)"),
        ({"strides": (1, 3)}, r"`strides` must rise from 1 .*\. Received: strides=\(1, 3\)"),
        ({"strides": (1, 1, 2)}, r"`strides` must rise from 1 .*\. Received: strides=\(1, 1, 2\)"),
        ({"inputs": ()}, r"`inputs` must name at least one node"),
        ({"inputs": (0, 8)}, r"`inputs` must be within 0 \.\. 7\. Received indices out of range: \[8\]"),
        ({"outputs": (4, 4)}, r"`outputs` must name each node once\. Received repeated indices: \[4\]"),
        ({"outputs": 4}, r"`outputs` must be a sequence of integer node indices\. Received: outputs=4"),
    ],
)
def test_bad_graph(change, message):
    graph = {"size": 8, "strides": (1, 2, 4), "inputs": (0, 1), "outputs": (4,)}
    with pytest.raises(ValueError, match=message):
        Wiring(**{**graph, **change})
