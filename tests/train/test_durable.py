import errno
import os
from zlib import crc32

import pytest

from tokenunify_scale.train import durable
from tokenunify_scale.train.durable import (
    checksums,
    size_of,
    sum_of,
    sync_folder,
    write_durably,
)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 35])
def test_a_file_is_summed_block_by_block_as_at_once(tmp_path, monkeypatch, length):
    monkeypatch.setattr(durable, "BLOCK", 10)
    content = os.urandom(length)
    (tmp_path / "a").write_bytes(content)
    assert sum_of(tmp_path / "a") == (length, crc32(content))


def test_checksums_are_of_the_files_named_and_of_those_in_folders(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b", "c"):
        (tmp_path / name).write_text(name)
    sums = checksums(tmp_path, ["inner/b", "a"])
    assert sums == {"inner/b": (7, crc32(b"inner/b")), "a": (1, crc32(b"a"))}
    assert checksums(tmp_path, []) == {}


def test_files_are_on_the_disk_before_they_are_vouched_for(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        checksums(tmp_path, ["a"])
    assert sum_of(tmp_path / "a") == (1, crc32(b"a"))  # which promises nothing


def test_the_size_of_what_is_not_there_is_none(tmp_path):
    (tmp_path / "a").write_text("four")
    assert size_of(tmp_path / "a") == 4 and size_of(tmp_path / "b") is None
    with pytest.raises(IsADirectoryError):
        size_of(tmp_path)


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "latest"
    write_durably(path, "one\n")
    assert path.read_text() == "one\n" and os.listdir(tmp_path) == ["latest"]

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError):
            write_durably(path, "two\n")
    assert path.read_text() == "one\n"
    write_durably(path, "three\n")
    assert path.read_text() == "three\n" and os.listdir(tmp_path) == ["latest"]


@pytest.mark.parametrize("number, passes", [(errno.EINVAL, True), (errno.ENOSPC, False)])
def test_only_a_file_system_that_cannot_sync_folders_is_passed_over(
    tmp_path, monkeypatch, number, passes
):
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if passes:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OSError):
            sync_folder(tmp_path)
