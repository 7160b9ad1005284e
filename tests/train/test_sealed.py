import hashlib
import subprocess

import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.train.sealed import SUMS, file_sha256, sums_text, verify


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 3_000_000)
    (tmp_path / SUMS).write_text(sums_text({n: file_sha256(tmp_path / n) for n in "ab"}))
    return tmp_path


def test_sums_are_those_of_sha256sum(folder):
    assert file_sha256(folder / "a") == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True)


def test_whole_files_and_folders_without_sums_pass(folder, tmp_path_factory):
    verify(folder)
    verify(tmp_path_factory.mktemp("bare"))


def test_a_changed_byte_and_a_missing_file_are_named(folder):
    with (folder / "b").open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    with pytest.raises(DataError, match=f"{folder}/b is not the file that was exported"):
        verify(folder)
    (folder / "b").unlink()
    with pytest.raises(DataError, match=f"{folder}: b is missing, which {SUMS} names"):
        verify(folder)
