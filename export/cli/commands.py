"""The commands: functions that are called with the arguments that click has read. Importing this imports TensorFlow."""

import json
import os
import re
import reprlib
import warnings
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
from keras_butterfly_cli.reading import LABELS, TEST, inputs_of, load_arrays, load_model, training_and_test

import keras_butterfly
from keras_butterfly import export as exporting
from keras_butterfly.compression.checkpoint import Checkpoint, fingerprint, fingerprint_of_weights
from keras_butterfly.compression.distillation import labels_and_loss
from keras_butterfly.export import files
from keras_butterfly.export.compression.score import accuracy, as_integers, check_scorable
from keras_butterfly.export.measurement.devices import find
from keras_butterfly.export.measurement.plots import check_picture
from keras_butterfly.export.measurement.timing import check_extent, content_of
from keras_butterfly.export.model import predict
from keras_butterfly.export.preparation.exportable import decisions
from keras_butterfly.export.tflite import runtime
from keras_butterfly.export.tflite.parity import Decision, ParityError, compare_outputs
from keras_butterfly.utils.model_checks import check_finite_weights, check_model
from keras_butterfly.utils.model_inputs import check_data, example_count, examples_at, first_outputs, sample
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable, wide_console
from keras_butterfly.utils.validation import check_finite

# Number of examples that layers are fitted to.
MAX_FITTED = 4096
Progress.lines = True


def summary(model, as_json):
    """Print the weights, multiply-adds and bytes of each layer of a .keras file."""
    found = keras_butterfly.summary(load_model(model), show=False)
    print_report(found.to_dict(), [found.table()], as_json)


def replace(model, output, overwrite, as_json, data, **options):
    """Replace dense layers in a .keras file, train the new model if asked to, and write it."""
    files.check_distinct({"--output": output}, {"MODEL": model, "--data": data})
    _check_output(output, ".keras", overwrite)
    checkpoint = _checkpoint(options)
    original = load_model(model)
    check_model(original)
    arrays = None if data is None else load_arrays(data)
    settings = {key: options[key] for key in ("kind", "k", "rank", "stacks", "radix", "initialize", "seed", "min_weights")}
    settings |= {"where": _where(options["where"])}
    settings |= {} if options["steps"] is None else {"steps": options["steps"]}
    if checkpoint is not None:
        checkpoint.settings = _training_settings(original, arrays, options)
    with nullcontext() if checkpoint is None else checkpoint.held():
        new, report, shown = _replaced(original, arrays, options, settings, checkpoint)
        files.write(output, new.save, overwrite)
        if checkpoint is not None:
            checkpoint.remove()
    print_report({"written": str(output), **report}, [*shown, f"wrote {output}"], as_json)


def compress(model, output, keras_output, plot, overwrite, as_json, data, **options):
    """Search for the best model that meets the targets, write its .tflite file, and print all models that were tried."""
    files.check_distinct({"--output": output, "--keras": keras_output, "--plot": plot}, {"MODEL": model, "--data": data})
    _check_output(output, ".tflite", overwrite)
    if keras_output is not None:
        _check_output(keras_output, ".keras", overwrite, "--keras")
    _check_plot(plot, overwrite)
    targets = _targets(options.pop("target_latency_us"), options.pop("target_size_kib"), options.pop("max_accuracy_drop"))
    original = load_model(model)
    check_model(original)
    train, test = training_and_test(load_arrays(data), _input_names(original))
    where = _where(options.pop("where"))
    found = exporting.compress(original, train, validation_data=test, where=where, **targets, **options)
    if keras_output is not None:
        files.write(keras_output, found.model.save, overwrite)
    if plot is not None:
        found.plot(plot, overwrite)
    found.exported.save(output, overwrite)
    print_report({"written": str(output), **found.to_dict()}, [found.table(), *found.why, f"wrote {output}"], as_json)


def _checkpoint(options) -> Checkpoint | None:
    """Return the checkpoint that the options name, or None if they name none."""
    if options["checkpoint"] is None:
        return None
    if not options["epochs"]:
        raise ValueError("Expected --epochs with --checkpoint, which saves a training. Received --checkpoint alone.")
    return Checkpoint(options["checkpoint"])


