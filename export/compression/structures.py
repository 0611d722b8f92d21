"""What the layer in place of a dense one may be."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from keras_butterfly.compression.dense_map import DenseMap

# The families of structures, beside "dense".
LOW_RANK, BUTTERFLY = "low rank", "butterfly"
# The ranks of low-rank layers are these parts of the smaller side of the kernel.
LOW_RANKS = (1 / 32, 1 / 16, 1 / 64, 1 / 8, 1 / 4)
# The rank of the term that is added to a butterfly, and those of the paper's structure.
ADDED_RANKS = (1 / 64,)
INNER_RANKS = (1 / 32, 1 / 8)
# The outputs of a layer of rank one lie on a line: it passes on a single number of each example.
MIN_RANK = 2
# Fewer nodes than this cannot be divided into three stages of at least four nodes.
MIN_THREE_STAGES = 64


@dataclass(frozen=True)
class Structure:
    """What a dense layer becomes.

    Attributes:
        name: in words, such as "low rank 32".
        family: "dense", "low rank" or "butterfly".
        arguments: the arguments of `replace_dense` that make the layer, as pairs. Empty if the layer stays dense.
    """

    name: str
    family: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments as a dict."""
        return dict(self.arguments)


DENSE = Structure("dense", "dense")


def structures_of(dense: DenseMap) -> list[Structure]:
    """Return the structures to try in place of `dense`. Those that are more often of use come first.

    Which of them have clearly fewer weights than the dense layer is known once they are built.
    """
    smaller, larger = sorted((dense.inputs, dense.units))
    low_ranks = [_low_rank(rank) for rank in _ranks(smaller, LOW_RANKS)]
    butterflies = [_butterfly("two stages", radix="auto"), _butterfly("radix 4")]
    if larger >= MIN_THREE_STAGES:
        butterflies.append(_butterfly("three stages", radix=three_stages(larger)))
    butterflies += [_butterfly(f"radix 4 + rank {rank}", rank=rank) for rank in _ranks(smaller, ADDED_RANKS, least=1)]
    butterflies += [_butterfly(f"J2^T W' J1, k = {k}", kind="butterfly_dense", k=k) for k in _ranks(smaller, INNER_RANKS)]
    return [each for pair in zip_longest(butterflies, low_ranks) for each in pair if each is not None]


def named_structure(dense: DenseMap, name: str) -> Structure | None:
    """Return the structure of this name that may take the place of `dense`, or None if there is none."""
    return next((structure for structure in structures_of(dense) if structure.name == name), None)


def low_rank(dense: DenseMap, part: float) -> Structure | None:
    """Return a low-rank layer in place of `dense`, or None if its rank would be one.

    Args:
        dense: the dense layer.
        part: the rank, as a part of the smaller side of the kernel.
    """
    ranks = _ranks(min(dense.inputs, dense.units), (part,))
    return _low_rank(ranks[0]) if ranks else None


def three_stages(size: int) -> tuple[int, int, int]:
    """Return three powers of two, nearly equal and rising, whose product is the smallest that is at least `size`."""
    bits = (size - 1).bit_length()
    small, rest = divmod(bits, 3)
    first, second, third = (2 ** (small + (place >= 3 - rest)) for place in range(3))
    return first, second, third


def _ranks(smaller: int, parts, least: int = MIN_RANK) -> list[int]:
    """Return `parts` of the smaller side of a kernel as ranks of at least `least`, each once."""
    return list(dict.fromkeys(rank for part in parts if (rank := int(smaller * part)) >= least))


def _low_rank(rank: int) -> Structure:
    return Structure(f"low rank {rank}", LOW_RANK, (("kind", "low_rank"), ("rank", rank)))


def _butterfly(name: str, kind: str = "butterfly", **arguments) -> Structure:
    return Structure(name, BUTTERFLY, (("kind", kind), *arguments.items()))
