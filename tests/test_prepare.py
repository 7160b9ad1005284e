import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale import prepare
from tokenunify_scale.config import ConfigError, DataError, build, to_dict
from tokenunify_scale.data import pack
from tokenunify_scale.data.shards import open_shards
from tokenunify_scale.prepare import Config, plan, run
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import open_volume

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
SHAPE = (6, 20, 24)
VOXEL = (40.0, 8.0, 8.0)


def write(path, array, voxel_size=VOXEL):
    write_hdf5(path, {"raw": array}, attributes={"raw": {"voxel_size": voxel_size}})
    return f"{path}:raw"


@pytest.fixture
def volumes(tmp_path):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, SHAPE).astype(np.uint8)
    wide = rng.integers(0, 60000, (5, 16, 16)).astype(np.uint16)
    return write(tmp_path / "a.h5", gray), write(tmp_path / "b.h5", wide)


@pytest.fixture
def config(tmp_path, volumes):
    return Config(volumes=volumes, out=tmp_path / "out", crops=5, crop=(3, 8, 8), per_shard=4)


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("shard-*")}


def test_each_crop_is_the_part_of_its_volume_that_its_box_says(config, volumes):
    result = run(config)
    assert (result["verb"], result["samples"], result["shards"]) == ("prepare", 10, 3)
    assert json.loads((config.out / "result.json").read_text()) == result
    shards = open_shards(config.out)
    assert len(shards) == 10 and shards.index.voxel_size == VOXEL
    assert [v["path"] for v in shards.index.volumes] == list(volumes)
    gray, wide = (open_volume(path).read() for path in volumes)
    assert shards.index.volumes[0]["mapping"] is None
    mapping = shards.index.volumes[1]["mapping"]
    assert mapping["low"] == np.percentile(wide, 0.5)
    scaled = (wide - mapping["low"]) * 255 / (mapping["high"] - mapping["low"])
    boxes = set()
    for number in range(10):
        crop, meta = shards.read(number)
        assert meta["volume"] == number // 5
        boxes.add(json.dumps(meta))
        part = tuple(slice(a, b) for a, b in zip(*meta["box"], strict=True))
        if number < 5:
            assert np.array_equal(crop, gray[part])
        else:
            assert np.abs(crop - scaled[part].clip(0, 255)).max() < 0.51
    assert len(boxes) == 10


def test_the_seed_decides_the_crops_and_nothing_else_does(tmp_path, config):
    run(config)
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        other = build(Config, {**to_dict(config), "out": tmp_path / name, "seed": seed})
        run(other)
        assert (hashes(other.out) == hashes(config.out)) is same


def test_a_finished_request_returns_at_once_and_says_so(config, capsys, monkeypatch):
    first = run(config)
    monkeypatch.setattr(prepare, "write_shards", None)
    assert run(config) == first
    assert "all 10 crops are there already" in capsys.readouterr().out


def test_another_request_for_the_same_folder_is_refused_and_harms_nothing(config):
    run(config)
    before = {p.name: p.read_bytes() for p in config.out.iterdir()}
    with pytest.raises(ConfigError, match="crops was 5, is 6.*choose another --out"):
        run(build(Config, {**to_dict(config), "crops": 6}))
    assert {p.name: p.read_bytes() for p in config.out.iterdir()} == before