def _training_settings(original, arrays, options) -> dict:
    """Return what the student and its training depend on, by the names that a user of the command line knows."""
    names = ("kind", "k", "rank", "stacks", "radix", "where", "min_weights", "initialize", "steps", "epochs", "seed")
    trained_on = [array for name, array in sorted((arrays or {}).items()) if not name.endswith(TEST)]
    return {
        "MODEL": fingerprint_of_weights(original),
        "--data": fingerprint(trained_on),
        **{f"--{name.replace('_', '-')}": options[name] for name in names},
    }


def _targets(latency_us: float | None, size_kib: float | None, accuracy_drop: float | None) -> dict:
    """Return the targets as `compress` takes them: seconds, bytes, and a part of 1. Those that are not given stay None."""
    return {
        "target_latency": None if latency_us is None else latency_us / 1e6,
        "target_size": None if size_kib is None else int(size_kib * 1024),
        "max_accuracy_drop": None if accuracy_drop is None else accuracy_drop / 100,
    }


def _replaced(original, arrays, options, settings, checkpoint):
    """Return the one new model that the options describe, a report for JSON, and the parts to print."""
    if options["epochs"] and arrays is None:
        raise ValueError("Expected --data to train on. Received --epochs without it.")
    x = None if arrays is None else check_data(original, inputs_of(arrays, _input_names(original)))
    some = None if x is None else sample(x, MAX_FITTED)
    labels = None if arrays is None or not options["epochs"] else arrays.get(LABELS)
    decision = _decision(original)
    scores = _scores("original", original, arrays, decision) if options["epochs"] else {}
    if labels is not None:
        labels_and_loss(original, x, labels)  # labels that do not fit are found before the long work
    if settings["initialize"] == "auto" and not options["epochs"]:
        settings["initialize"] = "fit"
    keras.utils.set_random_seed(options["seed"])  # of the shuffling and of dropout, so that a rerun gives the same weights
    new, replaced = keras_butterfly.replace_dense(original, data=some, **settings)
    if options["epochs"]:
        scores |= _scores("before distillation", new, arrays, decision)
        keras_butterfly.distill(new, original, x, labels, epochs=options["epochs"], checkpoint=checkpoint)
        scores |= _scores("after distillation", new, arrays, decision)
    return new, {**replaced.to_dict(), "accuracies": scores}, [replaced.table(), *_score_lines(scores, replaced)]


def _decision(model: keras.Model) -> Decision | None:
    """Return how the output of a model decides about a class. None if that is not known, or there are several outputs."""
    return decisions(model, ["output"])[0] if len(getattr(model, "outputs", None) or [None]) == 1 else None


def _scores(name: str, model, arrays, decision: Decision | None) -> dict[str, float]:
    """Return the accuracy of a Keras model with one output, by `name`. Without labels of classes in the data return nothing."""
    suffix = TEST if arrays is not None and LABELS + TEST in arrays else ""
    if arrays is None or LABELS + suffix not in arrays or len(model.outputs) != 1:
        return {}
    outputs = model.predict(check_data(model, inputs_of(arrays, _input_names(model), suffix)), verbose=0)
    labels = as_integers(arrays[LABELS + suffix], outputs)
    return {} if np.issubdtype(labels.dtype, np.floating) else {name: accuracy(labels, outputs, decision)}


def _score_lines(scores: dict[str, float], replaced) -> list[str]:
    """Return lines of text that help a user to judge the fit."""
    lines = [f"accuracy, {name}: {score:.4f}" for name, score in scores.items()]
    if any(each.error is not None for each in replaced.replacements):
        lines.append("relative error: that of the fit, before any training. 0 is exact, and 1 is as bad as a layer of zeros.")
    return lines


