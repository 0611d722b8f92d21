"""Tests of writing files: a reader sees the whole file or none, and an existing file is replaced only on request."""

import os
import stat
import threading

import pytest

from keras_butterfly.export import files


def leftovers(folder):
    """Return the names of the temporary files in a folder."""
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_a_new_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "new", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert (tmp_path / "new").read_bytes() == b"content"


def test_an_overwritten_file_keeps_its_mode(tmp_path):
    path = tmp_path / "private"
    path.write_bytes(b"old")
    path.chmod(0o600)
    files.write(path, b"new", overwrite=True)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_an_interrupt_right_after_the_probe_is_made_leaves_nothing(tmp_path, monkeypatch):
    close = os.close

    def interrupted(descriptor):
        close(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "close", interrupted)
    for write in (files.check_writable, lambda path: files.write(path, b"content")):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "new")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"exists\. Choose another path"):
        files.write(tmp_path / "old", b"new")
    assert (tmp_path / "old").read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_a_file_that_appears_while_the_content_is_made_is_kept(tmp_path):
    path = tmp_path / "late"

    def content(temporary):
        temporary.write_bytes(b"ours")
        path.write_bytes(b"somebody else's")

    with pytest.raises(ValueError, match="exists"):
        files.write(path, content)
    assert path.read_bytes() == b"somebody else's"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_devices_and_pipes_are_refused(tmp_path, overwrite):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match="no regular file"):
            files.write(path, b"content", overwrite)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_dangling_link_counts_as_existing_and_is_followed_when_overwriting(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing")
    with pytest.raises(ValueError, match="exists"):
        files.write(link, b"content")
    files.write(link, b"content", overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "missing").read_bytes() == b"content"


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    files.write(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_fails_half_way_leaves_nothing(tmp_path):
    (tmp_path / "old").write_bytes(b"old")

    def content(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write(tmp_path / "old", content, overwrite=True)
    assert caught.value.filename == str(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/file", "Expected an existing folder"),
        (".", "Received a folder"),
        ("x" * 300, "at most 255 bytes"),
        ("x/" * 3000 + "y", r"Expected an existing folder to write to. Received: '.{40}\.\.\.'"),
        ("/proc/model.tflite", "Expected a folder that can be written to. Received: '/proc'"),
        ("/sys/model.tflite", "Expected a folder that can be written to. Received: '/sys'"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/file", "Expected an existing folder"),
        ("file/below", "Expected an existing folder"),
        ("", "Expected a path"),
    ],
)
def test_paths_that_cannot_be_written_are_refused_before_the_work(path, message, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        files.check_writable(tmp_path / path if path else path, overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("path", ["new/", "a\0b"])
def test_paths_of_no_file_are_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"Expected (a|the) path"):
        files.write(path, b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [files.check_writable, lambda path: files.write(path, b"content")])
def test_a_disk_without_room_for_another_file_names_the_users_file(function, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "a hidden name")

    monkeypatch.setattr(files.os, "open", full)
    with pytest.raises(OSError, match="could not write the file: No space left") as caught:
        function(tmp_path / "mine")
    assert caught.value.filename == str(tmp_path / "mine")


def test_a_file_system_without_hard_links_still_writes(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.write(tmp_path / "new", b"content")
    assert (tmp_path / "new").read_bytes() == b"content"
    with pytest.raises(ValueError, match="exists"):
        files.write(tmp_path / "new", b"other")


def test_two_names_of_one_file_are_found_through_links(tmp_path):
    (tmp_path / "model").write_bytes(b"")
    (tmp_path / "link").symlink_to("model")
    files.check_distinct(
        {"--output": tmp_path / "a", "--plot": tmp_path / "b", "--wisdom": None}, {"MODEL": tmp_path / "model"}
    )
    with pytest.raises(ValueError, match="Expected MODEL and --output to be different files"):
        files.check_distinct({"--output": tmp_path / "link"}, {"MODEL": tmp_path / "model"})
    with pytest.raises(ValueError, match="Expected --output and --plot to be different files"):
        files.check_distinct({"--output": tmp_path / "new", "--plot": tmp_path / "x" / ".." / "new"}, {})
    files.check_distinct({}, {"MODEL": tmp_path / "model", "--data": tmp_path / "model"})


def test_a_lock_lets_one_at_a_time_change_a_file(tmp_path):
    path, counts = tmp_path / "count", range(20)
    path.write_text("0")

    def increase():
        with files.locked(path):
            files.write(path, str(int(path.read_text()) + 1).encode(), overwrite=True)

    threads = [threading.Thread(target=increase) for _ in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == str(len(counts))
