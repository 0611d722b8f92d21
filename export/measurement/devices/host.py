"""Timing .tflite files on the machine that runs this process."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...tflite.runtime import Interpreter, load, run, running
from ..latency import Latency

# A timed block lasts about this long, so that the resolution of the clock does not matter.
BLOCK_SECONDS = 2e-4
# The untimed invocations are divided into this many blocks, whose fastest one tells how many invocations fill a timed block.
WARMUP_BLOCKS = 5

# Keys in /proc/cpuinfo that tell the generations of a processor apart. The first two are found on x86, the others on Arm.
_GENERATION_KEYS = ("cpu family", "model", "CPU implementer", "CPU part")
# Instruction sets that decide how fast XNNPACK is.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve2")


class Host:
    """A device that runs models in this process, with the interpreter of ai-edge-litert and its XNNPACK delegate."""

    name = "host"
    needs = "nothing"

    def __init__(self, address: str = ""):
        if address:
            raise ValueError(f'Expected the device "host" without an address. Received: "host:{address}"')

    @staticmethod
    def missing() -> None:
        """Return None, because this machine has all that it needs."""

    @property
    def runtime(self) -> str:
        return f"ai-edge-litert {version('ai-edge-litert')}"

    @property
    def machine(self) -> str:
        """The processor's name, generation and instruction sets. The name alone may stand for several generations."""
        try:
            text = Path("/proc/cpuinfo").read_text()
        except OSError:
            return platform.processor() or platform.machine()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        name = facts.get("model name", platform.machine())
        generation = [f"{key} {facts[key]}" for key in _GENERATION_KEYS if key in facts]
        flags = facts.get("flags", facts.get("Features", "")).split()
        return ", ".join([name, *generation, *(flag for flag in _INSTRUCTION_SETS if flag in flags)])

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model, as `Device.measure` says.

        The models take turns, A B C A B C ..., so that a change of the machine's speed affects all of them alike.
        """
        interpreters = {name: _loaded_with_inputs(content, threads) for name, content in models.items()}
        invocations = {}
        for name, interpreter in interpreters.items():
            with running(f"'{name}'"):
                invocations[name] = _invocations_per_block(interpreter, warmup)
        seconds: dict[str, list[float]] = {name: [] for name in interpreters}
        for done in range(runs):
            for name, interpreter in interpreters.items():
                seconds[name].append(_time_block(interpreter, invocations[name]))
            on_round(done + 1)
        return {
            name: Latency(tuple(seconds[name]), invocations[name], warmup, threads, self.runtime, self.machine)
            for name in interpreters
        }

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once, and return its outputs by name, as `Device.predict` says."""
        return run(load(content), inputs)


def _loaded_with_inputs(content: bytes, threads: int) -> Interpreter:
    """Return an interpreter whose inputs are set: standard normal values for floats, zeros for other types."""
    interpreter = load(content, threads)
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        shape, dtype = detail["shape"], detail["dtype"]
        value = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        interpreter.set_tensor(detail["index"], value.astype(dtype))
    return interpreter


def _invocations_per_block(interpreter: Interpreter, warmup: int) -> int:
    """Warm the model up, and return how many invocations fill a timed block of BLOCK_SECONDS."""
    # The fastest block counts: one that the operating system interrupted looks slow, and would make the timed blocks too short.
    seconds = min(_time_block(interpreter, -(-warmup // WARMUP_BLOCKS)) for _ in range(WARMUP_BLOCKS))
    return max(1, round(BLOCK_SECONDS / seconds))


def _time_block(interpreter: Interpreter, invocations: int) -> float:
    """Return the mean seconds per invocation over a block of invocations.

    One more invocation runs before the clock starts, because the caches still hold the data of the previous model.
    """
    invoke = interpreter.invoke
    invoke()
    start = time.perf_counter()
    for _ in range(invocations):
        invoke()
    return (time.perf_counter() - start) / invocations
