"""Two-phase learning: first the other layers with fixed butterflies, then all layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from ..layers.butterfly import Butterfly
from ..utils.keras_internals import all_layers, learning_rate_or_schedule
from ..utils.labels import check_against_loss, in_output_order, label_arrays, validation_arrays
from ..utils.model_checks import check_model
from ..utils.model_inputs import check_data, example_count, first_outputs
from ..utils.model_walk import named_layers
from ..utils.quiet import quiet_tensorflow, warnings_not_raised
from ..utils.streams import is_stream
from ..utils.validation import positive_integer


@warnings_not_raised()
@quiet_tensorflow()
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
    """Compile `model` and train it in two phases: first with fixed butterflies, then with all layers.

    While B is fixed, every local minimum of the encoder-decoder network is global, under the assumptions of Theorem 1. If B is
    an FJLT with enough outputs, the loss there is with high probability near that of principal component analysis. Phase 2
    starts from there.

    Args:
        model: the model. It is compiled anew, even if it was compiled before. If it is not built, `x` must be an array, and the
            model is built for the shape of `x`.
        x, y: as in `keras.Model.fit`.
        epochs: pair of the numbers of epochs of phase 1 and of phase 2, each at least 1.
        optimizer: a name or an optimizer. Each phase gets a new optimizer with the same settings.
        loss, metrics, jit_compile, steps_per_execution: as in `keras.Model.compile`.
        frozen: the layers that are not trained in phase 1. Default: all `Butterfly` layers of the model, at any depth.
        **fit: other arguments of `keras.Model.fit`: batch_size, validation_data, callbacks, verbose, ... Callbacks see two
            trainings, the second with `initial_epoch`. So CSVLogger, for example, needs `append=True`.

    Returns:
        Keras's history of both phases. `history["phase"]` holds 1 or 2 for each epoch. Afterwards, and after an interruption
        too, every layer is as trainable as it was before.

    Raises:
        ValueError: if `epochs` is not a pair of positive integers, the model has no layer to freeze, or arrays do not fit the
            model or are not finite. Streams of batches are not looked at before the training.

    Reference: Ailon, Leibovich, Nair, UAI 2021, sections 4 and 5.3.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
        >>> autoencoder = ButterflyAutoencoder(2, seed=0)
        >>> history = two_phase_fit(autoencoder, x, epochs=(1, 2), verbose=0)
        >>> history.history["phase"]
        [1, 2, 2]
    """
    if not isinstance(epochs, tuple | list) or len(epochs) != 2:
        raise ValueError(f"`epochs` must be two positive integers, one for each phase. Received: epochs={epochs!r}")
    first, second = (positive_integer(count, "epochs") for count in epochs)
    check_model(model, built=False)
    if not model.built:
        _build(model, x)
    layers = _butterflies(model) if frozen is None else list(frozen)
    if not layers:
        raise ValueError(
            f"Expected a model with a Butterfly layer to keep fixed in phase 1. Received: '{model.name}', which has none. "
            "Name the layers by `frozen`."
        )
    x, y, fit = _check_examples(model, x, y, loss, fit)
    settings = {"metrics": metrics, "jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
    optimizer = keras.optimizers.get(optimizer)

    def compile_afresh() -> None:
        model.compile(_copy(optimizer), loss, **settings)

    try:
        with _frozen(layers):
            compile_afresh()
            history = model.fit(x, y, epochs=first, **fit)
    except BaseException:
        compile_afresh()  # Keras goes on training the variables that were trainable when the model was compiled
        raise
    # If the caller passes a History callback, both trainings write to it, so its values are copied.
    logs, epochs_of_first = {name: list(values) for name, values in history.history.items()}, list(history.epoch)
    compile_afresh()
    continued = model.fit(x, y, epochs=first + second, initial_epoch=first, **fit)
    count = len(continued.epoch)
    both = keras.callbacks.History()
    both.set_params(continued.params)
    both.set_model(model)
    both.history = {name: values + continued.history.get(name, [])[-count:] for name, values in logs.items()}
    both.history["phase"] = [1] * len(epochs_of_first) + [2] * count
    both.epoch = epochs_of_first + continued.epoch
    model.history = both
    return both


@contextmanager
def _frozen(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Freeze the layers until the `with` block ends, then make them as trainable as before."""
    # Setting `trainable` of a layer sets that of all layers inside. So the outer layers are restored first.
    before = [(inner, inner.trainable) for layer in layers for inner in all_layers(layer)]
    try:
        for layer in layers:
            layer.trainable = False
        yield
    finally:
        for inner, trainable in before:
            inner.trainable = trainable


def _copy(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the settings of `optimizer`, but without its state."""
    config, rate = optimizer.get_config(), learning_rate_or_schedule(optimizer)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        config["learning_rate"] = rate  # a schedule of a user's class could not be made from a config unless registered
    return type(optimizer).from_config(config)


def _build(model: keras.Model, x) -> None:
    """Build `model` for the shape of the array `x`."""
    shape = getattr(x, "shape", None)
    if shape is None:
        raise ValueError(f"Expected a built model, or `x` as an array. Received: a {type(x).__name__}. Build the model first.")
    model.build((None, *shape[1:]))


def _check_examples(model: keras.Model, x, y, loss, fit: dict) -> tuple:
    """Check the data of `two_phase_fit`, and return `x`, `y` and `fit` with arrays in place of lists.

    Streams of batches are returned as they are.

    Raises:
        ValueError: if arrays do not fit the model or the loss, or are not finite.
    """
    if is_stream(x):
        return x, y, fit
    x = check_data(model, x, "`x`")
    # A model with a training of its own may need no labels.
    trains_as_keras = type(model).fit is keras.Model.fit and type(model).train_step is keras.Model.train_step
    if y is None and loss is not None and trains_as_keras:
        raise ValueError(
            "Expected `y` for the loss. Received: y=None. If the outputs are to be the inputs, give these as `y` too."
        )
    shapes = [output.shape for output in first_outputs(model, x, 1)]
    if y is not None:
        y = label_arrays(y, example_count(x), len(shapes), "`y`")
        check_against_loss(in_output_order(model, y), in_output_order(model, loss), shapes)
    validation = fit.get("validation_data")
    if validation is None or is_stream(validation) or y is None or len(validation) == 1:
        return x, y, fit
    validation = validation_arrays(model, validation, len(shapes))
    check_against_loss(in_output_order(model, validation[1]), in_output_order(model, loss), shapes)
    return x, y, {**fit, "validation_data": validation}


def _butterflies(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the distinct `Butterfly` layers of `model`, at any depth."""
    return list({id(layer): layer for _, layer in named_layers(model) if isinstance(layer, Butterfly)}.values())
