"""The evidence for an export in words and tables: its size, its errors, and the lowerings that were considered."""

from rich.text import Text

from keras_butterfly.utils.text_table import TextGroup, TextTable

from .measurement.figures import amount
from .planning.plan import LayerPlan
from .tflite.operators import count_operators


def summary_lines(model) -> list[str]:
    """Return the few lines that `print(exported)` shows: precision, size, errors, and what the butterfly layers save."""
    precision, parity = model.precision.label, model.parity
    decisions = "" if parity.agreement is None else f", {parity.agreement:.1%} equal decisions"
    lines = [
        f"{precision}, {model.size_bytes / 1024:,.1f} KiB, {len(model.operators)} operators in {model.partitions} XNNPACK "
        "partition(s)",
        f"against Keras, on {parity.examples} examples ({parity.inputs}): off by {parity.relative_error:.2g} of the largest "
        f"output{decisions}",
    ]
    gain = model.gain
    if gain is not None:
        estimated = " (estimated)" if gain.estimated else ""
        lines.append(
            f"butterfly layers{_where(model)}: {amount(gain.cost, gain.unit)}, as dense kernels "
            f"{amount(gain.dense_cost, gain.unit)}{estimated}, {gain.dense_cost / gain.cost:.1f}x; with dense kernels the file "
            f"would have about "
            f"{gain.dense_size_bytes / 1024:,.1f} KiB"
        )
    if model.original_parity is not None:
        lines.append(f"against the model in its own precision: off by {model.original_parity.relative_error:.2g}")
    return [*lines, *model.notes]


def explanation(model) -> TextGroup:
    """Return the summary of an export, its operators, and for each butterfly layer a table of the lowerings considered."""
    parts: list[Text | TextTable] = [Text(line) for line in summary_lines(model)]
    parts.append(Text(f"operators: {count_operators(model.operators)}"))
    for plan in model.plan:
        source = f"{plan.source} on {plan.device}" if plan.source == "measured" else plan.source
        source = f"wisdom of {plan.device}" if plan.source == "wisdom" else source
        chosen = f"{plan.lowering}, {source}, relative error {plan.error:.2g}"
        parts.append(Text(f"{plan.layer} {plan.input_shape}: {chosen}"))
        if plan.candidates:
            parts.append(_candidates_table(plan))
    return TextGroup(*parts)


def _candidates_table(plan: LayerPlan) -> TextTable:
    """Return a table of the lowerings considered for one layer, the best first. An arrow marks the chosen lowering.

    Counts are the weighted sums of instructions and memory reads, see `Counts`.

    The column "GPU groups" says whether GPU delegates run the grouped convolutions "whole" or "split", see `Candidate`.
    """
    table = TextTable("lowering")
    counted = any(candidate.unit == "counts" for candidate in plan.candidates)
    for column in ("estimate us", "counts" if counted else "measured us", "size KiB", "error"):
        table.add_column(column, justify="right")
    table.add_column("GPU groups")
    table.add_column("passed over because")
    for candidate in sorted(plan.candidates, key=lambda candidate: candidate.cost):
        cells = ["", "", ""]
        if candidate.measured:
            measured = candidate.measured
            cost = amount(measured.cost, measured.unit).split()[0]
            cells = [cost, f"{measured.size_bytes / 1024:,.1f}", f"{measured.error:.2g}"]
        lowering = str(candidate.lowering)
        name = Text(f"{lowering} <-", "bold") if candidate.lowering == plan.lowering else lowering
        gpu = {True: "whole", False: "split", None: ""}[candidate.gpu_groups]
        table.add_row(name, f"{candidate.estimate * 1e6:,.2f}", *cells, gpu, plan.passed_over(candidate))
    return table


def _where(model) -> str:
    """Return in words on which device the layers were measured. The host is not named."""
    names = {plan.device for plan in model.plan} - {"host"}
    return f" on {', '.join(sorted(names))}" if names else ""
