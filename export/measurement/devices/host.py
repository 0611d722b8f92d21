"""Timing .tflite files on the machine that runs this process."""

from collections.abc import Callable, Mapping

from ...tflite.runtime import load, running
from ..latency import Latency
from . import standalone


class Host:
    """A device that runs models in this process, with the interpreter of ai-edge-litert and its XNNPACK delegate."""

    name = "host"

    @property
    def runtime(self) -> str:
        return standalone.runtime()

    @property
    def machine(self) -> str:
        return standalone.machine()

    def measure(
        self, models: Mapping[str, bytes], *, threads: int, warmup: int, runs: int, on_round: Callable[[int], None]
    ) -> dict[str, Latency]:
        """Return the latency of each model, as `Device.measure` says."""
        interpreters = {name: load(content, threads) for name, content in models.items()}
        invocations = {}
        for name, interpreter in interpreters.items():
            standalone.fill_inputs(interpreter)
            with running(f"'{name}'"):
                invocations[name] = standalone.invocations_per_block(interpreter, warmup)
        seconds = standalone.time_rounds(interpreters, invocations, runs, on_round)
        return {
            name: Latency(tuple(seconds[name]), invocations[name], warmup, threads, self.runtime, self.machine)
            for name in interpreters
        }
