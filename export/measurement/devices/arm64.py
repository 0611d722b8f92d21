"""Counting the instructions and memory reads of .tflite files on an emulated 64-bit Arm processor."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...tflite.runtime import load, readable_outputs, typed_inputs
from ..counts import Counts
from . import arm64_guest as guest
from . import arm64_packages as packages

T = TypeVar("T")

# Address -> the processor that QEMU emulates.
CORES = {"a53": "cortex-a53", "a72": "cortex-a72", "a76": "cortex-a76"}


class Arm64:
    """A device that runs models with the real runtime for 64-bit Arm in QEMU, and counts instructions and memory reads.

    The counts are exact, and every repetition gives the same. An emulator says nothing about seconds.

    Args:
        address: the core, "a53", "a72" or "a76". "" (default) means "a76".
    """

    unit = "counts"
    needs = f"QEMU and Python for Arm, which `{packages.SETUP}` gets, and a C compiler"

    def __init__(self, address: str = ""):
        if address and address not in CORES:
            raise ValueError(f'Expected the device "arm64" with one of the cores {tuple(CORES)}. Received: "arm64:{address}"')
        self.name = f"arm64:{address}" if address else "arm64"
        self.core = CORES[address or "a76"]

    setup, remove = staticmethod(packages.setup), staticmethod(packages.remove)

    @staticmethod
    def missing() -> str | None:
        """Return what is missing, as a sentence, or None if all is there."""
        try:
            packages.installed()
        except ValueError as error:
            return str(error)
        return None

    @property
    def runtime(self) -> str:
        return f"ai-edge-litert {packages.installed()['litert']}"

    @property
    def machine(self) -> str:
        """The core that is emulated, and the emulator."""
        return f"{self.core} emulated by QEMU {packages.installed()['qemu']}"

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Counts]:
        """Return the counts of each model. All models are run in one emulated process.

        `warmup` and `runs` make no difference: the counts are exact after few invocations.

        Raises:
            ValueError: if `threads` is not 1, the device is not set up, or a model cannot be run.
        """
        if threads != 1:
            raise ValueError(f'Expected threads=1 on the device "{self.name}", which counts one thread. Received: {threads}')
        facts = packages.installed()
        with _folder(models) as folder:
            for done in self._lines(folder, "count", list(models)):
                for step in range(runs * done // len(models), runs * (done + 1) // len(models)):
                    on_round(step + 1)
            marks = [tuple(map(int, line.split())) for line in (folder / "counts").read_text().splitlines()]
        counts = [_per_invocation(part) for part in _parts(marks, 4 * guest.REPETITIONS)]
        machine = f"QEMU {facts['qemu']}"
        return {
            name: Counts(instructions, reads, self.core, self.runtime, machine, self.name)
            for name, (instructions, reads) in zip(models, counts, strict=True)
        }

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once, and return its outputs by name, as `Device.predict` says."""
        return self.predict_all([(content, inputs)])[0]

    def predict_all(self, runs: list[tuple[bytes, Mapping[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
        """Run several files once in one emulated process, because its start takes seconds.

        Args:
            runs: the bytes of a file and its inputs by name, as `predict` takes them, for each run.

        Returns:
            The outputs of each run, as `predict` returns them.

        Raises:
            ValueError: as `predict`.
        """
        packages.installed()
        runners = [load(content).get_signature_runner() for content, _ in runs]
        models = {f"model {number}": content for number, (content, _) in enumerate(runs)}
        with _folder(models) as folder:
            for number, (runner, (_, inputs)) in enumerate(zip(runners, runs, strict=True)):
                np.savez(folder / f"{number}.npz", **typed_inputs(runner, inputs))  # type: ignore[arg-type]
            for _ in self._lines(folder, "predict", list(models)):
                pass
            results = []
            for number, runner in enumerate(runners):
                with np.load(folder / f"outputs_{number}.npz") as outputs:
                    results.append(readable_outputs(runner, dict(outputs)))
        return results

    def _lines(self, folder: Path, task: str, names: list[str]) -> Iterator[int]:
        """Run a task of `arm64_guest.py` on the files in a folder, and yield the number of each file when it is done.

        Args:
            folder: the folder, with the files 0.tflite, 1.tflite and so on.
            task: the name of the task, "count" or "predict".
            names: the names of the models, for messages.

        Raises:
            ValueError: if the program fails. The message has the last line that it wrote to stderr, with the name of the model.
        """
        root = packages.cache_folder()
        python, variables = packages.python(root)
        start = packages.command(root, self.core, "counts" if task == "count" else None, variables)
        command = [*start, *python, guest.__file__, task, "."]
        done = -1
        with (folder / "errors").open("w+") as errors:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=packages.environment(root),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            with process:
                try:
                    assert process.stdout is not None
                    for line in process.stdout:
                        done = json.loads(line)["done"]
                        yield done
                except BaseException:
                    process.kill()
                    raise
            errors.seek(0)
            messages = [line.strip() for line in errors.read().splitlines() if line.strip()]
        if process.returncode or done != len(names) - 1:
            reason = messages[-1] if messages else f"exit code {process.returncode}"
            reason = re.sub(r"\b(\d+)\.tflite\b", lambda number: f"'{names[int(number[1])]}'", reason)
            raise ValueError(f"Expected models that the runtime runs on {self.core}. There it says: {reason}")


@contextmanager
def _folder(models: Mapping[str, bytes]) -> Iterator[Path]:
    """Make a temporary folder with the files 0.tflite, 1.tflite and so on, and remove it when the `with` block ends."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.path.realpath(temporary))
        for number, content in enumerate(models.values()):
            (folder / f"{number}.tflite").write_bytes(content)
        yield folder


def _parts(items: list[T], size: int) -> list[list[T]]:
    """Return the items in lists of `size`, in their order."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def _difference(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Return how much larger the numbers of `second` are than those of `first`."""
    return tuple(b - a for a, b in zip(first, second, strict=True))


def _per_invocation(marks: list[tuple[int, ...]]) -> list[int]:
    """Return the instructions and the reads of one invocation.

    Python's memory allocator adds some 150 instructions to a block now and then. So the lowest counts of each kind of block are
    taken, which every repetition finds again.

    Args:
        marks: the two counts at the start and at the end of each block. Blocks of INVOCATIONS and of twice as many take turns.
    """
    blocks = [_difference(*pair) for pair in _parts(marks, 2)]
    return [round(count / guest.INVOCATIONS) for count in _difference(min(blocks[::2]), min(blocks[1::2]))]
