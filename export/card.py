"""The model card of an export: a page in Markdown on what the file takes and returns, its evidence, and how to load it."""

import hashlib
import json
from importlib.metadata import version

import numpy as np

from .tflite import runtime
from .tflite.operators import count_operators

DEPLOY_PAGE = "https://github.com/keras-butterfly/keras-butterfly/blob/main/docs/deploy.md"
# precision -> how weights and activations are stored, in words.
_STORAGE = {
    None: "weights and activations in float32",
    "float16": "weights in float16, activations in float32",
    "dynamic": "weights in int8, activations quantized while running",
    "int8": "weights and activations in int8",
}


def model_card(model, name: str, figure=None) -> str:
    """Return the model card of an export, a text in Markdown.

    Args:
        model: a `TFLiteModel`.
        name: the name of the file that the card describes, such as "model.tflite".
        figure: what was measured of the file, as `export.measure` returns it. None: the card says that nothing was measured.
    """
    runner = runtime.load(model.content).get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    sections = [
        f"# {_escaped(name)}",
        _origin(model),
        "## Inputs and outputs",
        _tensors(inputs, model.input_names, outputs, model.output_names),
        "## Size",
        _size(model),
        "## Agreement with Keras",
        _agreement(model),
        "## Latency",
        _latency(figure),
        *(["## Notes", "\n".join(f"- {_escaped(note)}" for note in model.notes)] if model.notes else []),
        "## Load it",
        _loading(name, {each: inputs[each] for each in model.input_names}, model.output_names),
    ]
    return "\n\n".join(sections) + "\n"


def _origin(model) -> str:
    """Return a sentence that says what the file is, and the checksum that identifies it."""
    precision = model.precision.label
    return (
        f"A TFLite model in {precision}, exported by keras_butterfly {version('keras-butterfly')}. It holds built-in operators "
        f"only, and needs neither Flex nor custom kernels.\n\nSHA-256: `{hashlib.sha256(model.content).hexdigest()}`"
    )


def _tensors(inputs: dict, input_names, outputs: dict, output_names) -> str:
    """Return a table of the inputs and outputs, by their names in the signature.

    Args:
        inputs, outputs: what the interpreter tells of the tensors, by name.
        input_names, output_names: the names in the order of the Keras model.
    """
    rows = [
        [kind, f"`{name}`", _shape(details[name]), np.dtype(details[name]["dtype"]).name, _quantization(details[name])]
        for kind, names, details in (("input", input_names, inputs), ("output", output_names, outputs))
        for name in names
    ]
    text = _table(["", "name", "shape", "type", "quantization"], rows)
    if any(details["quantization"][0] for details in (*inputs.values(), *outputs.values())):
        text += "\n\nA quantized value q stands for scale x (q - zero point)."
    return text


def _shape(detail: dict) -> str:
    """Return the shape of a tensor. An axis of any size is written as "any"."""
    axes = detail["shape_signature"].tolist()
    return f"({', '.join('any' if axis < 0 else str(axis) for axis in axes)}{',' if len(axes) == 1 else ''})"


def _quantization(detail: dict) -> str:
    scale, zero = detail["quantization"]
    return f"scale {scale:.9g}, zero point {zero}" if scale else "none"


def _size(model) -> str:
    precision = model.precision.name
    rows = [
        ["file", f"{model.size_bytes:,} bytes ({model.size_bytes / 1024:,.1f} KiB)"],
        ["precision", f"{precision or 'float32'}: {_STORAGE[precision]}"],
        ["operators", count_operators(model.operators)],
        ["XNNPACK partitions", str(model.partitions)],
        *([f"layer `{plan.layer}`", f"written as {plan.lowering}"] for plan in model.plan),
    ]
    return _table(["", ""], rows)


def _agreement(model) -> str:
    """Return the errors of each output against Keras, and on what they were measured."""
    parity = model.parity
    rows = [
        [
            f"`{output.name}`",
            f"{output.max_error:.3g}",
            f"{output.relative_error:.3g}",
            "" if output.agreement is None else f"{output.agreement:.2%}",
        ]
        for output in parity.outputs
    ]
    text = _table(["output", "largest error", "relative to the largest output", "equal decisions"], rows)
    text += f"\n\nMeasured on {parity.examples} examples: {parity.inputs}."
    if model.original_parity is not None:
        text += f" Against the model in its own precision the relative error is {model.original_parity.relative_error:.3g}."
    return text


def _latency(figure) -> str:
    if figure is None:
        return "Not measured."
    rows = [
        ["device", figure.title],
        ["measured", figure.when],
        *zip(figure.columns, figure.cells(), strict=True),
    ]
    return _table(["", ""], [list(row) for row in rows])


def _loading(name: str, inputs: dict, output_names) -> str:
    """Return Python code that runs the file, and a link to the page with other languages."""
    arguments = [f"    {json.dumps(each)}: np.zeros({_example(detail)})," for each, detail in inputs.items()]
    lines = [
        "```python",
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "",
        f"run = Interpreter({json.dumps(name)}).get_signature_runner()",
        "inputs = {",
        *arguments,
        "}",
        "outputs = run(**inputs)",
        f"print({', '.join(f'outputs[{json.dumps(each)}]' for each in output_names)})",
        "```",
        "",
        f"[Deploy]({DEPLOY_PAGE}) has the code for Kotlin, Swift, C++ and JavaScript.",
    ]
    return "\n".join(lines)


def _example(detail: dict) -> str:
    """Return the arguments of `np.zeros` for an example of an input. Axes of any size get size 1."""
    shape = tuple(max(1, axis) for axis in detail["shape_signature"].tolist())
    return f'{shape}, "{np.dtype(detail["dtype"]).name}"'


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown. Bars in cells are escaped, so that they end no cell."""
    lines = [head, ["---"] * len(head), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Return a text on one line in which Markdown finds neither the end of a table's cell nor HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
