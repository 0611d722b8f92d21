"""The machine this runs on."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..latency import Latency
from ..verify import Interpreter, load

# A timed block is sized by the speed of the warm-up to last this long, so that the clock's resolution does not show.
BLOCK_SECONDS = 2e-4


class Host:
    """Runs models in this process, in ai-edge-litert's interpreter with its XNNPACK delegate."""

    name = "host"

    @property
    def runtime(self) -> str:
        return f"ai-edge-litert {version('ai-edge-litert')}"

    @property
    def machine(self) -> str:
        """The processor, as the operating system names it."""
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        except OSError:
            lines = []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, progress: Callable[[int], None]
    ) -> dict[str, Latency]:
        """All models in turn, A B C A B C ..., so that drift of the machine's speed hits all alike."""
        interpreters = {name: _prepared(content, threads) for name, content in models.items()}
        invocations = {name: _block_length(interpreter, warmup) for name, interpreter in interpreters.items()}
        seconds: dict[str, list[float]] = {name: [] for name in interpreters}
        for done in range(runs):
            for name, interpreter in interpreters.items():
                seconds[name].append(_block(interpreter, invocations[name]))
            progress(done + 1)
        return {
            name: Latency(tuple(seconds[name]), invocations[name], warmup, threads, self.runtime, self.machine)
            for name in interpreters
        }


def _prepared(content: bytes, threads: int) -> Interpreter:
    """An interpreter with inputs set: standard normal, or zeros where the input is no float."""
    interpreter = load(content, threads)
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        shape, dtype = detail["shape"], detail["dtype"]
        value = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        interpreter.set_tensor(detail["index"], value.astype(dtype))
    return interpreter


def _block_length(interpreter: Interpreter, warmup: int) -> int:
    return max(1, round(BLOCK_SECONDS / _block(interpreter, warmup)))


def _block(interpreter: Interpreter, invocations: int) -> float:
    """Mean seconds per invocation, of a model that runs again and again: the first one, untimed, finds the caches full of the
    model before it."""
    invoke = interpreter.invoke
    invoke()
    start = time.perf_counter()
    for _ in range(invocations):
        invoke()
    return (time.perf_counter() - start) / invocations
