"""Files that are no .npz, or damaged ones, give a reason and never another error."""

import zipfile

import numpy as np
import pytest

from keras_butterfly.utils.npz import read_npz


def test_arrays_by_name_and_a_single_one_as_x(tmp_path):
    np.savez(tmp_path / "two.npz", x=np.arange(3), y=np.ones(2))
    np.save(tmp_path / "one.npy", np.arange(4))
    assert {name: array.tolist() for name, array in read_npz(tmp_path / "two.npz").items()} == {"x": [0, 1, 2], "y": [1, 1]}
    assert read_npz(tmp_path / "one.npy")["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("member", "content"), [("readme.txt", b"hi"), ("x", b"hi"), ("x.npy", b"")])
def test_a_member_that_is_no_array_is_named_or_refused(tmp_path, member, content):
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr(member, content)
    with pytest.raises(ValueError, match=r"is not an array|data|EOF|header|magic"):
        read_npz(tmp_path / "other.npz")


def test_bytes_changed_at_random_never_give_another_error(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "mutated.npz"
    np.savez_compressed(path, x=rng.standard_normal((20, 5)), y=np.arange(20))
    whole = path.read_bytes()
    for _ in range(300):
        changed = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, len(changed), rng.integers(1, 8)):
            changed[place] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            read_npz(path)
        except ValueError as error:
            assert str(error)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        read_npz(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("x, y")
    with pytest.raises(ValueError, match=r"it is no \.npz file"):
        read_npz(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="it is not a file"):
        read_npz(tmp_path)
