"""Measurements that are kept, so that nothing is measured twice: what each lowering of a layer took on which machine.

The name and the idea are FFTW's (Frigo and Johnson, The Design and Implementation of FFTW3, 2005).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .. import files
from ..lowering import KINDS, Lowering

UNITS = ("seconds", "counts")
FORMAT, VERSION = "keras-butterfly wisdom", 3


@dataclass(frozen=True)
class WisdomKey:
    """The facts by which a measurement is looked up. It is used again only if all of them are the same.

    Attributes:
        layer: the structure of the layer in words, without its name and its weights.
        input_shape: with the batch first, None where unknown.
        precision: "float32", "float16", "dynamic" or "int8".
        objective: "latency" or "size", by which candidates were chosen to be measured.
        effort: "measure" or "quick", with which many or few candidates were measured.
        device, machine, runtime: where the layer was measured, on one thread.
    """

    layer: str
    input_shape: tuple[int | None, ...]
    precision: str
    objective: str
    effort: str
    device: str
    machine: str
    runtime: str


@dataclass(frozen=True)
class Measurement:
    """What was measured of one layer alone in a .tflite file.

    Attributes:
        cost: the cost of an invocation: the median of the seconds, or a weighted sum of counts.
        size_bytes: the bytes of the file.
        error: the largest difference from the layer in Keras before its activation, divided by the largest value there.
        unit: the unit of `cost`, "seconds" or "counts".
    """

    cost: float
    size_bytes: int
    error: float
    unit: str = "seconds"


@dataclass(frozen=True)
class Candidate:
    """A lowering that was considered for a layer.

    Attributes:
        lowering: the lowering.
        estimate: estimated seconds per invocation on the machine that costs.json names.
        estimated_bytes: estimated bytes of a .tflite file with the layer alone.
        measured: a `Measurement`, or None where only the estimate was asked for.
        grouped_channels: the numbers of input and output channels in a group of each CONV_2D that has several groups.
    """

    lowering: Lowering
    estimate: float
    estimated_bytes: int
    measured: Measurement | None = None
    grouped_channels: tuple[int, ...] = ()

    def to_dict(self) -> dict:
        """Return all fields, ready for JSON."""
        return {**asdict(self), "lowering": self.lowering.to_dict()}

    @property
    def gpu_groups(self) -> bool | None:
        """Return whether GPU delegates run the grouped convolutions as they are; None if the lowering has none.

        They do if the numbers of channels in a group are multiples of four. Otherwise they split a convolution into one for
        each group.
        """
        return all(count % 4 == 0 for count in self.grouped_channels) if self.grouped_channels else None

    @property
    def cost(self) -> float:
        """Return the cost of an invocation: measured if there is a measurement, else estimated, which is in seconds."""
        return self.measured.cost if self.measured else self.estimate

    @property
    def unit(self) -> str:
        """Return the unit of `cost`: "seconds" or "counts"."""
        return self.measured.unit if self.measured else "seconds"

    @property
    def size_bytes(self) -> int:
        """Return the bytes of a .tflite file with the layer alone: measured if there is a measurement, else estimated."""
        return self.measured.size_bytes if self.measured else self.estimated_bytes


class Wisdom:
    """A collection of measured candidates. `to_tflite` uses `export.wisdom` by default, which lives as long as the process.

    Example:
        >>> model = keras.Sequential([keras.Input((16,)), Butterfly(seed=0)])
        >>> wisdom = export.Wisdom()
        >>> exported = export.to_tflite(model, effort="quick", wisdom=wisdom)  # measures, and keeps what it has measured
        >>> len(wisdom)
        1
    """

    def __init__(self):
        self._known: dict[WisdomKey, tuple[Candidate, ...]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[WisdomKey]:
        return iter(self._known)

    def recall(self, key: WisdomKey) -> tuple[Candidate, ...]:
        """Return the candidates that were measured for `key`, an empty tuple if there are none."""
        return self._known.get(key, ())

    def learn(self, key: WisdomKey, candidates: tuple[Candidate, ...]) -> None:
        """Keep `candidates`, in place of any that were kept for `key` before."""
        self._known[key] = candidates

    def merge(self, other: "Wisdom") -> None:
        """Add all that `other` holds. Where both hold a key, the candidates of `other` are kept.

        Raises:
            ValueError: if `other` is no `Wisdom`.
        """
        if not isinstance(other, Wisdom):
            raise ValueError(f"Expected an export.Wisdom, such as Wisdom.load(path). Received: {type(other).__name__}")
        self._known |= other._known

    def forget(self, **facts) -> int:
        """Drop the keys that have all these `facts`, for example `machine="AMD EPYC"`, and return how many there were.

        Without any fact all keys are dropped.

        Raises:
            ValueError: for a fact that a `WisdomKey` has not.
        """
        names = [field.name for field in fields(WisdomKey)]
        unknown = sorted(set(facts) - set(names))
        if unknown:
            raise ValueError(f"Expected facts among {names}. Received: {unknown}")
        dropped = [p for p in self._known if all(getattr(p, name) == value for name, value in facts.items())]
        for key in dropped:
            del self._known[key]
        return len(dropped)

    def save(self, path, overwrite: bool = False) -> Path:
        """Write this wisdom to `path` as JSON, whole or not at all, and return the path.

        Raises:
            ValueError: if the file exists and `overwrite` is False, or its folder does not.
        """
        return files.write(path, self._to_json().encode(), overwrite)

    def save_merged(self, path) -> Path:
        """Add this wisdom to what the file at `path` holds, under a lock, and return the path. A missing file is made.

        Processes that share a file take turns, so none loses what another has saved. Where both hold a key, the measurement of
        this wisdom is kept.

        Raises:
            ValueError: if the file is no wisdom file, or its folder does not exist.
        """
        files.check_writable(path, overwrite=True)
        with files.locked(path):
            merged = Wisdom.load(path) if Path(path).is_file() else Wisdom()
            merged.merge(self)
            return merged.save(path, overwrite=True)

    def _to_json(self) -> str:
        entries = [
            {"key": asdict(key), "candidates": [candidate.to_dict() for candidate in candidates]}
            for key, candidates in self._known.items()
        ]
        return json.dumps({"format": FORMAT, "version": VERSION, "entries": entries}, indent=1)

    @classmethod
    def load(cls, path) -> "Wisdom":
        """Read a file that `save` wrote.

        Raises:
            ValueError: for a path that names no file, and a file that is no wisdom of this version, whole and sound.
        """
        if not isinstance(path, str | Path):
            raise ValueError(f"Expected a path, as a str or a pathlib.Path. Received: {path!r}")
        if not Path(path).is_file():
            raise ValueError(f"Expected the path of a wisdom file. Received: '{path}', which is no file.")
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"Expected a wisdom file, which is JSON. '{path}' is none or is damaged: {error}") from error
        kind = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
        if kind != (FORMAT, VERSION):
            raise ValueError(
                f"Expected a file of format {FORMAT!r}, version {VERSION}. '{path}' has {kind[0]!r}, version {kind[1]!r}. "
                "Delete it and measure again."
            )
        wisdom = cls()
        try:
            for entry in content["entries"]:
                wisdom.learn(_key(entry["key"]), tuple(_candidate(each) for each in entry["candidates"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"'{path}' is damaged: an entry is not as it was written, {error!r}. Measure again.") from error
        return wisdom


def _key(saved: dict) -> WisdomKey:
    key = WisdomKey(**{**saved, "input_shape": tuple(saved["input_shape"])})
    if not all(isinstance(getattr(key, name), str) for name in ("layer", "precision", "device", "machine", "runtime")):
        raise TypeError(f"no key: {saved}")
    return key


def _candidate(saved: dict) -> Candidate:
    measured = Measurement(**saved["measured"])
    if not (measured.cost > 0 and measured.size_bytes > 0 and measured.error >= 0 and measured.unit in UNITS):
        raise ValueError(f"no measurement: {saved}")
    channels = tuple(int(count) for count in saved["grouped_channels"])
    return Candidate(_lowering(saved["lowering"]), float(saved["estimate"]), int(saved["estimated_bytes"]), measured, channels)


def _lowering(saved: dict) -> Lowering:
    of_kind = {name: value for name, value in saved.items() if name != "kind"}
    try:
        return KINDS[saved["kind"]].from_dict(of_kind)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no such lowering: {saved}") from error


wisdom = Wisdom()
