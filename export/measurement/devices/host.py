"""The machine this runs on."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...tflite.runtime import Interpreter, load, running
from ..latency import Latency

# A timed block is sized by the speed of the warm-up to last this long, so that the clock's resolution does not show.
BLOCK_SECONDS = 2e-4
WARMUP_BLOCKS = 5


# Of /proc/cpuinfo: the first two on x86, the others on Arm.
_GENERATION = ("cpu family", "model", "CPU implementer", "CPU part")
_VECTORS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve2")


class Host:
    """Runs models in this process, in ai-edge-litert's interpreter with its XNNPACK delegate."""

    name = "host"

    @property
    def runtime(self) -> str:
        return f"ai-edge-litert {version('ai-edge-litert')}"

    @property
    def machine(self) -> str:
        """The processor, as the operating system names it, with what tells one generation of a name from the next."""
        try:
            text = Path("/proc/cpuinfo").read_text()
        except OSError:
            return platform.processor() or platform.machine()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        name = facts.get("model name", platform.machine())
        numbers = [f"{key} {facts[key]}" for key in _GENERATION if key in facts]
        vectors = [flag for flag in _VECTORS if flag in facts.get("flags", facts.get("Features", "")).split()]
        return ", ".join([name, *numbers, *vectors])

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, progress: Callable[[int], None]
    ) -> dict[str, Latency]:
        """All models in turn, A B C A B C ..., so that drift of the machine's speed hits all alike."""
        interpreters = {name: _prepared(content, threads) for name, content in models.items()}
        invocations = {}
        for name, interpreter in interpreters.items():
            with running(f"'{name}'"):
                invocations[name] = _block_length(interpreter, warmup)
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
    # The fastest of a few: one that the operating system interrupted would make blocks too short.
    seconds = min(_block(interpreter, -(-warmup // WARMUP_BLOCKS)) for _ in range(WARMUP_BLOCKS))
    return max(1, round(BLOCK_SECONDS / seconds))


def _block(interpreter: Interpreter, invocations: int) -> float:
    """Mean seconds per invocation, of a model that runs again and again: the first one, untimed, finds the caches full of the
    model before it."""
    invoke = interpreter.invoke
    invoke()
    start = time.perf_counter()
    for _ in range(invocations):
        invoke()
    return (time.perf_counter() - start) / invocations
