"""The search for the most accurate model that fits: `compress`, from the data to the pick."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Literal

import keras

from keras_butterfly.compression.checkpoint import fingerprint, fingerprint_of_weights
from keras_butterfly.compression.distillation import MAX_EPOCHS, are_probabilities
from keras_butterfly.utils.keras_internals import all_layers
from keras_butterfly.utils.labels import loss_name
from keras_butterfly.utils.model_checks import check_model
from keras_butterfly.utils.model_inputs import example_count, first_outputs, sample
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.validation import check_seed, integer_up_to, positive_integer, positive_number

from ..measurement import devices
from ..measurement.timing import check_extent, measure_all
from ..planning.planner import Objective
from ..planning.wisdom import Wisdom
from ..planning.wisdom import wisdom as process_wisdom
from ..preparation.exportable import check_exportable, decisions, output_names, with_inputs
from ..tflite.quantize import TOLERANCES, Precision, Quantize, check_quantize
from .clock import Clock
from .compression import Compression, Point, described
from .costs import Exporter
from .examples import Examples
from .families import Entry, improving
from .finalists import MARGIN, Finalists
from .imitation import TEMPERATURE, Lesson, outputs_of
from .memory import Memory
from .narrower import by_multiplier, by_widths
from .places import Places
from .score import Score, check_scorable
from .structured import KINDS
from .survey import Survey
from .targets import TargetError, Targets
from .task import Task, Training
from .verdict import STOPPED, UNSEEN, picked, reasons

# Examples that calibrate "int8".
TYPICAL = 512
# The precisions of quantize="any".
ANY: tuple[Quantize | None, ...] = (None, "dynamic", "int8")


def compress(
    model: keras.Model,
    data,
    *,
    target_latency: float | None = None,
    target_size: float | None = None,
    max_accuracy_drop: float | None = None,
    quantize: Quantize | Literal["any"] | None = None,
    device: str | devices.Device = "host",
    time_limit: float | None = None,
    folder=None,
    validation_data=None,
    metric: Callable | None = None,
    epochs: int = 6,
    batch_size: int = 128,
    learning_rate: float | Sequence[float] = (1e-3, 3e-3),
    loss=None,
    where=None,
    min_weights: int | None = None,
    seed: int | None = 0,
    wisdom: Wisdom | None = None,
    runs: int = 100,
    progress: bool | None = None,
) -> Compression:
    """Find the most accurate model that fits a latency, a size or an accuracy, whatever the structure of its layers.

    Each dense layer may stay, or become a low-rank pair, a butterfly of several kinds, a sum of both, or the paper's
    J2^T W' J1. Or the whole network becomes narrower, with its convolutions and attention. The search measures what each layer
    costs on the device as each structure, and how much the outputs suffer if this layer alone is replaced and trained briefly.
    From these it finds the allocations that no other beats. It trains the best few of them to imitate the original, exports
    them, and measures them in turns.

    Args:
        model: a built model, which is not changed.
        data: (x, y), or x alone: then the models learn from the original's outputs only. x is in the form that the model takes.
        target_latency: largest median latency, in seconds.
        target_size: largest .tflite file, in bytes.
        max_accuracy_drop: largest difference of the original's score and the model's; of an accuracy, 0.01 is one percentage
            point. At least one target is needed. If latency or size are limited, the model of the highest score is picked, and
            else the fastest.
        quantize: precision of the exported models, as in `to_tflite`. "int8" is calibrated on x. "any": the search chooses the
            precision of each model too, of float32, "dynamic" and "int8". Drops and speed-ups are then relative to the original
            in the first of these in which it can be exported.
        device: where latency is measured, as in `measure`.
        time_limit: in seconds. The search ends soon after it, with what it has found. No more costs are measured after a
            quarter of it, and no more trials are begun after a half. At least one model is trained for at least one epoch.
        folder: a folder in which all results are kept at once. A search that was stopped goes on from there if it is called
            with the same arguments, data and model. A search with other targets uses what was trained and measured there.
            None (default): nothing is kept.
        validation_data: (x, y), or x alone, on which models are scored. None (default): a random fifth of the data, at most
            10,000 examples, which are not trained on. If the original was trained on `data`, its score on them is too high,
            and drops look larger than they are: then give examples that it has never seen.
        metric: function of (y, outputs) that returns a number, higher is better. None (default): accuracy, for labels that are
            integers or one-hot. Without labels, the part of the examples on which a model's class is the original's; for
            outputs that decide about no class, 1 minus the relative error in the 2-norm.
        epochs, batch_size, learning_rate: of the final training of each model, as in `distill`. With several learning rates
            each model is trained once with each, and the one with the best score is kept. If only `max_accuracy_drop` is given,
            the first model of each kind shows which rate is best, and the others of its kind are trained with that rate.
        loss: the loss of the labels, as in `distill`.
        where, min_weights: which layers may be replaced or made narrower, as in `replace_dense`. If either is given, no width
            multiplier is tried, because it changes all layers.
        seed: seed of all random draws. As `keras.utils.set_random_seed`, it sets those of Python, NumPy and the backend. None:
            nothing is seeded.
        wisdom: as in `to_tflite`.
        runs: number of timed blocks of each model in the last measurement.
        progress: True: show progress on stderr. False: show none. None (default): show it if stderr is a terminal.

    Returns:
        A `Compression`, with all models that were trained and the pick. The pick is the original if no smaller model meets the
        targets and the original does.

    Raises:
        TargetError: if no model found meets the targets. It names the nearest, and its `compression` holds all of them.
        ValueError: if an argument, the data or the labels do not fit, or the folder holds another search.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
        >>> model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2, "softmax")])
        >>> found = export.compress(model, x, target_size=12_000, epochs=1, runs=5)
        >>> found.exported.size_bytes <= 12_000
        True
    """
    check_quantize(quantize, (*TOLERANCES, "any"))
    targets = Targets(target_latency, target_size, max_accuracy_drop)
    if metric is None and max_accuracy_drop is not None and max_accuracy_drop > 1:
        raise ValueError(
            "Expected `max_accuracy_drop` of at most 1, which is 100 percentage points: 0.005 is half a point. "
            f"Received: max_accuracy_drop={max_accuracy_drop}"
        )
    clock = Clock(None if time_limit is None else positive_number(time_limit, "time_limit"))
    check_model(model)
    precisions = _exportable(model, ANY if quantize == "any" else (quantize,))
    check_extent(runs=runs)
    found = devices.find(device)
    if devices.unit(found) != "seconds":
        raise ValueError(
            f"Expected a device that measures seconds, because targets are in seconds. Received: device={device!r}"
        )
    training = Training(
        integer_up_to(epochs, "epochs", MAX_EPOCHS),
        positive_integer(batch_size, "batch_size"),
        tuple(positive_number(rate, "learning_rate") for rate in _as_list(learning_rate)),
        check_seed(seed),
    )
    examples = Examples.of(model, data, validation_data, training.seed)
    score = _score(model, examples, metric, loss)
    lesson = Lesson.of(model, examples.x, examples.y, loss)
    places = Places.of(model, examples.x, where, min_weights)
    used_wisdom = process_wisdom if wisdom is None else wisdom
    typical = sample(examples.x, TYPICAL)
    objective: Objective = "size" if targets.only_size else "latency"
    exporters = [Exporter(each, typical, objective, found, used_wisdom) for each in precisions]
    settings = {
        "the model": [fingerprint_of_weights(model), [type(layer).__name__ for layer in all_layers(model)]],
        "the data": _fingerprint(examples.x, examples.y),
        "the examples to score on": _fingerprint(examples.held_x, examples.held_y),
        "the device": [found.name, found.machine, found.runtime],
        "metric": None if metric is None else str(getattr(metric, "__name__", "other")),
        "epochs, batch size, learning rate, seed": list(training),
        "temperature": TEMPERATURE,
        "loss": None if loss is None else [loss_name(each) for each in keras.tree.flatten(loss)],
        "the layers": places.paths,
    }
    memory = Memory(folder, settings)
    with memory.held(), Progress(progress) as bars, bars.task("compress", 1.0) as clock.advance:
        memory.teach(used_wisdom)
        tasks = {
            each.precision: Task(
                model, targets, training, lesson, score, each, memory, clock, share=(turn + 1) / len(exporters)
            )
            for turn, each in enumerate(exporters)
        }
        finalists = _finalists(tasks, places)
        return _result(finalists, runs, () if examples.given else (UNSEEN,))


def _finalists(tasks: Mapping[str, Task], places: Places) -> Finalists:
    """Return the original and the models that were trained, from the search in each precision, by its name."""
    finalists = Finalists(tasks)
    targets, clock = finalists.task.targets, finalists.task.clock
    clock.expect(finalists.work)
    # The original is scored first, so that a metric that does not fit is found before the long work.
    finalists.add_originals()
    narrower = {"widths": by_widths(places.widths)}
    if places.arguments:
        narrower["width multiplier"] = by_multiplier(places.arguments)
    surveys = {
        precision: Survey(tasks[precision], original.exported, places, narrower)
        for (_, precision), original in finalists.found.items()
    }
    for survey in surveys.values():
        survey.measure_widths()
    if targets.limits_cost and any(
        targets.load(*survey.cost_of_original) <= MARGIN and finalists.is_like_the_original(precision)
        for precision, survey in surveys.items()
    ):
        return finalists
    for family in KINDS:
        for survey in surveys.values():
            survey.measure_structured(family)
    for survey in surveys.values():
        survey.measure_layers()
    for survey in surveys.values():
        survey.try_layers()
    kinds = zip(*(survey.families() for survey in surveys.values()), strict=True)
    families = [improving(chain.from_iterable(alike)) for alike in kinds]
    _train(finalists, [family for family in families if family])
    return finalists


def _train(finalists: Finalists, families: list[list[Entry]]) -> None:
    """Train the best models of each family: those within the limits of latency and size, or else the fastest."""
    targets = finalists.task.targets
    if targets.limits_cost:
        finalists.train_those_within_limits(families)
    elif targets.drop is not None:
        finalists.train_the_fastest(families, targets.drop)


def _result(finalists: Finalists, runs: int, notes: tuple[str, ...]) -> Compression:
    """Measure all finalists in turns, and return the result.

    Raises:
        TargetError: if no model meets the targets.
    """
    task = finalists.task
    task.clock.show("measure all models in turns")
    found = list(finalists.found.values())
    files = {str(number): each.exported for number, each in enumerate(found)}
    latencies = measure_all(files, runs=runs, device=task.exporter.device).values()
    names = [finalists.name(*key) for key in finalists.found]
    points = tuple(
        Point(name, made.layers, made.family, model, report, exported, score, latency, rate)  # type: ignore[arg-type]
        for name, (made, model, report, exported, score, rate), latency in zip(names, found, latencies, strict=True)
    )
    pick, meets = picked(points, points[0], task.targets)
    stopped = (STOPPED,) if task.clock.has_cut else ()
    # A search among several precisions has weighed them itself.
    warnings = pick.exported.notes if len(finalists.tasks) == 1 else ()
    why = (*reasons(points, pick, meets, task.targets), *warnings, *notes, *stopped)
    result = Compression(points, pick, why, task.score.name, finalists.skipped, task.clock.seconds, meets)
    if not meets:
        raise TargetError(
            f"No model found meets the targets ({task.targets}). The nearest is '{pick.name}': "
            f"{described(pick, points[0])}. Relax a target, or try another precision, more epochs or more data."
            + (f" {STOPPED}" if task.clock.has_cut else ""),
            result,
        )
    return result


def _exportable(model: keras.Model, precisions: Sequence[Quantize | None]) -> list[Quantize | None]:
    """Return those of `precisions` in which `model` can be exported.

    Raises:
        ValueError: if there is none. The message is that of the last one.
    """
    usable: list[Quantize | None] = []
    for precision in precisions:
        try:
            check_exportable(model, Precision(precision))
        except ValueError:
            if precision == precisions[-1] and not usable:
                raise
        else:
            usable.append(precision)
    return usable


def _score(model: keras.Model, examples: Examples, metric: Callable | None, loss) -> Score:
    """Return the function that scores exported models.

    Raises:
        ValueError: if labels and metric do not fit.
    """
    if metric is not None:
        if not callable(metric):
            raise ValueError(f"Expected `metric` as a function of (y, outputs). Received: {metric!r}")
        if examples.held_y is None:
            raise ValueError("Expected labels with `metric`, which compares outputs with them. Received none. Give (x, y).")
        return Score(examples.held_x, examples.held_y, metric)
    decided = decisions(model, output_names(with_inputs(model)), loss)
    if examples.held_y is not None:
        outputs = first_outputs(model, examples.held_x, 1)
        check_scorable(examples.held_y, outputs, example_count(examples.held_x))
        return Score(examples.held_x, examples.held_y, None, decisions=tuple(decided))
    expected = outputs_of(model, examples.held_x)
    pairs = zip(decided, expected, strict=True)
    decided = ["largest" if known is None and are_probabilities(output) else known for known, output in pairs]
    return Score(examples.held_x, None, None, expected, tuple(decided))


def _as_list(rates) -> Sequence:
    """Return one learning rate, or a list or tuple of several, as a sequence. An empty one is kept as a single bad rate."""
    return rates if isinstance(rates, list | tuple) and rates else [rates]


def _fingerprint(x, y) -> str:
    return fingerprint([*keras.tree.flatten(x), *([] if y is None else keras.tree.flatten(y))])
