"""Two-phase learning: first what surrounds the butterflies, then everything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from ..layers.butterfly import Butterfly
from ..utils.keras_internals import all_layers, learning_rate_or_schedule
from ..utils.model_walk import named_layers
from ..utils.validation import positive_integer


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

    With B fixed every local minimum of the encoder-decoder network is global, under the assumptions of Theorem 1, and with an
    FJLT of enough outputs it is probably near that of principal components; phase 2 starts from there.

    Args:
        model: a model; one that is not built yet is built for `x`, then an array. It is compiled anew, whatever it was before.
        x, y: as in `keras.Model.fit`.
        epochs: of phase 1 and of phase 2, each at least 1.
        optimizer: a name or an optimiser; either phase gets a fresh one with its settings.
        loss, metrics, jit_compile, steps_per_execution: as in `compile`.
        frozen: the layers of phase 1 that are not trained. Default: all `Butterfly` layers, however deep.
        **fit: of `keras.Model.fit`: batch_size, validation_data, callbacks, verbose, ... To callbacks the phases are two
            trainings, the second with `initial_epoch`; CSVLogger for example needs `append=True`.

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
    if not model.built:
        _build(model, x)
    layers = _butterflies(model) if frozen is None else list(frozen)
    if not layers:
        raise ValueError("Expected a model with a Butterfly layer, or `frozen`. Found none to keep fixed in phase 1.")
    settings = {"metrics": metrics, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
    optimizer = keras.optimizers.get(optimizer)

    def compile_afresh() -> None:
        model.compile(_copy(optimizer), loss, **settings)

    try:
        with _untrained(layers):
            compile_afresh()
            history = model.fit(x, y, epochs=first, **fit)
    except BaseException:
        compile_afresh()  # or the model would go on as in phase 1
        raise
    logs, ran = {name: list(values) for name, values in history.history.items()}, list(history.epoch)
    compile_afresh()
    continued = model.fit(x, y, epochs=first + second, initial_epoch=first, **fit)
    count = len(continued.epoch)
    both = keras.callbacks.History()
    both.set_params(continued.params)
    both.set_model(model)
    both.history = {name: values + continued.history.get(name, [])[-count:] for name, values in logs.items()}
    both.history["phase"] = [1] * len(ran) + [2] * count
    both.epoch = ran + continued.epoch
    model.history = both
    return both


@contextmanager
def _untrained(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    # Setting `trainable` reaches all layers below, so theirs is restored after that of the outer ones.
    before = [(inner, inner.trainable) for layer in layers for inner in all_layers(layer)]
    try:
        for layer in layers:
            layer.trainable = False
        yield
    finally:
        for inner, trainable in before:
            inner.trainable = trainable


def _copy(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    config, rate = optimizer.get_config(), learning_rate_or_schedule(optimizer)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):  # one of a user's class may not be registered
        config["learning_rate"] = rate
    return type(optimizer).from_config(config)


def _build(model: keras.Model, x) -> None:
    shape = getattr(x, "shape", None)
    if shape is None:
        raise ValueError(f"Expected a built model, or `x` as an array. Received: a {type(x).__name__}. Build the model first.")
    model.build((None, *shape[1:]))


def _butterflies(model: keras.Model) -> list[keras.layers.Layer]:
    return list({id(layer): layer for _, layer in named_layers(model) if isinstance(layer, Butterfly)}.values())
