"""Checks of models that users pass."""

import keras
import numpy as np
from keras import ops

from .keras_internals import all_layers, held_variables
from .validation import not_built


def check_model(model, name: str = "model", built: bool = True) -> None:
    """Check that `model` is a model of Keras 3.

    Args:
        model: what the user passed.
        name: name of the argument, for the message.
        built: whether it must be built.

    Raises:
        ValueError: if it is not. The message says what to do.
    """
    if any(cls.__module__.startswith(("tf_keras.", "keras.src.engine")) for cls in type(model).__mro__):
        raise ValueError(
            f"`{name}` must be a model of Keras 3. Received a model of tf_keras, which is Keras 2. Save it with "
            'model.save("m.h5"), and load it with Keras 3: keras.models.load_model("m.h5", compile=False).'
        )
    if not isinstance(model, keras.Model):
        advice = " Wrap a layer: keras.Sequential([...])." if isinstance(model, keras.layers.Layer) else ""
        raise ValueError(f"`{name}` must be a keras.Model. Received: {type(model).__name__}.{advice}")
    if built and not model.built:
        raise not_built(model)


def check_finite_weights(model: keras.Model) -> None:
    """Check that all weights of `model` are finite.

    Raises:
        ValueError: if they are not. The message names the first layer that holds other weights.
    """
    for layer in all_layers(model):
        variables = held_variables(layer)
        if any(variable.dtype != "string" and not np.all(np.isfinite(_as_numpy(variable))) for variable in variables):
            raise ValueError(
                f"Expected finite weights. The layer '{layer.name}' has weights that are NaN or infinite. Train the model "
                "again, at a lower learning rate for example."
            )


def _as_numpy(variable) -> np.ndarray:
    """Return the values of a Keras variable, cast to float32."""
    return ops.convert_to_numpy(ops.cast(variable, "float32"))