def test_a_run_killed_half_way_writes_only_the_rest(tmp_path, config, monkeypatch):
    written, write_tar = [], pack._write_tar

    def dies_at_the_second(path, samples):
        written.append(path.name)
        if len(written) == 2:
            (path.parent / "shard-000001.tar.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        write_tar(path, samples)

    monkeypatch.setattr(pack, "_write_tar", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not (config.out / "result.json").exists()
    run(config)
    assert written == ["shard-000000.tar", *(f"shard-{n:06d}.tar" for n in (1, 1, 2))]
    undisturbed = build(Config, {**to_dict(config), "out": tmp_path / "undisturbed"})
    run(undisturbed)
    assert hashes(config.out) == hashes(undisturbed.out)


def test_a_full_disk_is_one_line_and_leaves_no_half_tar(config, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RuntimeError, match="cannot write .*No space left"):
        run(config)
    assert not list(config.out.glob("*.tar*"))


def test_the_plan_counts_what_run_writes_and_writes_nothing(config):
    planned = plan(config)
    assert not config.out.exists()
    result = run(config)
    assert (planned["samples"], planned["shards"]) == (result["samples"], result["shards"])
    assert planned["volumes"] == result["volumes"]
    assert planned["bytes"] == result["bytes"]
    assert planned["files"][-1] == str(config.out / "shard-000002.tar")


@pytest.mark.parametrize("verb", [plan, run])
def test_bad_volumes_are_found_before_anything_is_written(tmp_path, config, verb):
    labels = write(tmp_path / "labels.h5", np.ones(SHAPE, np.uint32))
    small = write(tmp_path / "small.h5", np.ones((2, 20, 20), np.uint8))
    for path, what in (
        (str(tmp_path / "none.h5:raw"), "none.h5"),
        (f"{config.volumes[0]}x", "rawx"),
        (labels, "looks like labels"),
        (small, r"small.h5:raw has shape \(2, 20, 20\): a crop of \(3, 8, 8\)"),
    ):
        bad = build(Config, {**to_dict(config), "volumes": [*config.volumes, path]})
        with pytest.raises(DataError, match=what):
            verb(bad)
        assert not config.out.exists()


def test_nans_anywhere_are_refused(tmp_path):
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    values[2, 9, 9] = np.nan
    path = write(tmp_path / "nan.h5", values)
    config = Config(volumes=(path,), out=tmp_path / "out", crops=3, crop=(6, 20, 24))
    with pytest.raises(DataError, match="nan.h5:raw: NaN"):
        run(config)


def test_requests_without_volumes_or_crops_are_refused(tmp_path):
    for change in ({"volumes": []}, {"crops": 0}, {"crop": [0, 4, 4]}, {"seed": -1}):
        with pytest.raises(ConfigError):
            build(Config, {"volumes": ["a.h5:raw"], "out": str(tmp_path), **change})


def test_volumes_of_two_voxel_sizes_leave_the_common_one_open(tmp_path, config):
    other = write(tmp_path / "c.h5", np.ones(SHAPE, np.uint8), voxel_size=(8.0, 8.0, 8.0))
    run(build(Config, {**to_dict(config), "volumes": [config.volumes[0], other]}))
    index = open_shards(config.out).index
    assert index.voxel_size is None
    assert [v["voxel_size"] for v in index.volumes] == [list(VOXEL), [8.0, 8.0, 8.0]]


def test_hdf5_keeps_volumes_whole_and_a_synthetic_one_with_labels(tmp_path, volumes, capsys):
    synthetic = "synthetic:seed=7,shape=8x48x48"
    paths = (volumes[0], synthetic, "synthetic:seed=8,shape=8x48x48")
    config = Config(volumes=paths, out=tmp_path / "out", write="hdf5")
    planned = plan(config)
    result = run(config)
    names = [Path(file).name for file in result["files"]]
    assert names == ["a.h5", "synthetic.h5", "synthetic_2.h5"]
    assert planned["files"] == result["files"] and planned["bytes"] > 2 * 8 * 48 * 48
    with open_volume(f"{config.out}/a.h5:raw") as copy, open_volume(volumes[0]) as source:
        assert np.array_equal(copy.read(), source.read())
        assert copy.voxel_size == VOXEL
    for dataset in ("raw", "labels"):
        with open_volume(f"{config.out}/synthetic.h5:{dataset}") as copy:
            with open_volume(f"{synthetic},dataset={dataset}") as source:
                assert np.array_equal(copy.read(), source.read())
                assert copy.dtype == source.dtype and copy.voxel_size == source.voxel_size
    capsys.readouterr()
    assert run(config) == result
    assert "all 3 volumes are there already" in capsys.readouterr().out
    (config.out / "synthetic_2.h5").unlink()
    before = (config.out / "a.h5").stat().st_mtime_ns
    run(config)
    assert (config.out / "synthetic_2.h5").exists()
    assert (config.out / "a.h5").stat().st_mtime_ns == before


def test_an_hdf5_file_of_another_origin_is_not_overwritten(tmp_path, volumes):
    out = tmp_path / "out"
    out.mkdir()
    other = write(out / "a.h5", np.ones(SHAPE, np.uint8))
    with pytest.raises(ConfigError, match="a.h5 exists and is no copy of"):
        run(Config(volumes=volumes[:1], out=out, write="hdf5"))
    assert open_volume(other).read().max() == 1


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, real EM volumes")
def test_a_real_volume_becomes_shards(tmp_path):
    path = f"{DATA / 'vnc3_stack2_raw.h5'}:raw"
    run(Config(volumes=(path,), out=tmp_path / "out", crops=6))
    shards = open_shards(tmp_path / "out")
    assert shards.index.crop == (16, 160, 160) and shards.index.volumes[0]["mapping"] is None
    assert all(shards.read(number)[0].std() > 10 for number in range(6))
