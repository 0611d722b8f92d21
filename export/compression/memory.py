"""What a search has found so far, kept in a folder, so that a search that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_butterfly.utils.locking import locked_folder
from keras_butterfly.utils.npz import read_npz

from .. import files
from ..planning.wisdom import Wisdom

FILE, WISDOM = "compression.json", "wisdom.json"


class Memory:
    """The results of a search by name, in memory and, if there is a folder, in its files too.

    Each result is written at once, whole or not at all. Large arrays have a .npz file each.

    Args:
        folder: the folder, which is made if it does not exist. None: the results live in memory only.
        settings: what the results depend on, as plain values that JSON can hold, by the names that messages call them.

    Raises:
        ValueError: if the folder holds other files, is damaged, cannot be written to, or is of a search with other settings.
    """

    def __init__(self, folder, settings: dict):
        self.folder = None if folder is None else Path(folder)
        self.tree: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "results": {}}
        self.unfinished: dict[tuple[str, str], Any] = {}
        self.arrays: dict[str, list[np.ndarray]] = {}
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = sorted(entry.name for entry in self.folder.iterdir())
        except OSError as error:
            raise ValueError(f"Expected a folder to keep the search in. Received '{folder}': {error.strerror}.") from error
        if FILE in found:
            self._load()
        elif [name for name in found if name != WISDOM and not name.endswith(".npz")]:
            raise ValueError(
                f"Expected an empty folder for the search, or one that holds '{FILE}'. Received '{folder}', which holds "
                f"'{found[0]}'. Choose another folder."
            )
        else:
            self._write()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other searches from using the folder until the `with` block ends.

        Raises:
            ValueError: if another search uses it.
        """
        with ExitStack() as stack:
            try:
                if self.folder is not None:
                    stack.enter_context(locked_folder(self.folder, wait=False))
            except BlockingIOError:
                raise ValueError(
                    f"Expected a folder that no other search uses. Received '{self.folder}'. Choose another."
                ) from None
            yield

    def once(self, kind: str, name: str, compute: Callable[[], Any], is_finished: Callable[[], bool] = lambda: True):
        """Return the result of a kind and a name, a plain value for JSON. It is computed, and kept, if it is not known.

        Args:
            kind, name: what the result is called.
            compute: computes it.
            is_finished: is called after `compute`. If it returns False, for example because a time limit has cut the work
                short, the result serves this search, and is not written to the folder.
        """
        results = self.tree["results"].setdefault(kind, {})
        if name in results:
            return results[name]
        if (kind, name) not in self.unfinished:
            value = compute()
            if is_finished():
                results[name] = value
                self._write()
                return value
            self.unfinished[kind, name] = value
        return self.unfinished[kind, name]

    def known(self, kind: str, name: str) -> bool:
        """Return whether the result of a kind and a name is kept."""
        return name in self.tree["results"].get(kind, {})

    def keep_arrays(self, kind: str, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Keep arrays under a kind and a name."""
        file = _file_name(kind, name)
        if self.folder is None:
            self.arrays[file] = list(arrays)
            return
        values: dict[str, Any] = {f"value_{index}": array for index, array in enumerate(arrays)}
        files.write(self.folder / file, lambda path: np.savez(path, **values), overwrite=True)

    def arrays_of(self, kind: str, name: str) -> list[np.ndarray]:
        """Return the arrays that were kept under a kind and a name.

        Raises:
            ValueError: if their file is damaged or missing.
        """
        file = _file_name(kind, name)
        if self.folder is None:
            return self.arrays[file]
        try:
            found = read_npz(self.folder / file)
            return [found[f"value_{index}"] for index in range(len(found))]
        except (ValueError, KeyError) as error:
            raise self._damaged(file, error) from error

    def learn(self, wisdom: Wisdom) -> None:
        """Keep `wisdom` too, so that the same models are exported to the same files again."""
        if self.folder is not None:
            wisdom.save(self.folder / WISDOM, overwrite=True)

    def teach(self, wisdom: Wisdom) -> None:
        """Add the wisdom that was kept to `wisdom`."""
        if self.folder is not None and (self.folder / WISDOM).exists():
            wisdom.merge(Wisdom.load(self.folder / WISDOM))

    def _load(self) -> None:
        try:
            kept = json.loads((self.folder / FILE).read_text())  # type: ignore[operator]
            before, now = dict(kept["settings"]), self.tree["settings"]
            dict(kept["results"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(FILE, error) from error
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            raise ValueError(
                f"'{self.folder}' holds a search with other settings. What differs: {', '.join(differing)}. Go on with the "
                "same model, data and arguments, or choose another folder."
            )
        self.tree = kept

    def _write(self) -> None:
        if self.folder is not None:
            files.write(self.folder / FILE, json.dumps(self.tree, indent=1).encode(), overwrite=True)

    def _damaged(self, file: str, error: Exception) -> ValueError:
        path = f"{self.folder}/{file}"
        return ValueError(f"Expected a search that can be read. '{path}' is damaged: {error!r}. Remove the folder.")


def _file_name(kind: str, name: str) -> str:
    return f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
