"""Timing .tflite files on the machine that runs this process."""

from collections.abc import Callable, Mapping

import numpy as np

from ...tflite.runtime import load, run, running
from ..latency import Latency
from . import standalone


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

    def predict(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a .tflite file once, and return its outputs by name, as `Device.predict` says."""
        return run(load(content), inputs)