def export(model, output, data, wisdom, card, overwrite, as_json, explain, **settings):
    """Convert a .keras file to TFLite, write it, and print the plan and the difference to Keras."""
    page = output.with_suffix(".md") if card else None
    files.check_distinct({"--output": output, "--wisdom": wisdom, "--card": page}, {"MODEL": model, "--data": data})
    _check_output(output, ".tflite", overwrite)
    if wisdom is not None:
        files.check_writable(wisdom, overwrite=True)
    if page is not None:
        _check_new(page, "--output", overwrite)
    keras_model = load_model(model)
    known = exporting.wisdom if wisdom is None or not Path(wisdom).exists() else exporting.Wisdom.load(wisdom)
    representative = None if data is None else inputs_of(load_arrays(data), _input_names(keras_model))
    exported = exporting.to_tflite(keras_model, representative_data=representative, wisdom=known, **settings)
    text = None if page is None else exported.card(output.name, exporting.measure(exported, device=settings["device"])).encode()
    written = [exported.save(output, overwrite)]
    if page is not None:
        written.append(files.write(page, text, overwrite))
    if wisdom is not None:
        known.save_merged(wisdom)
    if as_json:
        _print_json({"written": str(output), **({"card": str(page)} if page else {}), **exported.to_dict()})
        return
    print(exported.explain() if explain else exported)
    for path in written:
        print(f"wrote {path}")


def measure(model, as_json, **settings):
    """Print the latency of a .tflite file, or its counts."""
    figure = exporting.measure(model, **settings)
    table = TextTable(*figure.columns, title=figure.title, title_justify="left")
    for column in table.columns:
        column.justify = "right"
    table.add_row(*figure.cells())
    print_report(figure.to_dict(), [table], as_json)


def compare(models, data, threads, runs, quantize, device, plot, overwrite, as_json):
    """Print the latencies or counts of all models, and on data the accuracy of each and its difference to the first model."""
    files.check_distinct({"--plot": plot}, {**{str(path): path for path in models}, "--data": data})
    _check_plot(plot, overwrite)
    check_extent(threads=threads, runs=runs)
    find(device)
    if len({str(path) for path in models}) != len(models):
        raise ValueError(f"Expected different models. Received: {[str(path) for path in models]}")
    loaded = {str(path): _loaded(path) for path in models}
    arrays = None if data is None else load_arrays(data)
    evaluated: dict[str, dict] = {}
    if arrays is not None:
        _check_task(loaded, arrays)
    with Progress() as bars:
        contents = {name: _content(loaded[name], quantize, device, arrays) for name in bars.each(loaded, "load and export")}
        if arrays is not None:
            # Only a .keras file knows its loss.
            decision = next(
                filter(None, (_decision(model) for model in loaded.values() if isinstance(model, keras.Model))), None
            )
            evaluated = _evaluated({name: contents[name] for name in bars.each(contents, "run on the data")}, arrays, decision)
    comparison = exporting.compare(contents, threads=threads, runs=runs, device=device)
    if plot is not None:
        comparison.plot(plot, overwrite)
    report = comparison.to_dict()
    for name, figures in evaluated.items():
        report["models"][name] |= figures
    print_report(report, [comparison.table(), *([_evaluation_table(evaluated)] if evaluated else [])], as_json)


def _loaded(path: Path) -> keras.Model | bytes:
    """Return the Keras model in a .keras or .h5 file, or the bytes of a .tflite file that the runtime loads."""
    if path.suffix in (".keras", ".h5"):
        model = load_model(path)
        check_model(model)
        check_finite_weights(model)
        return model
    content = content_of(path)
    runtime.load(content)
    return content


def _check_task(models: dict[str, keras.Model | bytes], arrays) -> None:
    """Run each model on the first example, so that models, data and labels that do not fit are found before the exports."""
    suffix = TEST if LABELS + TEST in arrays else ""
    first = None
    for name, model in models.items():
        names = _signature_inputs(model) if isinstance(model, bytes) else _input_names(model)
        inputs = inputs_of(arrays, names, suffix)
        for array in keras.tree.flatten(inputs):
            check_finite(array, "the data")
        if isinstance(model, bytes):
            outputs = _listed(predict(model, examples_at(inputs, slice(1))))
        else:
            outputs = first_outputs(model, check_data(model, inputs), 1)
        first = outputs if first is None else first
        if len(outputs) == 1 or len(first) == 1:  # of several outputs the order is known later
            _difference(name, first, outputs)
        if LABELS + suffix in arrays:
            check_scorable(arrays[LABELS + suffix], outputs, example_count(inputs))


