"""What runs inside the emulator: it invokes .tflite files and marks where counts are wanted, or writes their outputs.

`arm64.py` starts this file with the Python of the emulated system. For that reason it imports only standalone.py of this
package, and it runs in Python 3.10.
"""

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

# Writes to these file descriptors make the counting plugin start, and report its counts. arm64_counter.c has the same numbers.
START, MARK = 199, 200
# Uncounted invocations of each file, in which the runtime and Python prepare what they need once.
WARMUP = 10
# Invocations in a counted block. The next block has twice as many. Their difference has no share of the marks and the loop.
INVOCATIONS = 1
# How often both blocks are counted.
REPETITIONS = 3


def main(task: str, folder: str) -> None:
    """Do one of the two tasks with the files in a folder. Print a line with the number of each file that is done."""
    {"count": count, "predict": predict}[task](Path(folder))


def count(folder: Path) -> None:
    """Invoke the files 0.tflite, 1.tflite and so on in blocks, which are counted.

    The blocks of a file come in pairs: one of INVOCATIONS invocations, and one of twice as many.
    """
    from standalone import fill_inputs  # the file beside this one, which the emulated Python finds by its name alone

    for descriptor in (START, MARK):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    interpreters: list = []
    while (path := folder / f"{len(interpreters)}.tflite").exists():
        with naming(path):
            interpreters.append(loaded(path))
            fill_inputs(interpreters[-1])
            for _ in range(WARMUP):
                interpreters[-1]._interpreter.Invoke()
    gc.collect()
    gc.disable()
    # Python changes the code of a function in its first runs. So it runs with a function of no interest first.
    for _ in range(8):
        run_block(int, 2 * INVOCATIONS, START)
    for number, interpreter in enumerate(interpreters):
        invoke = interpreter._interpreter.Invoke  # Interpreter.invoke would add 1,850 instructions of Python.
        for _ in range(REPETITIONS):
            run_block(invoke, INVOCATIONS, MARK)
            run_block(invoke, 2 * INVOCATIONS, MARK)
        print(json.dumps({"done": number}), flush=True)


@contextmanager
def naming(path: Path):
    """Put the name of the file in front of the message of an error."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def loaded(path: Path) -> Interpreter:
    """Return an interpreter of a file, whose tensors are allocated."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def run_block(invoke, invocations: int, mark: int) -> None:
    """Call `invoke` as many times as `invocations` says, and write to the file descriptor `mark` before and after."""
    os.write(mark, b"m")
    for _ in range(invocations):
        invoke()
    os.write(mark, b"m")


def predict(folder: Path) -> None:
    """Run the files 0.tflite and so on once, each on the inputs in the .npz file of its number, and write their outputs."""
    number = 0
    while (path := folder / f"{number}.tflite").exists():
        with naming(path), np.load(folder / f"{number}.npz") as inputs:
            outputs = loaded(path).get_signature_runner()(**inputs)
        np.savez(folder / f"outputs_{number}.npz", **outputs)
        print(json.dumps({"done": number}), flush=True)
        number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
