"""Reading .npz files that may be damaged."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

# What NumPy and zipfile raise for damaged files, and for headers that claim more than there is.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
)
# The first bytes of a .npz file, which is a ZIP archive, and of a .npy file.
_BEGINNINGS = (b"PK", b"\x93NUMPY")


def read_npz(path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name, or the array of a .npy file as "x".

    Raises:
        ValueError: if there is no such file, it is damaged, or a member is not an array. The message is a part of a sentence,
            the reason.
    """
    if not Path(path).is_file():
        raise ValueError("it is not a file" if Path(path).exists() else "there is no such file")
    try:
        with open(path, "rb") as file:
            if not file.peek(6).startswith(_BEGINNINGS):
                raise ValueError("it is no .npz file, which numpy.savez writes")
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except _DAMAGED as error:
        too_large = isinstance(error, MemoryError | OverflowError)
        raise ValueError("its header claims more than fits into memory" if too_large else str(error)) from error
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if other:
        raise ValueError(f"its member '{other[0]}' is not an array")
    return arrays
