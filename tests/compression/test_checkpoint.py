"""The state of a training in one file: what is kept, what is refused, and that only our own files are removed."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_butterfly.compression.checkpoint import FILE, PARTIAL, Checkpoint, fingerprint, state_of
from keras_butterfly.utils import locking

pytestmark = pytest.mark.usefixtures("eager")
SETTINGS = {"epochs": 10, "hint": 0.5}


def model(units=3):
    found = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    found.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    return found


def trained():
    found = model()
    found.train_on_batch(np.ones((2, 4)), np.ones((2, 3)))
    return found


def values(found):
    return [keras.ops.convert_to_numpy(variable) for variable in state_of(found)]


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


def test_weights_and_optimizer_come_back(tmp_path):
    source, target = trained(), model()
    Checkpoint(tmp_path).save(state_of(source), 3, SETTINGS)
    assert Checkpoint(tmp_path).restore(state_of(target), SETTINGS) == 3
    for found, expected in zip(values(target), values(source), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_without_a_file_nothing_is_restored(tmp_path):
    assert Checkpoint(tmp_path / "new").restore(state_of(model()), SETTINGS) == 0
    assert not (tmp_path / "new").exists()


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with raises("which holds 'thesis.tex'. Choose another folder."):
        Checkpoint(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_only_our_own_files_are_removed(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(state_of(trained()), 1, SETTINGS)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / PARTIAL).write_bytes(b"half")
    Checkpoint(tmp_path).remove()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_half_written_file_leaves_the_last_good_one(tmp_path):
    checkpoint, source = Checkpoint(tmp_path), trained()
    checkpoint.save(state_of(source), 1, SETTINGS)
    (tmp_path / PARTIAL).write_bytes((tmp_path / FILE).read_bytes()[:100])  # killed in the middle of the next epoch's save
    assert Checkpoint(tmp_path).restore(state_of(model()), SETTINGS) == 1


def test_a_run_that_was_killed_in_its_first_save_starts_anew(tmp_path):
    (tmp_path / PARTIAL).write_bytes(b"half")
    assert Checkpoint(tmp_path).restore(state_of(model()), SETTINGS) == 0


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 200], ids=["cut", "empty", "other"]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    Checkpoint(tmp_path).save(state_of(trained()), 1, SETTINGS)
    path = tmp_path / FILE
    path.write_bytes(damage(path.read_bytes()))
    with raises(f"'{path}' is damaged"):
        Checkpoint(tmp_path).restore(state_of(model()), SETTINGS)


def test_other_arguments_and_other_models_are_refused(tmp_path):
    Checkpoint(tmp_path).save(state_of(trained()), 5, SETTINGS)
    with raises("is the checkpoint, after epoch 5, of another training. What differs: epochs (10, now 3). Go on with"):
        Checkpoint(tmp_path).restore(state_of(model()), {**SETTINGS, "epochs": 3})
    with raises("What differs: the shapes of the student's weights."):
        Checkpoint(tmp_path).restore(state_of(model(units=2)), SETTINGS)


def test_settings_of_the_caller_are_compared_when_the_folder_is_held(tmp_path):
    data, other = fingerprint([np.ones(3)]), fingerprint([np.ones(3, "float32")])
    Checkpoint(tmp_path, {"--seed": 0, "--data": data}).save(state_of(trained()), 1, SETTINGS)
    with raises("What differs: --seed (0, now 1), --data. Go on"), Checkpoint(tmp_path, {"--seed": 1, "--data": other}).held():
        pass
    again = Checkpoint(tmp_path, {"--seed": 0, "--data": data})
    with again.held():
        assert again.restore(state_of(model()), SETTINGS) == 1


def test_fingerprints_tell_shapes_dtypes_and_values_apart():
    arrays = [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3), "int64"), np.zeros((0, 3)), np.float32(1), np.eye(2, 3)]
    assert len({fingerprint([array]) for array in arrays}) == len(arrays)
    assert fingerprint([np.eye(3)[:, ::2]]) == fingerprint([np.eye(3)[:, ::2].copy()])
    texts = [np.array(words, object) for words in (["a", "b"], ["a", "c"])]
    assert fingerprint(texts[:1]) == fingerprint([texts[0].copy()]) != fingerprint(texts[1:])


def test_a_folder_that_another_run_removes_is_made_again(tmp_path, monkeypatch):
    """Let a run remove the empty folder that it made while the next one is about to lock it. See that the next one goes on."""
    folder, removed = tmp_path / "state", []
    make = Checkpoint._make_folder

    def make_and_lose(checkpoint):
        made = make(checkpoint)
        if not removed:
            folder.rmdir()
            removed.append(folder)
        return made

    monkeypatch.setattr(Checkpoint, "_make_folder", make_and_lose)
    with Checkpoint(folder).held():
        assert removed and folder.is_dir()
    assert not folder.exists()


def test_one_run_at_a_time_uses_a_folder(tmp_path):
    folder = tmp_path / "deep" / "state"
    first = Checkpoint(folder)
    with first.held(), first.held():  # the command holds it, and so does the training inside
        with raises(f"Another run saves its training in '{folder}'"), Checkpoint(folder).held():
            pass
        first.save(state_of(trained()), 1, SETTINGS)
    with Checkpoint(folder).held():
        pass
    assert [entry.name for entry in folder.iterdir()] == [FILE]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    program = (
        "import runpy, sys, time\nlocked_folder = runpy.run_path(sys.argv[2])['locked_folder']\n"  # without importing Keras
        "with locked_folder(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), locking.__file__], stdout=subprocess.PIPE)
    process.stdout.readline()
    with raises("Another run saves"), Checkpoint(tmp_path).held():
        pass
    process.kill()
    process.wait()
    with Checkpoint(tmp_path).held():
        pass


def test_a_damaged_file_is_found_when_the_folder_is_held(tmp_path):
    os.mkfifo(tmp_path / FILE)  # which would be read for ever
    with raises("is damaged: it is not a file"), Checkpoint(tmp_path).held():
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    for folder in ("/proc/state", tmp_path / ("x" * 300), ""):
        with raises("Expected a folder for the checkpoint"), Checkpoint(folder).held():
            pass


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_last_state(tmp_path, monkeypatch):
    checkpoint, source = Checkpoint(tmp_path), trained()
    checkpoint.save(state_of(source), 1, SETTINGS)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="could not write the checkpoint: No space left") as caught,
    ):
        patch.setattr(np, "savez", full)
        checkpoint.save(state_of(source), 2, SETTINGS)
    assert caught.value.filename == str(tmp_path / PARTIAL)
    assert Checkpoint(tmp_path).restore(state_of(model()), SETTINGS) == 1


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with raises("Expected a folder for the checkpoint"):
        Checkpoint(tmp_path / "file")


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path):
    users = tmp_path / "users.json"
    users.write_text("mine")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "training.npz.partial").symlink_to(users)
    variable = keras.Variable(np.ones(3))
    Checkpoint(folder).save([variable], 1, {})
    assert users.read_text() == "mine"
    assert Checkpoint(folder).restore([variable], {}) == 1
