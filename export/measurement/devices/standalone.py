"""Timing the interpreters of ai-edge-litert in blocks of invocations.

`host.py` calls these functions. `ssh.py` sends the source of this module to a board and calls `serve` there. For that reason
the module imports nothing of this package, and it runs in Python 3.9.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

# A timed block lasts about this long, so that the resolution of the clock does not matter.
BLOCK_SECONDS = 2e-4
# The untimed invocations are divided into this many blocks, whose fastest one tells how many invocations fill a timed block.
WARMUP_BLOCKS = 5

# `serve` begins each line of its replies with this word. What else a board prints, such as a greeting, is no reply.
REPLY = "keras-butterfly "

# Keys in /proc/cpuinfo that tell the generations of a processor apart. The first two are found on x86, the others on Arm.
_GENERATION_KEYS = ("cpu family", "model", "CPU implementer", "CPU part")
# Instruction sets that decide how fast XNNPACK is.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve2")


def runtime() -> str:
    """Return the name and the version of the runtime on the machine that runs this function."""
    return f"ai-edge-litert {version('ai-edge-litert')}"


def machine() -> str:
    """Return the processor's name, generation and instruction sets. The name alone may stand for several generations."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = facts.get("model name", facts.get("Model", platform.machine()))  # "Model" is the name of a Raspberry Pi.
    generation = [f"{key} {facts[key]}" for key in _GENERATION_KEYS if key in facts]
    flags = facts.get("flags", facts.get("Features", "")).split()
    return ", ".join([name, *generation, *(flag for flag in _INSTRUCTION_SETS if flag in flags)])


def fill_inputs(interpreter) -> None:
    """Set the inputs of an interpreter: standard normal values for floats, zeros for other types."""
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        shape, dtype = detail["shape"], detail["dtype"]
        value = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        interpreter.set_tensor(detail["index"], value.astype(dtype))


def invocations_per_block(interpreter, warmup: int) -> int:
    """Warm the model up, and return how many invocations fill a timed block of BLOCK_SECONDS."""
    # The fastest block counts: one that the operating system interrupted looks slow, and would make the timed blocks too short.
    seconds = min(time_block(interpreter, -(-warmup // WARMUP_BLOCKS)) for _ in range(WARMUP_BLOCKS))
    return max(1, round(BLOCK_SECONDS / seconds))


def time_rounds(interpreters: dict, invocations: dict, runs: int, on_round) -> dict:
    """Time the models in turns, A B C A B C ..., so that a change of the machine's speed affects all of them alike.

    Args:
        interpreters: name of the model -> its interpreter, with inputs.
        invocations: name of the model -> number of invocations in a block.
        runs: number of rounds.
        on_round: a function to call after each round with the number of rounds that are done.

    Returns:
        A dict from the name of the model to a list with the mean seconds per invocation of each of its blocks.
    """
    seconds: dict = {name: [] for name in interpreters}
    for done in range(runs):
        for name, interpreter in interpreters.items():
            seconds[name].append(time_block(interpreter, invocations[name]))
        on_round(done + 1)
    return seconds


def time_block(interpreter, invocations: int) -> float:
    """Return the mean seconds per invocation over a block of invocations.

    One more invocation runs before the clock starts, because the caches still hold the data of the previous model.
    """
    invoke = interpreter.invoke
    invoke()
    start = time.perf_counter()
    for _ in range(invocations):
        invoke()
    return (time.perf_counter() - start) / invocations


def serve() -> None:
    """Answer one request that comes on stdin, as a board does. Each line of the answer is REPLY and a JSON object.

    The request is a line with a JSON object, followed by the bytes of the files. Its "task" is the name of a task below, its
    "sizes" are the sizes of the files in bytes, and its "arguments" are those of the task.
    """
    from ai_edge_litert.interpreter import Interpreter

    request = json.loads(sys.stdin.buffer.readline())
    files = [sys.stdin.buffer.read(size) for size in request["sizes"]]
    tasks: dict = {"describe": _describe, "measure": _measure, "predict": _predict}
    try:
        tasks[request["task"]](Interpreter, files, **request["arguments"])
    except (ValueError, RuntimeError) as error:
        _reply(error=" ".join(str(error).split()))


def _reply(**content) -> None:
    # The line is flushed, so that progress is seen, and so that the process ends when nobody listens any more.
    print(REPLY + json.dumps(content), flush=True)


def _describe(interpreter_class, files: list) -> None:
    _reply(runtime=runtime(), machine=machine())


def _measure(interpreter_class, files: list, names: list, threads: int, warmup: int, runs: int) -> None:
    interpreters, invocations = {}, {}
    for index, name in enumerate(names):
        interpreters[name] = interpreter_class(model_content=files[index], num_threads=threads)
        interpreters[name].allocate_tensors()
        fill_inputs(interpreters[name])
        invocations[name] = invocations_per_block(interpreters[name], warmup)
    seconds = time_rounds(interpreters, invocations, runs, lambda done: _reply(round=done))
    _reply(seconds=seconds, invocations=invocations, runtime=runtime(), machine=machine())


def _predict(interpreter_class, files: list, names: list) -> None:
    """Run the model, which is the first file, on the named inputs, which are the second file in the format of `numpy.savez`."""
    content, archive = files
    interpreter = interpreter_class(model_content=content)
    interpreter.allocate_tensors()
    inputs = np.load(io.BytesIO(archive))
    outputs = interpreter.get_signature_runner()(**{name: inputs[f"arr_{index}"] for index, name in enumerate(names)})
    results = io.BytesIO()
    np.savez(results, *outputs.values())
    _reply(names=list(outputs), outputs=base64.b64encode(results.getvalue()).decode())
