"""The inputs of each butterfly layer while a Keras model runs on the representative data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from keras_butterfly.layers.override import override_affine
from keras_butterfly.utils.keras_internals import all_layers
from keras_butterfly.utils.quiet import quiet_tensorflow

from ..lowering import Layer
from ..preparation.representative_data import MAX_BATCHES

Shape = tuple[int | None, ...]


@dataclass
class LayerInputs:
    """The inputs of one butterfly layer.

    Attributes:
        shapes: the input's shape at every call while the model is traced. An axis is None where it is not fixed.
        inputs: the input's values at the calls of the first shape, for every batch of the data. They are random for a layer
            that is called only inside a compiled loop, which lets no value out.
    """

    shapes: list[Shape] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        """Return the input's shape at the first call."""
        return self.shapes[0]


def observe(
    model: keras.Model, specs: Sequence[tf.TensorSpec], call: Callable, batches: Sequence[dict[str, np.ndarray]]
) -> tuple[dict[Layer, LayerInputs], list[dict[str, np.ndarray]]]:
    """Run `call`, which calls `model`, on `batches`, and record the inputs of its butterfly layers.

    Returns:
        The inputs of each outermost butterfly layer, in the order of execution, and the outputs for each batch.
    """
    layers = [layer for layer in all_layers(model) if hasattr(layer, "parts")]
    inner = {id(part) for layer in layers for part in layer.parts() if part is not layer}
    seen: dict[Layer, LayerInputs] = {}
    values: dict[Layer, list] = {}

    def recorder(layer, root):
        def affine(x):
            known = seen.setdefault(layer, LayerInputs())
            known.shapes.append(tuple(x.shape))
            if x.graph is root and known.shapes[0] == tuple(x.shape):
                values.setdefault(layer, []).append(x)
            return layer.affine(x)

        return affine

    def traced(*inputs):
        root = tf.compat.v1.get_default_graph()
        with override_affine({layer: recorder(layer, root) for layer in layers if id(layer) not in inner}):
            outputs = call(*inputs)
        return outputs, list(values.values())

    run = tf.function(traced, input_signature=list(specs), autograph=False)
    outputs = []
    for batch in batches:
        with quiet_tensorflow():
            result, inputs = _run(run, batch)
        outputs.append({name: value.numpy() for name, value in result.items()})
        for layer, calls in zip(values, inputs, strict=True):
            room = MAX_BATCHES - len(seen[layer].inputs)
            seen[layer].inputs += [value.numpy() for value in calls[:room]]
    rng = np.random.default_rng(0)
    for layer, known in seen.items():
        if not known.inputs:
            shape = [1 if axis is None else axis for axis in known.shape]
            known.inputs.append(rng.standard_normal(shape).astype(layer.compute_dtype))
    return seen, outputs


def _run(traced: Callable, batch: dict[str, np.ndarray]):
    """Run the traced model on one batch.

    Raises:
        ValueError: if TensorFlow cannot, for example because an Embedding has no row for an id.
    """
    try:
        return traced(*(tf.constant(value) for value in batch.values()))
    except tf.errors.InvalidArgumentError as error:
        reason = next((line for line in str(error.message).splitlines() if "indices" in line or " is not in " in line), None)
        reason = (reason or str(error.message).splitlines()[0]).strip()
        raise ValueError(
            f"Expected representative data on which the model runs. On the inputs {list(batch)} TensorFlow says: {reason}. Ids "
            "must be below the `input_dim` of the Embedding that looks them up. Without representative data they are 0 and 1."
        ) from error
