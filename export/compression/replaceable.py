"""The dense layers of a model that the search may replace."""

import json
from dataclasses import dataclass

import keras
import numpy as np

from keras_butterfly.compression.cloning import remake
from keras_butterfly.compression.dense_map import DenseMap
from keras_butterfly.compression.replace import replace_dense, why_not_replaced
from keras_butterfly.compression.selection import Selection, candidates_of
from keras_butterfly.utils.model_inputs import examples_at, fixed_batch_size, run_model
from keras_butterfly.utils.recording import recorded, value_of

from .structures import DENSE, Structure

# Examples on which the inputs of the layers are recorded, for the calibration of int8.
TYPICAL = 64


@dataclass(frozen=True)
class Replaceable:
    """A dense layer of the model, and how the model calls it on a single example.

    Attributes:
        path: the names on the way to the layer, joined by "/".
        layer: the layer.
        shapes: the shape of the inputs of each call.
        inputs: typical inputs of the first call, as a batch of examples. None if the model calls the layer inside a loop.
    """

    path: str
    layer: keras.layers.Layer
    shapes: tuple[tuple[int, ...], ...]
    inputs: np.ndarray | None

    @property
    def dense(self) -> DenseMap:
        """The map that the layer computes."""
        return DenseMap.of(self.layer)

    @property
    def key(self) -> str:
        """A text that is equal for layers that cost the same: their class, settings and shapes, without name and weights."""
        config = {name: value for name, value in self.layer.get_config().items() if name in _COSTLY}
        shapes = [self.shapes[0], self.dense.inputs, self.dense.units]
        return json.dumps([type(self.layer).__name__, shapes, config], default=str, sort_keys=True)

    def alone(self, structure: Structure) -> keras.Model:
        """Return a model of this layer alone, with the given structure and random weights.

        Raises:
            ValueError: if the layer cannot have this structure.
        """
        shape = self.shapes[0]
        model = keras.Sequential([keras.Input(shape[1:]), remake(self.layer)])
        if structure == DENSE:
            return model
        where = [self.layer.name]
        return replace_dense(model, where=where, initialize="fresh", seed=0, progress=False, **structure.settings)[0]


# The settings of a layer that its cost depends on.
_COSTLY = ("units", "use_bias", "activation", "equation", "output_shape", "bias_axes", "filters", "strides", "dtype")


def replaceable_layers(model: keras.Model, x, where, min_weights: int | None) -> list[Replaceable]:
    """Return the layers that `where` and `min_weights` select and that another layer can take the place of.

    Args:
        model: a built model.
        x: inputs of the model.
        where, min_weights: as in `replace_dense`.

    Raises:
        ValueError: if a layer that the user named cannot be replaced, or `where` is of no use.
    """
    candidates = candidates_of(model)
    selection = Selection.of(where, min_weights, candidates)
    chosen = []
    for path, layer in candidates:
        if selection.why_not(path, layer) is None:
            reason = why_not_replaced(model, layer)
            if reason is not None and selection.must_succeed:
                raise ValueError(f"Layer '{path}' {reason}. Choose other layers by `where`.")
            if reason is None:
                chosen.append((path, layer))
    layers = [layer for _, layer in chosen]
    fixed = fixed_batch_size(model)
    with recorded(layers) as of_one:
        run_model(model, examples_at(x, slice(fixed or 1)))
    with recorded(layers) as of_several:
        run_model(model, examples_at(x, slice(fixed or TYPICAL)))
    found = []
    for path, layer in chosen:
        calls = of_one.get(id(layer), [])
        shapes = tuple(tuple(size or 1 for size in call.inputs.shape) for call in calls)
        several = of_several.get(id(layer), [])
        inputs = value_of(several[0].inputs) if several else None
        found.append(Replaceable(path, layer, shapes or ((1, *DenseMap.of(layer).input_shape),), inputs))
    return found
