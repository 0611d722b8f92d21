"""Compare `factorize` with `ksd` of lazylinop: the error and the time of factorizations of matrices into butterfly factors.

    pip install lazylinop pandas
    taskset -c 1 python benchmarks/factorization.py [--model FILE.keras [--layer hidden_1]] [--size 256 ...] [--radix 2 ...]
        [--matrix Gaussian ...] [--dtype float32 ...] [--stacks 2] [--no-ortho] [--runs 5] [--cpu-time]

lazylinop is no dependency of keras-butterfly. Its version 1.24 needs pandas too.

Both libraries get the same n x n matrix A and the same sparsity patterns: `Chain.square_dyadic` for radix 2, `Chain.monarch`
for two radices. A cell shows the relative error in the Frobenius norm and, in brackets, the median of the milliseconds. The
variants take turns in one process. They are:

- `factorize`, which computes in double precision for every dtype, and whose weights are then rounded to the dtype of A;
- `ksd` with its defaults, which cut off one factor after the other from the left, and with order="balanced";
- if torch is installed, the same on a torch tensor on the CPU, for which lazylinop computes all singular vectors of a level in
  one call. For NumPy arrays it makes a call for each block.

Both orthonormalize, unless --no-ortho is given. With --stacks above 1 the matrix is approximated by a sum of so many
butterflies, in lazylinop by `suksd`, which always orthonormalizes and has no choice of the order. There `factorize` computes
with residuals in the dtype of A.

The matrices are the Hadamard matrix, the DFT with bit-reversed columns, a random butterfly of radix 2, a Gaussian matrix, and
the kernel of a Dense layer of --model, if its shape is (n, n). The first three are butterflies, so the error is round-off.
With `taskset -c 1` everything runs on one core and in one thread.
"""

import gc
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import keras
import numpy as np
import scipy.linalg
from keras import ops
from keras_butterfly_cli.parameters import RadixType
from rich.console import Console
from rich.table import Table

from keras_butterfly.structure.factorization import factorize
from keras_butterfly.structure.kernels import fold
from keras_butterfly.structure.wiring import Wiring

RADICES = ("2", "4", "8,8", "16,16", "32,32", "64,64")
MATRICES = ("Hadamard", "DFT", "a butterfly", "Gaussian", "trained")


