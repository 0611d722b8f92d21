"""Two-phase learning: first what surrounds the butterflies, then everything."""

from collections.abc import Sequence

import keras

from .butterfly import Butterfly
from .cloning import named_layers
from .wiring import positive_integer


def two_phase_fit(
    model: keras.Model,
    x,
    y=None,
    *,
    epochs: tuple[int, int],
    optimizer="adam",
    loss="mean_squared_error",
    metrics=None,
    frozen: Sequence[keras.layers.Layer] | None = None,
    jit_compile="auto",
    steps_per_execution: int = 1,
    **fit,
) -> keras.callbacks.History:
    """Compiles and trains `model` in two phases: in the first the butterflies stay at their initial draw, then all is trained.

    With B fixed at an FJLT every local minimum of the encoder-decoder network is global and near the optimum, so phase 1 cannot
    end badly, and phase 2 starts from there.

    Args:
        model: a model; one that is not built yet is built from `x`.
        x, y: as in `keras.Model.fit`.
        epochs: of phase 1 and of phase 2, each at least 1.
        optimizer: a name or an optimiser; either phase gets a fresh one with its settings.
        loss, metrics, jit_compile, steps_per_execution: as in `compile`.
        frozen: the layers of phase 1 that are not trained. Default: all `Butterfly` layers, however deep.
        **fit: of `keras.Model.fit`: batch_size, validation_data, callbacks, verbose, ...

    Returns:
        Keras's history over both phases; `history["phase"]` holds 1 or 2 for each epoch, so the switch comes before the
        first 2. After it, and after an interruption too, every layer is as trainable as it was before.

    Raises:
        ValueError: for epochs that are not two positive integers, or a model without a layer to freeze.

    Reference: Ailon, Leibovich, Nair, UAI 2021, sections 4 and 5.3.
    """
    if not isinstance(epochs, tuple | list) or len(epochs) != 2:
        raise ValueError(f"`epochs` must be two positive integers, of either phase. Received: epochs={epochs!r}")
    first, second = (positive_integer(count, "epochs") for count in epochs)
    optimizer = keras.optimizers.get(optimizer)

    def phase(start: int, end: int):
        fresh = type(optimizer).from_config(optimizer.get_config())
        settings = {"metrics": metrics, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
        model.compile(fresh, loss, **settings)
        return model.fit(x, y, epochs=end, initial_epoch=start, **fit)

    if not model.built:
        model(keras.tree.map_structure(lambda array: array[:1], x))
    layers = _butterflies(model) if frozen is None else list(frozen)
    if not layers:
        raise ValueError("Expected a model with a Butterfly layer, or `frozen`. Found none to keep fixed in phase 1.")
    trainable = [layer.trainable for layer in layers]
    try:
        for layer in layers:
            layer.trainable = False
        history = phase(0, first)
    finally:
        for layer, before in zip(layers, trainable, strict=True):
            layer.trainable = before
    continued = phase(first, first + second)
    counts = len(history.epoch), len(continued.epoch)
    history.history = {name: values + continued.history.get(name, []) for name, values in history.history.items()}
    history.history["phase"] = [1] * counts[0] + [2] * counts[1]
    history.epoch += continued.epoch
    return history


def _butterflies(model: keras.Model) -> list[keras.layers.Layer]:
    return list({id(layer): layer for _, layer in named_layers(model) if isinstance(layer, Butterfly)}.values())
