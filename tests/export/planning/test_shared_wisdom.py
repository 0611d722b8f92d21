"""Tests of a wisdom file that several processes add to."""

import keras
import pytest

from keras_butterfly import Butterfly, export


@pytest.mark.usefixtures("two_lowerings")
def test_processes_that_share_a_wisdom_file_lose_nothing(tmp_path):
    path = tmp_path / "wisdom.json"
    for units in (8, 12):
        wisdom_of_one_process = export.Wisdom()
        model = keras.Sequential([keras.Input((units,), name="x"), Butterfly(name="hidden")])
        export.to_tflite(model, effort="quick", wisdom=wisdom_of_one_process)
        assert len(wisdom_of_one_process) == 1
        wisdom_of_one_process.save_merged(path)
    assert len(export.Wisdom.load(path)) == 2


def test_a_file_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="is none or is damaged"):
        export.Wisdom.load(path)
