"""Saving the state of a training in one file, so that the training can be continued after an interruption."""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ..utils.npz import read_npz

FILE, PARTIAL = "training.npz", "training.npz.partial"


class Checkpoint:
    """A folder with one file, which holds the state of a training after its last finished epoch.

    The file is written under another name and then renamed, so that the state of the previous epoch is kept until the new file
    is complete.

    Args:
        folder: the folder. It is made if it does not exist. It must be empty, or hold a checkpoint.

    Raises:
        ValueError: if `folder` is a file, cannot be made or written to, or holds other files and no checkpoint.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = sorted(entry.name for entry in self.folder.iterdir())
        except OSError as error:
            raise ValueError(f"Expected a folder for the checkpoint. Received '{folder}': {error.strerror}.") from error
        if held and not {FILE, PARTIAL} & set(held):
            raise ValueError(
                f"Expected an empty folder for the checkpoint, or one that holds '{FILE}'. Received '{folder}', which holds "
                f"'{held[0]}'. Choose another folder."
            )
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ValueError(f"Expected a folder for the checkpoint that can be written to. Received '{folder}'.")

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
        about = json.dumps({"epoch": epoch, "settings": settings})
        partial = self.folder / PARTIAL
        try:
            partial.unlink(missing_ok=True)  # what a killed run has left, or a link that must not be followed
            with partial.open("xb") as file:
                np.savez(file, about=np.array(about), **values)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / FILE)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, f"could not write the checkpoint: {error.strerror or error}", str(partial)) from error

    def restore(self, variables, settings: dict) -> int:
        """Set `variables` to the saved values, and return the number of finished epochs, 0 if nothing is saved.

        Raises:
            ValueError: if the file is damaged, or belongs to a training with other settings.
        """
        path = self.folder / FILE
        if not path.exists():
            return 0
        try:
            arrays = read_npz(path)
            about = json.loads(str(arrays["about"]))
            values = [arrays[f"value_{index}"] for index in range(len(arrays) - 1)]
            epoch, saved = int(about["epoch"]), about["settings"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"Expected a checkpoint that can be read. '{path}' is damaged: {error}. Remove it to start the training anew."
            ) from error
        other = {name: saved.get(name) for name, value in json.loads(json.dumps(settings)).items() if saved.get(name) != value}
        if other or [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            what = f"with {other}" if other else "of another model"
            raise ValueError(
                f"'{path}' is the checkpoint of a training {what}, after epoch {epoch}. Go on with the same arguments and "
                "models, choose another folder, or remove the file."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return epoch

    def remove(self) -> None:
        """Remove the file that this class writes. The folder and other files in it are kept."""
        for name in (FILE, PARTIAL):
            (self.folder / name).unlink(missing_ok=True)


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
