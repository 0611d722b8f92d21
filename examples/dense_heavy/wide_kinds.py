"""The kinds of layers that stand in place of the wide dense layers of a network, butterflies and their rivals.

"radix 4" and "two stages" are butterflies. All rivals have about as many weights as the network with butterflies of radix 4:
"low rank", pairs of thin matrices; "narrow dense", the same network with dense layers, made narrower; "pruned dense", dense
layers whose smallest weights become zero during the training. "narrow dense, equal latency" is the same network with dense
layers, made narrower until its exported file is as fast as that with butterflies of radix 4.
"""

from collections.abc import Callable
from functools import cached_property

import keras
import numpy as np
from pruning import PrunedDense
from wide_models import WIDE

from keras_butterfly import replace_dense
from keras_butterfly.compression.report import ReplacementReport

DENSE, REFERENCE, TWO_STAGES = "dense", "radix 4", "two stages"
LOW_RANK, NARROW, PRUNED, EQUAL_LATENCY = "low rank", "narrow dense", "pruned dense", "narrow dense, equal latency"
KINDS = (DENSE, REFERENCE, TWO_STAGES, LOW_RANK, NARROW, PRUNED, EQUAL_LATENCY)
RADICES = {REFERENCE: 4, TWO_STAGES: "auto"}
STEP = 8  # widths are multiples of it


class Network:
    """A network in the variants of its wide layers.

    Args:
        make: a function `make(width=, dense=)` that returns the untrained network.
        width: width of the dense original.
        width_of_equal_latency: width of the dense network of equal latency. None: it is not known.
    """

    def __init__(self, make: Callable[..., keras.Model], width: int, width_of_equal_latency: int | None = None):
        self.make, self.width, self.width_of_equal_latency = make, width, width_of_equal_latency

    @cached_property
    def reference(self) -> tuple[keras.Model, ReplacementReport]:
        """The network with butterflies of radix 4, and the report of the replacement."""
        return self.replaced(0, radix=RADICES[REFERENCE])

    @property
    def weights(self) -> int:
        """The number of weights of the network with butterflies of radix 4."""
        return self.reference[0].count_params()

    @property
    def kept(self) -> int:
        """The number of weights of its butterflies, without biases."""
        return sum(each.weights_after - each.units for each in self.reference[1].replacements)

    @property
    def rank(self) -> int:
        """The rank at which pairs of thin matrices have about as many weights."""
        return max(1, round(self.kept / sum(each.inputs + each.units for each in self.reference[1].replacements)))

    def untrained(self, kind: str, seed: int = 0) -> keras.Model:
        """Return a network of the given kind with random weights.

        Raises:
            ValueError: if the kind is that of equal latency, whose width is not known.
        """
        if kind in RADICES:
            return self.replaced(seed, radix=RADICES[kind])[0]
        if kind == LOW_RANK:
            return self.replaced(seed, kind="low_rank", rank=self.rank)[0]
        keras.utils.set_random_seed(seed)
        if kind == NARROW:
            return self.make(width=self.width_of(self.weights))
        if kind == EQUAL_LATENCY:
            if self.width_of_equal_latency is None:
                raise ValueError(f"Expected the width of '{kind}', but it was not measured for this recipe. Take another kind.")
            return self.make(width=self.width_of_equal_latency)
        return self.make(width=self.width, dense=PrunedDense if kind == PRUNED else keras.layers.Dense)

    def replaced(self, seed: int, **arguments) -> tuple[keras.Model, ReplacementReport]:
        """Return the network with its wide layers replaced, and the report."""
        keras.utils.set_random_seed(seed)
        model = self.make(width=self.width)
        where = [layer.name for layer in wide_layers(model)]
        return replace_dense(model, where=where, initialize="fresh", seed=100 * seed, progress=False, **arguments)

    def width_of(self, weights: int) -> int:
        """Return the width at which the dense network has about `weights` weights. The number is quadratic in the width."""
        few = STEP * np.arange(1, 4)
        counts = np.polyfit(few, [self.make(width=int(width)).count_params() for width in few], 2)
        widths = np.arange(STEP, self.width + 1, STEP)
        return int(widths[np.argmin(np.abs(np.polyval(counts, widths) - weights))])


def wide_layers(model: keras.Model) -> list[keras.layers.Dense]:
    """Return the layers of a network that are replaced."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense) and layer.name.startswith(WIDE)]


def weights_of(model: keras.Model) -> int:
    """Return the number of weights of a network, of pruned layers those that are left."""
    masks = [keras.ops.convert_to_numpy(layer.mask) for layer in model.layers if isinstance(layer, PrunedDense)]
    return model.count_params() - sum(mask.size + int(np.sum(mask == 0)) for mask in masks)
