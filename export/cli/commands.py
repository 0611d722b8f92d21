"""What the commands do once click has read their arguments. Importing this imports TensorFlow."""

import json
import os
import re
from pathlib import Path

import keras
from keras_butterfly_cli.reading import LABELS, TEST, inputs_of, load_arrays, load_model, split
from rich.console import Console

import keras_butterfly
from keras_butterfly import export as exporting
from keras_butterfly.compression.checkpoint import Checkpoint
from keras_butterfly.export import files
from keras_butterfly.export.compression_sweep import MOST_FITTED, accuracy, sample
from keras_butterfly.export.measurement.plots import check_picture
from keras_butterfly.export.measurement.timing import content_of
from keras_butterfly.export.model import predict
from keras_butterfly.export.tflite import runtime
from keras_butterfly.export.tflite.parity import ParityError, compare_outputs
from keras_butterfly.utils.model_inputs import check_data
from keras_butterfly.utils.progress import Progress
from keras_butterfly.utils.text_table import TextTable
from keras_butterfly.utils.validation import check_finite

# What a target is looked for among by default.
KS, STACKS = (16, 32, 64), (1, 2)
Progress.lines = True
# A file or a pipe has no width of its own.
FILE_WIDTH = 120


def summary(model, as_json):
    found = keras_butterfly.summary(load_model(model), show=False)
    _print(found.to_dict(), [found.table()], as_json)


def replace(model, output, overwrite, as_json, data, target_latency, target_size, max_accuracy_drop, **options):
    """Writes the new model; with a target the one of several that meets it."""
    outputs = {"--output": output, "--plot": options["plot"]}
    files.check_distinct(outputs, {"MODEL": model, "--data": data})
    _check_output(output, ".keras", overwrite)
    _check_plot(options["plot"], overwrite)
    if options["checkpoint"] is not None:
        if not options["epochs"]:
            raise ValueError("Expected --epochs with --checkpoint, which keeps the state of a training. Received it without.")
        options["checkpoint"] = Checkpoint(options["checkpoint"])
    original = load_model(model)
    arrays = None if data is None else load_arrays(data)
    targets = {
        "target_latency": None if target_latency is None else target_latency / 1e6,
        "target_size": None if target_size is None else int(target_size * 1024),
        "max_accuracy_drop": None if max_accuracy_drop is None else max_accuracy_drop / 100,
    }
    settings = {key: options[key] for key in ("initialize", "seed")} | {"where": _where(options["where"], options["least"])}
    settings |= {} if options["steps"] is None else {"steps": options["steps"]}
    if any(target is not None for target in targets.values()):
        new, report, shown = _picked(original, arrays, targets, options, settings, overwrite)
    else:
        new, report, shown = _replaced(original, arrays, options, settings)
    files.write(output, new.save, overwrite)
    if options["checkpoint"] is not None:
        options["checkpoint"].remove()
    _print({"written": str(output), **report}, [*shown, f"wrote {output}"], as_json)


def _replaced(original, arrays, options, settings):
    ks, stacks = options["ks"], options["stacks"]
    if len(ks) > 1 or len(stacks) > 1:
        raise ValueError("Expected one --k or one --stacks. Several are tried only for a target, such as --target-latency.")
    if options["plot"] is not None:
        raise ValueError(
            "Expected --plot with a target, such as --target-latency: it shows what was tried. Received it without."
        )
    if options["epochs"] and arrays is None:
        raise ValueError("Expected --data to train on. Received --epochs without it.")
    if options["quantize"]:
        raise ValueError("Expected --quantize with a target only; a .keras file stays in float. Give it to the export command.")
    how = {"kind": options["kind"], "k": ks[0] if ks else None, "stacks": stacks[0] if stacks else 1}
    x = None if arrays is None else check_data(original, inputs_of(arrays, _input_names(original)))
    some = None if x is None else sample(x, MOST_FITTED)
    labels = None if arrays is None or not options["epochs"] else arrays.get(LABELS)
    scores = _scores("original", original, arrays) if options["epochs"] else {}
    keras.utils.set_random_seed(options["seed"])  # of the shuffling and of dropout, so that a rerun gives the same weights
    new, record = keras_butterfly.replace_dense(original, data=some, **how, **settings)
    if options["epochs"]:
        scores |= _scores("after the fit", new, arrays)
        keras_butterfly.distill(new, original, x, labels, epochs=options["epochs"], checkpoint=options["checkpoint"])
        scores |= _scores("after distillation", new, arrays)
    return new, {**record.to_dict(), "accuracies": scores}, [record.table(), *_score_lines(scores, record)]