def matrices(size: int, trained: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the matrices to factorize, by name, in double precision."""
    rng, wiring = np.random.default_rng(0), Wiring.butterfly(size, size)
    bits = size.bit_length() - 1
    reversal = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(size)]
    made = {
        "Hadamard": scipy.linalg.hadamard(size) / np.sqrt(size),
        "DFT": np.fft.fft(np.eye(size), norm="ortho")[:, reversal],
        "a butterfly": dense(wiring, rng.standard_normal(wiring.effective_weights) / np.sqrt(2)),
        "Gaussian": rng.standard_normal((size, size)) / np.sqrt(size),
    }
    return made | ({"trained": trained.T.astype("float64")} if trained is not None and trained.shape == (size, size) else {})


def cases(sizes, chosen, radices, dtypes, trained: np.ndarray | None) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Yield the name of a matrix, the radix of its butterfly, and the matrix in one of the dtypes, or as complex numbers."""
    for size in sizes:
        for name, matrix in matrices(size, trained).items():
            for radix in radices:
                if name in chosen and (isinstance(radix, int) or math.prod(radix) == size):
                    for dtype in dtypes:
                        complex_dtype = {"float64": "complex128", "float32": "complex64"}[dtype]
                        yield name, radix, np.ascontiguousarray(matrix, complex_dtype if np.iscomplexobj(matrix) else dtype)


def dense(wiring: Wiring, weights: np.ndarray) -> np.ndarray:
    """Return the matrix A of a butterfly, y = A x, in the dtype of its weights."""
    return ops.convert_to_numpy(fold(wiring, ops.convert_to_tensor(weights))).T


def relative(approximation, exact: np.ndarray) -> float:
    """Return the relative error of an approximation in the Frobenius norm."""
    return float(np.linalg.norm(np.asarray(approximation) - exact) / np.linalg.norm(exact))


def butterfly_sum(matrix: np.ndarray, wiring: Wiring, stacks: int) -> list[np.ndarray]:
    """Return the weights of `stacks` butterflies whose sum is near to `matrix`. Each one approximates what is left."""
    weights = [factorize(matrix.T, wiring).astype(matrix.dtype)]
    for _ in range(stacks - 1):
        matrix = matrix - dense(wiring, weights[-1])
        weights.append(factorize(matrix.T, wiring).astype(matrix.dtype))
    return weights


def variants(matrix: np.ndarray, wiring: Wiring, stacks: int, ortho: bool) -> dict:
    """Return the factorizations of `matrix` to compare, by name.

    Each is a pair of functions. The first one is timed. The second one gets its result and returns the dense approximation.
    """
    from lazylinop.butterfly import Chain, ksd, suksd

    stages = reversed(list(zip(wiring.radices, wiring.strides, strict=True)))  # the stage applied last comes first
    chain = Chain([(wiring.size // (radix * stride), radix, radix, stride) for radix, stride in stages])
    inputs = {"NumPy": matrix}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        inputs["torch"] = torch.from_numpy(matrix)
    made = {
        "factorize": (lambda: butterfly_sum(matrix, wiring, stacks), lambda found: sum(dense(wiring, part) for part in found))
    }
    for name, array in inputs.items():
        if stacks > 1:
            summed = lambda array=array: suksd(array, chain, rtol=0, max_iter=stacks, verbose=False)  # noqa: E731
            made[f"suksd, {name}"] = (summed, lambda found: matrix - np.asarray(found[1]))
            continue
        for order in ("l2r", "balanced"):
            single = lambda array=array, order=order: ksd(array, chain, ortho=ortho, order=order)  # noqa: E731
            made[f"ksd, {order}, {name}"] = (single, lambda found: product(found.ks_values))
    return made


def product(factors) -> np.ndarray:
    """Return the dense product of Kronecker-sparse factors of lazylinop, arrays (a, b, c, d)."""
    from lazylinop.butterfly import ksm

    return ksm([np.asarray(factor) for factor in factors]).toarray()


def measured(made: dict, matrix: np.ndarray, runs: int, clock: Callable[[], float]) -> list[tuple[float, float]]:
    """Return the error and the median of the seconds of each variant. The variants take turns, after one run to warm up."""
    gc.freeze()  # `suksd` collects garbage, which takes long with Keras and torch in memory
    errors = [relative(to_dense(run()), matrix) for run, to_dense in made.values()]
    seconds = np.zeros((runs, len(made)))
    for turn in range(runs):
        for column, (run, _) in enumerate(made.values()):
            start = clock()
            run()
            seconds[turn, column] = clock() - start
    return list(zip(errors, np.median(seconds, axis=0), strict=True))


def trained_kernel(path: str | None, layer: str) -> np.ndarray | None:
    """Return the kernel of a layer of the model in the file `path`, or None without a file."""
    return ops.convert_to_numpy(keras.models.load_model(path).get_layer(layer).kernel) if path else None


@click.command()
@click.option("--model", "path", type=click.Path(exists=True), help="A trained .keras file. [default: no trained kernel]")
@click.option("--layer", default="hidden_1", show_default=True, help="Its Dense layer.")
@click.option("--size", "sizes", multiple=True, default=(64, 256, 1024), show_default=True, type=click.IntRange(min=4))
@click.option("--radix", "radices", multiple=True, default=RADICES, type=RadixType(), help="Left out for sizes that it misses.")
@click.option("--matrix", "chosen", multiple=True, default=MATRICES, type=click.Choice(MATRICES))
@click.option("--dtype", "dtypes", multiple=True, default=("float64", "float32"), type=click.Choice(("float64", "float32")))
@click.option("--stacks", default=1, show_default=True, type=click.IntRange(min=1), help="Number of butterflies in a sum.")
@click.option("--ortho/--no-ortho", default=True, show_default=True, help="The option of ksd.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Timed runs of each variant.")
@click.option("--cpu-time", is_flag=True, help="Time the processor, not the wall clock, if other programs use the machine.")
def main(path, layer, sizes, radices, chosen, dtypes, stacks, ortho, runs, cpu_time):
    missing = [name for name in ("lazylinop", "pandas") if not importlib.util.find_spec(name)]
    if missing:
        raise click.ClickException(f"{' and '.join(missing)} must be installed: pip install lazylinop pandas")
    unfit = [size for size in sizes if size & (size - 1)]
    if unfit:
        raise click.BadParameter(f"Expected powers of two. Received: {unfit}", param_hint="--size")
    console, rows = Console(width=180), []
    for name, radix, matrix in cases(sizes, chosen, radices, dtypes, trained_kernel(path, layer)):
        wiring = Wiring.butterfly(*matrix.shape, radix=radix)
        made = variants(matrix, wiring, stacks, ortho)
        found = measured(made, matrix, runs, time.process_time if cpu_time else time.perf_counter)
        shown = str(radix) if isinstance(radix, int) else " x ".join(map(str, wiring.radices))
        rows.append([str(len(matrix)), name, shown, str(matrix.dtype), *(cell(*pair) for pair in found)])
        console.print(*rows[-1], sep=" | ")
    table = Table("n", "matrix", "radix", "dtype", *made, title="Relative error (milliseconds)", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def cell(error: float, seconds: float) -> str:
    """Return the text of a cell: the relative error and, in brackets, the milliseconds."""
    return f"{error:.1e} ({seconds * 1e3:.1f})" if error < 1e-3 else f"{error:.4f} ({seconds * 1e3:.1f})"


if __name__ == "__main__":
    main()
