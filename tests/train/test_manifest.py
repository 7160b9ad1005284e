import json
import os
from dataclasses import replace
from zlib import crc32

import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.train.manifest import (
    MANIFEST,
    Manifest,
    damage,
    files_of,
    files_of_rank,
    read_manifest,
)

WHOLE = Manifest(
    step=20,
    world=2,
    stage=3,
    offload="cpu",
    loss=0.25,
    measured_on="held_out",
    probe=0.5,
    facts={"crops": 160, "parameters": [1, 2]},
    files={"a.pt": (3, crc32(b"abc")), "inner/b.pt": (0, 0)},
)


def saved(folder, manifest=WHOLE):
    (folder / "inner").mkdir(parents=True)
    (folder / "a.pt").write_bytes(b"abc")
    (folder / "inner" / "b.pt").write_bytes(b"")
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def test_a_manifest_comes_back_as_it_was():
    assert Manifest.from_json(WHOLE.to_json()) == WHOLE
    bare = Manifest(step=0, world=1, stage=0, offload="none", files={"a": (1, 2)})
    assert Manifest.from_json(bare.to_json()) == bare and bare.loss is None


@pytest.mark.parametrize(
    "change, said",
    [
        ({"colour": 1}, "unknown key colour"),
        ({"step": "many"}, "step"),
        ({"step": -1}, "step -1"),
        ({"world": 0}, "0 ranks"),
        ({"stage": 4}, "stage"),
        ({"offload": "tape"}, "tape"),
        ({"measured_on": "moon"}, "moon"),
        ({"files": {}}, "nothing was saved"),
        ({"files": {"a": 3}}, "not a checkpoint's manifest"),
        ({"files": {"a": [3]}}, "files.a"),
        ({"files": {"a": [3, -1]}}, "files.a"),
        ({"files": {"a": ["3", 1]}}, "files.a"),
        ({"files": {"../a": [3, 1]}}, "outside"),
        ({"files": {"/a": [3, 1]}}, "outside"),
        ({"files": ["a"]}, "lists files"),
    ],
)
def test_what_is_not_a_manifest_is_refused(change, said):
    data = json.loads(WHOLE.to_json())
    with pytest.raises(DataError, match=said):
        Manifest.from_json(json.dumps({**data, **change}))


@pytest.mark.parametrize("key", ["step", "world", "stage", "offload", "files"])
def test_no_key_may_be_missing(key):
    data = json.loads(WHOLE.to_json())
    del data[key]
    with pytest.raises(DataError):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(DataError, match="run/manifest.json"):
        Manifest.from_json(text, where="run/manifest.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="loss is"):
        replace(WHOLE, loss=value)


def test_a_folder_without_a_manifest_has_none(tmp_path):
    assert read_manifest(tmp_path) is None and read_manifest(tmp_path / "gone") is None
    assert read_manifest(saved(tmp_path / "step")) == WHOLE
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)


def test_each_rank_knows_its_files_and_the_rest_are_the_first_ones(tmp_path):
    mine = {
        0: ["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt", "x.py"],
        1: ["offloaded_tensors/rank01/a.swp", "zero_pp_rank_1_mp_rank_00_model_states.pt"],
        11: ["rng_rank_11.pt", "zero_pp_rank_11_mp_rank_00_optim_states.pt"],
    }
    for name in [MANIFEST, *(name for names in mine.values() for name in names)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for rank, names in mine.items():
        assert files_of_rank(tmp_path, rank=rank) == names
    assert files_of_rank(tmp_path, rank=2) == []
    assert files_of(tmp_path) == sorted(sum(mine.values(), []))


def test_a_whole_folder_is_whole_and_more_in_it_is_no_damage(tmp_path):
    folder = saved(tmp_path / "step")
    (folder / "notes.txt").write_text("mine")
    assert damage(folder) is None


def test_damage_names_the_file_and_what_is_wrong_with_it(tmp_path):
    folder = saved(tmp_path / "step")
    (folder / "a.pt").write_bytes(b"abd")
    assert damage(folder) == f"a.pt has checksum {crc32(b'abd')}, not {crc32(b'abc')}"
    (folder / "a.pt").write_bytes(b"ab")
    assert damage(folder) == "a.pt has 2 bytes of 3"
    (folder / "a.pt").write_bytes(b"abcd")
    assert damage(folder) == "a.pt has 4 bytes of 3"
    (folder / "a.pt").unlink()
    assert damage(folder) == "a.pt is missing"
    (folder / "a.pt").mkdir()
    assert damage(folder) == "a.pt cannot be read (Is a directory)"
    (folder / MANIFEST).write_text("{")
    assert "not a checkpoint's manifest" in damage(folder)
    (folder / MANIFEST).unlink()
    assert damage(folder) == "no manifest.json" == damage(tmp_path / "gone")


def test_any_single_flipped_bit_is_found(tmp_path):
    content = bytearray(os.urandom(40))
    sums = {"a.pt": (40, crc32(content)), "inner/b.pt": (0, 0)}
    folder = saved(tmp_path / "step", replace(WHOLE, files=sums))
    for bit in range(320):
        content[bit // 8] ^= 1 << bit % 8
        (folder / "a.pt").write_bytes(content)
        assert "checksum" in damage(folder)
        content[bit // 8] ^= 1 << bit % 8
    (folder / "a.pt").write_bytes(content)
    assert damage(folder) is None