def _scores(name: str, model, arrays) -> dict[str, float]:
    """Return the accuracy of a Keras model with one output, by `name`. Without labels in the data return nothing."""
    suffix = TEST if arrays is not None and LABELS + TEST in arrays else ""
    if arrays is None or LABELS + suffix not in arrays or len(model.outputs) != 1:
        return {}
    x = check_data(model, inputs_of(arrays, _input_names(model), suffix))
    return {name: accuracy(arrays[LABELS + suffix], model.predict(x, verbose=0))}


def _score_lines(scores: dict[str, float], record) -> list[str]:
    """Return what a user needs to judge the fit, in sentences."""
    lines = [f"accuracy, {name}: {score:.4f}" for name, score in scores.items()]
    if any(change.error is not None for change in record.changes):
        lines.append("relative error: of the fit, before any training. 0 is exact, 1 is a layer that has learned nothing.")
    return lines


def _picked(original, arrays, targets, options, settings, overwrite):
    if arrays is None:
        raise ValueError(f"Expected --data, a .npz with inputs x and labels {LABELS}, to measure targets on. Received none.")
    train, test = split(arrays, _input_names(original))
    ks, stacks = _tried(options["kind"], options["ks"], options["stacks"])
    if options["checkpoint"] is not None:
        raise ValueError("Expected --checkpoint without a target; several models are trained for one. Received both.")
    only_size = targets["target_latency"] is None and targets["target_size"] is not None
    tried = exporting.sweep(
        original,
        test,
        ks=ks,
        stacks=stacks,
        objective="size" if only_size else "latency",
        train=train,
        epochs=options["epochs"],
        quantize=options["quantize"],
        **settings,
    )
    if options["plot"] is not None:
        tried.plot(options["plot"], overwrite)
    point = tried.pick(**targets)
    return point.model, {"picked": point.to_dict(), **tried.to_dict()}, [tried.table(), f"picked {point.name}"]


def _tried(kind: str, ks, stacks):
    """What a target is looked for among."""
    if (kind == "butterfly" and ks) or (kind == "sandwich" and stacks):
        raise ValueError(f"Expected --k for sandwiches, --stacks for butterflies. Received: --kind {kind}, {ks}, {stacks}")
    if kind == "butterfly":
        return (), stacks or STACKS
    if kind == "sandwich":
        return ks or KS, ()
    return (ks, stacks) if ks or stacks else (KS, STACKS)


def export(model, output, data, wisdom, overwrite, as_json, explain, **settings):
    files.check_distinct({"--output": output, "--wisdom": wisdom}, {"MODEL": model, "--data": data})
    _check_output(output, ".tflite", overwrite)
    if wisdom is not None:
        files.check_writable(wisdom, overwrite=True)
    keras_model = load_model(model)
    known = exporting.wisdom if wisdom is None or not Path(wisdom).exists() else exporting.Wisdom.load(wisdom)
    representative = None if data is None else inputs_of(load_arrays(data), _input_names(keras_model))
    exported = exporting.to_tflite(keras_model, representative_data=representative, wisdom=known, **settings)
    exported.save(output, overwrite)
    if wisdom is not None:
        known.save_merged(wisdom)
    if as_json:
        _print_json({"written": str(output), **exported.to_dict()})
        return
    print(exported.explain() if explain else exported)
    print(f"wrote {output}")


def measure(model, as_json, **settings):
    latency = exporting.measure(model, **settings)
    table = TextTable(title=f"{latency.runtime}, threads {latency.threads}, {latency.machine}", title_justify="left")
    for column in ("median us", "p95 us", "IQR us", "blocks", "invocations a block"):
        table.add_column(column, justify="right")
    times = [f"{seconds * 1e6:,.2f}" for seconds in (latency.median, latency.p95, latency.iqr)]
    table.add_row(*times, str(len(latency.seconds)), str(latency.invocations))
    _print(latency.to_dict(), [table], as_json)