def _content(model: keras.Model | bytes, quantize: str | None, device: str, arrays) -> bytes:
    """Return the bytes of a .tflite file, or of the export of a Keras model that is planned for the device."""
    if isinstance(model, bytes):
        return model
    data = None if arrays is None else inputs_of(arrays, _input_names(model))
    return exporting.to_tflite(model, quantize=quantize, representative_data=data, device=device, progress=False).content


def _evaluated(contents: dict[str, bytes], arrays, decision: Decision | None) -> dict[str, dict]:
    """Return, for each .tflite model, the difference of its outputs to the first model's, and with labels the accuracy."""
    suffix = TEST if LABELS + TEST in arrays else ""
    labels, first, evaluated = arrays.get(LABELS + suffix), None, {}
    for name, content in contents.items():
        outputs = predict(content, inputs_of(arrays, _signature_inputs(content), suffix))
        first = _listed(outputs) if first is None else first
        evaluated[name] = {"difference": _difference(name, first, _listed(outputs))}
        if labels is not None:
            evaluated[name]["accuracy"] = accuracy(labels, outputs, decision)
    return evaluated


def _listed(outputs) -> list:
    """Return the outputs of a model, an array or a list of arrays, as a list."""
    return outputs if isinstance(outputs, list) else [outputs]


def _difference(name: str, first: list, outputs: list) -> float:
    """Return the largest difference of the outputs of the model `name` to those of the first, over the largest output."""
    if len(first) != len(outputs):
        raise ValueError(
            f"Expected models of the same task. '{name}' has {len(outputs)} outputs, the first model has {len(first)}."
        )
    try:
        return compare_outputs(first, outputs).relative_error
    except ParityError as error:
        raise ValueError(f"Expected models of the same task. '{name}' is of another: {error}") from None


def _evaluation_table(evaluated: dict[str, dict]) -> TextTable:
    table = TextTable(
        "model", title="On the data. Difference: the largest to the first, of its largest output", title_justify="left"
    )
    scored = any("accuracy" in figures for figures in evaluated.values())
    for column in ("accuracy", "difference") if scored else ("difference",):
        table.add_column(column, justify="right")
    for name, figures in evaluated.items():
        score = [f"{figures['accuracy']:.4f}"] if scored else []
        table.add_row(name, *score, f"{figures['difference']:.2g}")
    return table


def _signature_inputs(content: bytes):
    return runtime.signature(runtime.load(content))[0]


def _input_names(model) -> list[str]:
    """Return the names of the inputs of a Keras model, "x" if it does not know them."""
    names = getattr(model, "input_names", None) or [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    return list(names) or ["x"]


def _where(names):
    """Return the argument `where` of `replace_dense`: names, a regular expression, or None."""
    if any(not name.strip() for name in names):
        raise ValueError("Expected a name or a regular expression for --where. Received an empty one.")
    if len(names) == 1 and not re.fullmatch(r"[\w/.-]+", names[0]):
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of a set within a set, such as [[a]]
                return re.compile(names[0])
        except (re.error, OverflowError, RecursionError) as error:
            received = f"{reprlib.repr(names[0])}: {error}"
            raise ValueError(f"Expected a name or a regular expression for --where. Received: {received}") from None
    return list(names) or None


def _check_plot(path, overwrite: bool) -> None:
    if path is not None:
        check_picture(path)
        _check_new(path, "--plot", overwrite)


def _check_output(path, suffix: str, overwrite: bool, option: str = "--output") -> None:
    if Path(path).suffix != suffix:
        article = "an" if option == "--output" else "a"
        raise ValueError(f"Expected {article} {option} that ends in {suffix}. Received: '{path}'")
    _check_new(path, option, overwrite)


def _check_new(path, option: str, overwrite: bool) -> None:
    """Check that a file can be written to the path that the user gave as `option`."""
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"'{path}' exists. Choose another {option}, or pass --overwrite.")
    files.check_writable(path, overwrite)


def print_report(report: dict, shown: list, as_json: bool) -> None:
    """Print a report as JSON, or the tables and lines that show it."""
    if as_json:
        _print_json(report)
        return
    console = wide_console()
    for part in shown:
        console.print(part, highlight=False)


def _print_json(report: dict) -> None:
    print(json.dumps(report, indent=2))
