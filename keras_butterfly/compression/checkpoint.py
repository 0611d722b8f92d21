"""Saving the state of a training in one file, so that the training can be continued after an interruption."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ..utils.locking import locked_folder
from ..utils.npz import read_npz

FILE, PARTIAL = "training.npz", "training.npz.partial"
_HASH = "sha256:"


class Checkpoint:
    """A folder with one file, which holds the state of a training after its last finished epoch.

    The file is written under another name and then renamed, so that the state of the previous epoch is kept until the new file
    is complete. The folder is made when it is needed.

    Args:
        folder: the folder. It must be empty, or hold a checkpoint, or not exist.
        settings: facts that the training depends on and that `distill` does not know, such as the options by which the student
            was made: a dict of values that JSON can hold. Error messages use its keys.

    Raises:
        ValueError: if `folder` is a file, cannot be read, or holds other files and no checkpoint.
    """

    def __init__(self, folder, settings: dict | None = None):
        if not isinstance(folder, str | Path) or not str(folder):
            raise ValueError(f"Expected a folder for the checkpoint, as a str or a pathlib.Path. Received: {folder!r}")
        self.folder, self.settings, self._held = Path(folder), dict(settings or {}), False
        try:
            names = sorted(entry.name for entry in self.folder.iterdir())
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise _no_folder(folder, error) from error
        partial = self.folder / PARTIAL
        if partial.exists() and not partial.is_file():
            raise ValueError(f"Expected a file in the checkpoint's folder. '{partial}' is no regular file. Remove it.")
        if names and not {FILE, PARTIAL} & set(names):
            raise ValueError(
                f"Expected an empty folder for the checkpoint, or one that holds '{FILE}'. Received '{folder}', which holds "
                f"'{names[0]}'. Choose another folder."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs from using the folder until the `with` block ends. A folder made for this is removed if it is empty.

        Raises:
            ValueError: if another run uses the folder, it cannot be made or written to, or its checkpoint is damaged or of
                other `settings`.
        """
        if self._held:
            yield
            return
        with ExitStack() as stack:
            made = self._lock(stack)
            stack.callback(_remove_empty, made)  # before the lock is released
            stack.callback(setattr, self, "_held", False)
            self._held = True
            self._check(self._read(), self.settings)
            yield

    def save(self, variables, epoch: int, settings: dict) -> None:
        """Write the values of `variables` after `epoch` finished epochs of a training with these settings.

        Args:
            variables: Keras variables, in an order that the same training always has.
            epoch: number of finished epochs.
            settings: the arguments that the training depends on, as plain values that JSON can hold.

        Raises:
            OSError: if the file cannot be written, for example because the disk is full. The previous checkpoint is kept.
        """
        values: dict[str, Any] = {f"value_{index}": _storable(variable) for index, variable in enumerate(variables)}
        about = json.dumps({"epoch": epoch, "settings": settings | self.settings})
        partial = self.folder / PARTIAL
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)  # what a killed run has left, or a link that must not be followed
            with partial.open("xb") as file:
                np.savez(file, about=np.array(about), **values)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / FILE)
        except OSError as error:
            raise OSError(error.errno, f"could not write the checkpoint: {error.strerror or error}", str(partial)) from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def restore(self, variables, settings: dict) -> int:
        """Set `variables` to the saved values, and return the number of finished epochs, 0 if nothing is saved.

        Raises:
            ValueError: if the file is damaged, or belongs to a training with other settings.
        """
        state = self._read()
        self._check(state, settings | self.settings)
        if state is None:
            return 0
        if [value.shape for value in state.values] != [tuple(variable.shape) for variable in variables]:
            raise self._other_training(state, "the shapes of the student's weights")
        for variable, value in zip(variables, state.values, strict=True):
            variable.assign(value)
        return state.epoch

    def remove(self) -> None:
        """Remove the file that this class writes. Other files are kept, and the folder too unless `held` has made it."""
        for name in (FILE, PARTIAL):
            (self.folder / name).unlink(missing_ok=True)

    def _lock(self, stack: ExitStack) -> list[Path]:
        """Make and lock the folder until `stack` is left, and return the folders that were made, the innermost first.

        Raises:
            ValueError: as `held`.
        """
        while True:
            made = self._make_folder()
            try:
                stack.enter_context(locked_folder(self.folder, wait=False))
                return made
            except FileNotFoundError:  # A run that ended just now has removed the folder that it had made.
                continue
            except BlockingIOError:
                raise ValueError(
                    f"Expected a folder for the checkpoint that no other run uses. Another run saves its training in "
                    f"'{self.folder}'. Wait for its end, or choose another folder."
                ) from None

    def _make_folder(self) -> list[Path]:
        """Make the folder and those above it, and return the folders that did not exist, the innermost first."""
        missing = [folder for folder in (self.folder, *self.folder.parents) if not os.path.lexists(folder)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _remove_empty(missing)
            if error.errno == errno.ENOSPC:
                raise
            raise _no_folder(self.folder, error) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ValueError(f"Expected a folder for the checkpoint that can be written to. Received '{self.folder}'.")
        return missing

    def _read(self) -> "_State | None":
        """Return what the file holds, or None if there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / FILE
        if not os.path.lexists(path):
            return None
        try:
            arrays = read_npz(path)
            about = json.loads(str(arrays["about"]))
            values = [arrays[f"value_{index}"] for index in range(len(arrays) - 1)]
            return _State(int(about["epoch"]), dict(about["settings"]), values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"Expected a checkpoint that can be read. '{path}' is damaged: {error}. Remove it to start the training anew."
            ) from error

    def _check(self, state: "_State | None", settings: dict) -> None:
        """Check that `state` is of a training with these settings.

        Raises:
            ValueError: if it is not. The message names the settings that differ.
        """
        saved, current = {} if state is None else state.settings, json.loads(json.dumps(settings))
        differing = [_difference(name, saved.get(name), now) for name, now in current.items() if saved.get(name) != now]
        if state is not None and differing:
            raise self._other_training(state, ", ".join(differing))

    def _other_training(self, state: "_State", differences: str) -> ValueError:
        return ValueError(
            f"'{self.folder / FILE}' is the checkpoint, after epoch {state.epoch}, of another training. What differs: "
            f"{differences}. Go on with the same arguments, data and models, choose another folder, or remove the file."
        )


class _State(NamedTuple):
    """What a checkpoint holds: the number of finished epochs, the settings of the training, and the values of the variables."""

    epoch: int
    settings: dict
    values: list[np.ndarray]


def fingerprint(arrays: Iterable) -> str:
    """Return a text that differs if the values, the shapes or the dtypes of the arrays differ."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        array = array.astype(str) if array.dtype.kind in "OT" else array  # texts, of which NumPy keeps only the addresses
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return _HASH + digest.hexdigest()


def fingerprint_of_weights(model: keras.Model) -> str:
    """Return the `fingerprint` of the weights of `model`."""
    return fingerprint(_storable(weight) for weight in model.weights)


def _difference(name: str, saved, current) -> str:
    """Return the name of a setting, and if they are short its values in the checkpoint and now."""
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in (saved, current))
    if not plain or str(current).startswith(_HASH):
        return name
    return f"{name} ({saved}, now {current})"


def _no_folder(folder, error: OSError) -> ValueError:
    return ValueError(f"Expected a folder for the checkpoint. Received '{folder}': {error.strerror}.")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


class SaveEachEpoch(keras.callbacks.Callback):
    """A callback that saves the variables of the model and of its optimizer at the end of every epoch."""

    def __init__(self, checkpoint: Checkpoint, settings: dict):
        super().__init__()
        self.checkpoint, self.settings = checkpoint, settings

    def on_epoch_end(self, epoch, logs=None):
        self.checkpoint.save(state_of(self.model), epoch + 1, self.settings)


def _storable(variable) -> np.ndarray:
    """Return the value of a variable in a dtype that a .npz file can hold: float32 instead of bfloat16."""
    value = ops.convert_to_numpy(variable)
    return value if value.dtype.kind in "biufc" and value.dtype.isbuiltin == 1 else value.astype("float32")


def state_of(model: keras.Model) -> list:
    """Return the variables of a compiled model and of its optimizer, and build the optimizer if needed."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
