"""What a search keeps in its folder."""

import numpy as np
import pytest

from keras_butterfly.export.compression.memory import FILE, Memory

SETTINGS = {"the data": "sha256:1", "seed": 0}


def test_results_are_computed_once_and_found_again(tmp_path):
    memory = Memory(tmp_path / "search", SETTINGS)
    assert memory.once("harms", "a", lambda: 0.25) == 0.25
    memory.keep_arrays("layer", "a", [np.arange(3), np.ones((2, 2))])
    again = Memory(tmp_path / "search", SETTINGS)
    assert again.known("harms", "a") and not again.known("harms", "b")
    assert again.once("harms", "a", lambda: pytest.fail("computed twice")) == 0.25
    arrays = again.arrays_of("layer", "a")
    assert [array.tolist() for array in arrays] == [[0, 1, 2], [[1, 1], [1, 1]]]


def test_without_a_folder_results_live_in_memory():
    memory = Memory(None, SETTINGS)
    memory.keep_arrays("layer", "a", [np.arange(3)])
    assert memory.arrays_of("layer", "a")[0].tolist() == [0, 1, 2]
    assert memory.once("harms", "a", lambda: 1.0) == memory.once("harms", "a", lambda: 2.0) == 1.0


def test_a_result_that_fails_is_not_kept(tmp_path):
    memory = Memory(tmp_path, SETTINGS)
    with pytest.raises(ZeroDivisionError):
        memory.once("harms", "a", lambda: 1 / 0)
    assert not Memory(tmp_path, SETTINGS).known("harms", "a")


def test_a_result_that_was_cut_short_serves_one_search_only(tmp_path):
    memory = Memory(tmp_path, SETTINGS)
    assert memory.once("costs", "a", lambda: 1.0, is_finished=lambda: False) == 1.0
    assert memory.once("costs", "a", lambda: pytest.fail("computed twice")) == 1.0
    again = Memory(tmp_path, SETTINGS)
    assert not again.known("costs", "a")
    assert again.once("costs", "a", lambda: 2.0) == 2.0
    assert Memory(tmp_path, SETTINGS).known("costs", "a")


def test_folders_of_other_searches_are_refused(tmp_path):
    Memory(tmp_path / "search", SETTINGS)
    with pytest.raises(ValueError, match=r"holds a search with other settings\. What differs: seed\. Go on"):
        Memory(tmp_path / "search", {**SETTINGS, "seed": 1})
    (tmp_path / "search" / FILE).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Memory(tmp_path / "search", SETTINGS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(ValueError, match="Expected an empty folder for the search"):
        Memory(tmp_path / "other", SETTINGS)
    with pytest.raises(ValueError, match="Expected a folder to keep the search in"):
        Memory(tmp_path / "other" / "letter.txt", SETTINGS)


def test_two_searches_do_not_share_a_folder(tmp_path):
    first, second = Memory(tmp_path, SETTINGS), Memory(tmp_path, SETTINGS)
    with first.held(), pytest.raises(ValueError, match="that no other search uses"), second.held():
        pass
    with second.held():
        pass


def test_damaged_weights_are_refused(tmp_path):
    memory = Memory(tmp_path, SETTINGS)
    memory.keep_arrays("layer", "a", [np.arange(3)])
    next(tmp_path.glob("*.npz")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is damaged"):
        memory.arrays_of("layer", "a")
