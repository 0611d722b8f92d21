"""The tables and the plot of the networks in which dense layers dominate, from the results of wide.py and wide_latency.py."""

from dataclasses import dataclass

import numpy as np
from wide_kinds import DENSE, EQUAL_LATENCY, KINDS, LOW_RANK, NARROW, PRUNED, REFERENCE, TWO_STAGES
from wide_models import MODELS

from keras_butterfly.export.measurement import plots

SEEDS = 3
NETWORKS = {"head": "head alone", "vgg": "VGG-like", "mixer": "Mixer", "transformer": "transformer"}
PRECISIONS = ("float32", "dynamic", "int8")
BUTTERFLIES = (REFERENCE, TWO_STAGES)
RIVALS = (LOW_RANK, NARROW, PRUNED)  # of the weights of the butterflies of radix 4
# A difference of means counts if it is larger than this and than the larger standard deviation of the two.
POINTS = 0.5
COLORS = dict(zip(KINDS, ("#000000", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#009E73"), strict=True))


@dataclass(frozen=True)
class Runs:
    """The runs of one network with one kind of layers at its best rate. Accuracies are in percent, one for each seed."""

    rate: float
    accuracies: tuple[float, ...]
    weights: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """The standard deviation, 0 for a single seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0

    def __str__(self) -> str:
        if len(self.accuracies) == 1:
            return f"{self.mean:.2f}, one seed"
        shown = f"{self.mean:.2f} ± {self.deviation:.2f} ({min(self.accuracies):.2f} to {max(self.accuracies):.2f})"
        return shown if len(self.accuracies) == SEEDS else f"{shown}, seeds: {len(self.accuracies)}"


def runs_of(tree: dict, name: str, kind: str) -> Runs | None:
    """Return the runs of a network with a kind of layers, or None if it was not trained.

    The best rate is that of the most seeds, and of several rates that of the highest mean accuracy on the images of the choice.
    """
    rates = tree.get(name, {}).get(kind, {})
    if not rates:
        return None
    choices = {rate: [run["choice"] for run in seeds.values()] for rate, seeds in rates.items()}
    best = max(rates, key=lambda rate: (len(choices[rate]), np.mean(choices[rate])))
    seeds = rates[best].values()
    return Runs(float(best.split()[-1]), tuple(100 * run["accuracy"] for run in seeds), rates[best]["seed 0"]["weights"])


def trained(tree: dict, name: str) -> dict[str, Runs]:
    """Return the kinds of layers with which a network was trained, each with its runs."""
    return {kind: runs for kind in KINDS if (runs := runs_of(tree, name, kind))}


def latency_table(tree: dict) -> str:
    """Return the table of exported files in Markdown: KiB, microseconds, and how many times as fast as dense."""
    lines = [f"| network | wide layers | weights | {' | '.join(PRECISIONS)} |", "|---" * (3 + len(PRECISIONS)) + "|"]
    for name, shown in NETWORKS.items():
        measured = tree[name]
        for kind, first in measured[PRECISIONS[0]].items():
            cells = [with_gain(measured[precision], kind) for precision in PRECISIONS]
            lines.append(f"| {shown} | {kind} | {first['weights']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_gain(files: dict[str, dict], kind: str) -> str:
    """Return the size and the latency of a file, and how many times as fast as the dense one it is."""
    size, gain = f"{files[kind]['bytes'] / 1024:,.0f}, {files[kind]['seconds'] * 1e6:,.0f}", gain_of(files, kind)
    return size if kind == DENSE else f"{size} (**{times(gain)}**)"


def times(gain: float) -> str:
    """Return a gain as a text: "1.3x" or "14x"."""
    return f"{gain:.1f}x" if gain < 10 else f"{gain:.0f}x"


def gain_of(files: dict[str, dict], kind: str) -> float:
    """Return how many times as fast as the dense file a file is."""
    return files[DENSE]["seconds"] / files[kind]["seconds"]


def accuracy_table(tree: dict) -> str:
    """Return the table of the trained networks in Markdown."""
    lines = [
        "| network | wide layers | weights | test accuracy, %, mean ± deviation (range) | against dense | rate |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        found = trained(tree, name)
        for kind, runs in found.items():
            gap = f"{runs.mean - found[DENSE].mean:+.2f}" if DENSE in found and kind != DENSE else ""
            lines.append(f"| {NETWORKS[name]} | {kind} | {runs.weights:,} | {runs} | {gap} | {runs.rate:g} |")
    return "\n".join(lines)


def claim_table(tree: dict, latencies: dict) -> str:
    """Return the paper's claims beside what was seen with butterflies, in Markdown."""
    columns = [(name, kind) for name in MODELS for kind in BUTTERFLIES if {kind, DENSE} <= trained(tree, name).keys()]
    header = [f"{NETWORKS[name]}, {kind}" for name, kind in columns]
    lines = [f"| the paper's claim | {' | '.join(header)} |", "|---" * (1 + len(columns)) + "|"]
    rows = {
        "as accurate as dense": [as_accurate(trained(tree, name), kind) for name, kind in columns],
        "fewer weights": [fewer_weights(trained(tree, name), kind) for name, kind in columns],
        **{
            f"faster inference, {precision}": [faster(latencies[name][precision], kind) for name, kind in columns]
            for precision in PRECISIONS
        },
    }
    for rival in RIVALS:
        rows[f"beyond the paper: more accurate than {rival}"] = [
            more_accurate(trained(tree, name), kind, rival) for name, kind in columns
        ]
    rows[f"beyond the paper: more accurate than {EQUAL_LATENCY}"] = [
        more_accurate(trained(tree, name), kind, EQUAL_LATENCY) for name, kind in columns
    ]
    return "\n".join([*lines, *(f"| {claim} | {' | '.join(cells)} |" for claim, cells in rows.items())])


def noise(one: Runs, other: Runs) -> float:
    """Return the difference of means, in points, that is not larger than chance."""
    return max(POINTS, one.deviation, other.deviation)


def compared(answer: str, own: Runs, other: Runs) -> str:
    """Return `answer` with the difference of two means. With one seed the noise is not known, so there is no answer."""
    has_one_seed = 1 in (len(own.accuracies), len(other.accuracies))
    return f"{'one seed' if has_one_seed else answer}: {own.mean - other.mean:+.2f}"


def as_accurate(found: dict[str, Runs], kind: str) -> str:
    own, dense = found[kind], found[DENSE]
    gap = own.mean - dense.mean
    answer = "**no**" if gap < -noise(own, dense) else ("undecided" if gap < -POINTS else "yes")
    return compared(answer, own, dense)


def more_accurate(found: dict[str, Runs], kind: str, rival: str) -> str:
    if rival not in found:
        return "not run"
    own, other = found[kind], found[rival]
    gap = own.mean - other.mean
    answer = "no difference" if abs(gap) <= noise(own, other) else ("yes" if gap > 0 else "**no**")
    return compared(answer, own, other)


def fewer_weights(found: dict[str, Runs], kind: str) -> str:
    ratio = found[DENSE].weights / found[kind].weights
    return f"{'yes' if ratio > 1 else '**no**'}: 1/{ratio:.0f}"


def faster(files: dict[str, dict], kind: str) -> str:
    gain = gain_of(files, kind)
    # Two measurements of one network differ by a few percent.
    answer = "yes" if gain > 1.05 else ("no difference" if gain > 0.95 else "**no**")
    return f"{answer}: {times(gain)}"


@plots.style()
def plot(tree: dict):
    """Return a plot of the accuracy against the number of weights, an axis for each network and a color for each kind."""
    names = [name for name in MODELS if trained(tree, name)]
    figure, axes = plots.panels(len(names), columns=3, height=3.2)
    shown = {}
    for axis, name in zip(axes, names, strict=True):
        for kind, runs in trained(tree, name).items():
            settings = {"color": COLORS[kind], "marker": "o", "capsize": 2, "linestyle": "none"}
            shown[kind] = axis.errorbar(runs.weights, runs.mean, runs.deviation, **settings)
        axis.set(title=NETWORKS[name], xlabel="weights")
        plots.log_scale(axis, "x")
    axes[0].set(ylabel="test accuracy, %")
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=4)
    return figure
