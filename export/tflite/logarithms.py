"""What a logarithm is computed from: the two products before it, and what lies between them and the logarithm.

These are the transform of a waveform and the sums of its energies in bands, which span many powers of ten. The logarithm needs
the small energies, for which one step of int8 is too large. The weights of the sums count exactly as well, because a small
weight may multiply a large energy.
"""

from typing import NamedTuple

import numpy as np

from .graph import CODES, Graph

# How many products before a logarithm compute in float32.
_PRODUCTS_BEFORE = 2
# Operators with an exponential, which the logarithm undoes. What is before them need not be exact.
_EXPONENTIALS = (CODES.SOFTMAX, CODES.LOGISTIC, CODES.EXP)
# A step of int8 that is a larger part of the smallest value than this changes its logarithm too much.
_MAX_RELATIVE_STEP = 0.25
# Sums of more weights have them in int8, so that the file does not grow much. Bands of a spectrum have fewer.
_MOST_EXACT_WEIGHTS = 2**18


class Logarithm(NamedTuple):
    """A logarithm with what it is computed from.

    Attributes:
        operators: the logarithm, the two products before it, and what is between them.
        sums: the products that the logarithm is taken of.
    """

    operators: list
    sums: list


def logarithms(graph: Graph) -> list[Logarithm]:
    """Return the logarithms of sums of which some are too small for a step of int8.

    Args:
        graph: a graph with the ranges of its tensors. Without ranges, all logarithms of sums are returned.
    """
    found = [operator for operator in graph.operators if graph.code(operator) == CODES.LOG]
    wide = [each for each in found if graph.step(each.inputs[0]) > _MAX_RELATIVE_STEP * graph.range(each.inputs[0])[0]]
    makers = graph.makers()
    return [logarithm for logarithm in (_with_what_is_before(each, graph, makers) for each in wide) if logarithm.sums]


def exact_sums(found: list[Logarithm], graph: Graph) -> list:
    """Return the sums before the logarithms `found` in `graph` that have so few weights that these stay in float32."""
    sums = [each for logarithm in found for each in logarithm.sums]
    return [each for each in sums if np.prod(graph.tensors[each.inputs[1]].shape) <= _MOST_EXACT_WEIGHTS]


def _with_what_is_before(logarithm, graph: Graph, makers: dict) -> Logarithm:
    """Return the `Logarithm` of an operator LOG: it and the operators before it. `makers` is what `graph.makers()` returns."""
    reached = {id(logarithm): (logarithm, 0)}  # operators, and behind how few products each is
    waiting = [logarithm]
    while waiting:
        operator = waiting.pop()
        products = reached[id(operator)][1] + graph.is_product(operator)
        before = [makers[index] for index in operator.inputs if index in makers] if products < _PRODUCTS_BEFORE else []
        for each in before:
            is_nearer = id(each) not in reached or products < reached[id(each)][1]
            if is_nearer and graph.code(each) not in _EXPONENTIALS:
                reached[id(each)] = each, products
                waiting.append(each)
    found = list(reached.values())
    sums = [each for each, products in found if products == 0 and graph.is_product(each)]
    return Logarithm([each for each, _ in found], sums)