def compare(models, data, threads, runs, quantize, plot, overwrite, as_json):
    """Latencies of all; on data the accuracy of each and how far its outputs are from the first one's."""
    files.check_distinct({"--plot": plot}, {**{str(path): path for path in models}, "--data": data})
    _check_plot(plot, overwrite)
    if len({str(path) for path in models}) != len(models):
        raise ValueError(f"Expected different models. Received: {[str(path) for path in models]}")
    arrays = None if data is None else load_arrays(data)
    with Progress() as bars:
        contents = {str(path): _content(path, quantize, arrays) for path in bars.each(models, "load and export")}
        judged = {}
        if arrays is not None:
            judged = _judged({name: contents[name] for name in bars.each(contents, "run on the data")}, arrays)
    comparison = exporting.compare(contents, threads=threads, runs=runs)
    if plot is not None:
        comparison.plot(plot, overwrite)
    report = comparison.to_dict()
    for name, figures in judged.items():
        report["models"][name] |= figures
    _print(report, [comparison.table(), *([_judgement(judged)] if judged else [])], as_json)


def _content(path: Path, quantize: str | None, arrays) -> bytes:
    if path.suffix not in (".keras", ".h5"):
        return content_of(path)
    model = load_model(path)
    data = None if arrays is None else inputs_of(arrays, _input_names(model))
    return exporting.to_tflite(model, quantize=quantize, representative_data=data, progress=False).content


def _judged(contents: dict[str, bytes], arrays) -> dict[str, dict]:
    suffix = TEST if LABELS + TEST in arrays else ""
    labels, first, judged = arrays.get(LABELS + suffix), None, {}
    for name, content in contents.items():
        inputs = inputs_of(arrays, _signature_inputs(content), suffix)
        for array in keras.tree.flatten(inputs):
            check_finite(array, "the data")
        outputs = predict(content, inputs)
        first = outputs if first is None else first
        listed = [value if isinstance(value, list) else [value] for value in (first, outputs)]
        try:
            far = compare_outputs(*listed).relative_error
        except ParityError as error:
            raise ValueError(f"Expected models of the same task. '{name}' is of another: {error}") from None
        judged[name] = {"difference": far}
        if labels is not None:
            judged[name]["accuracy"] = accuracy(labels, outputs)
    return judged


def _judgement(judged: dict[str, dict]) -> TextTable:
    table = TextTable(
        "model", title="On the data; difference: largest, of the largest output of the first", title_justify="left"
    )
    scored = any("accuracy" in figures for figures in judged.values())
    for column in ("accuracy", "difference") if scored else ("difference",):
        table.add_column(column, justify="right")
    for name, figures in judged.items():
        score = [f"{figures['accuracy']:.4f}"] if scored else []
        table.add_row(name, *score, f"{figures['difference']:.2g}")
    return table


def _signature_inputs(content: bytes):
    return runtime.signature(runtime.load(content))[0]


def _input_names(model) -> list[str]:
    names = getattr(model, "input_names", None) or [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    return list(names) or ["x"]


def _where(names, least):
    """What `replace_dense` takes: names, a regular expression, a number of weights, or None."""
    if any(not name.strip() for name in names):
        raise ValueError("Expected a name or a regular expression for --where. Received an empty one.")
    if names and least:
        raise ValueError("Expected --where or --least. Received both.")
    if len(names) == 1 and not re.fullmatch(r"[\w/.-]+", names[0]):
        try:
            return re.compile(names[0])
        except re.error as error:
            raise ValueError(f"Expected a name or a regular expression for --where. Received: {names[0]!r}: {error}") from None
    return list(names) or least


def _check_plot(path, overwrite: bool) -> None:
    if path is not None:
        check_picture(path)
        files.check_writable(path, overwrite)


def _check_output(path, suffix: str, overwrite: bool) -> None:
    if Path(path).suffix != suffix:
        raise ValueError(f"Expected an --output that ends in {suffix}. Received: '{path}'")
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"'{path}' exists. Choose another --output, or pass --overwrite.")
    files.check_writable(path, overwrite)


def _print(report: dict, shown: list, as_json: bool) -> None:
    if as_json:
        _print_json(report)
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    for part in shown:
        console.print(part, highlight=False)


def _print_json(report: dict) -> None:
    print(json.dumps(report, indent=2))
