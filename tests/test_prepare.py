import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore
from PIL import Image

from tokenunify_scale import prepare
from tokenunify_scale.cli import main
from tokenunify_scale.config import ConfigError, DataError, HostError, build, to_dict
from tokenunify_scale.data.shards import pack, request
from tokenunify_scale.data.shards.reader import open_shards
from tokenunify_scale.data.shards.target import writing_to
from tokenunify_scale.data.stream import Stream
from tokenunify_scale.prepare import Config, plan, run
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import open_volume

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".." / "shared" / "data"
MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpi = pytest.mark.skipif(not MPIRUN.exists(), reason="needs Open MPI's wheel and mpi4py")
SHAPE = (6, 20, 24)
VOXEL = (40.0, 8.0, 8.0)
PHOTOS = {"volumes": [], "images": ["a"], "crop": [1, 8, 8]}


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
    monkeypatch.setattr(request, "write_shards", None)
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
    with pytest.raises(HostError, match="cannot write .*No space left"):
        run(config)
    assert not config.out.exists()


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


def bad_volumes(folder):
    """Volumes that cannot be prepared, and what is said of each."""
    nan = np.random.default_rng(0).random((70, 130, 130)).astype(np.float32)
    nan[40, 70, 2] = np.nan
    ids = np.arange(6 * 20 * 3, dtype=np.uint16).repeat(8).reshape(SHAPE)
    return {
        "nan.h5:raw: NaN or infinity in the box": nan,
        "image.h5:raw: a single image, shape 20x24": np.ones((20, 24), np.uint8),
        "labels.h5:raw: uint64 looks like labels": np.ones(SHAPE, np.uint64),
        "ids.h5:raw: looks like labels, not like a raw volume: ": ids,
        "mask.h5:raw: only the values 0 and 1: a mask or labels": (ids % 2).astype(np.uint8),
        "small.h5:raw has shape (2, 20, 20): a crop of (3, 8, 8)": np.ones((2, 20, 20), np.uint8),
        "blank.h5:raw: practically no content": np.full(SHAPE, 7, np.uint8),
        "flat.h5:raw: no contrast": np.full(SHAPE, 7, np.uint16),
    }


def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, volumes, capsys):
    for said, array in bad_volumes(tmp_path).items():
        bad = write(tmp_path / said.partition(":")[0].partition(" ")[0], array)
        out = tmp_path / "made" / "out"
        words = ["--volumes", volumes[0], bad, "--out", str(out), "--crop", "3,8,8"]
        assert main("prepare", [*words, "--crops", "5", "--sample", "content"]) == 4
        errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert len(errors) == 1 and said in errors[0]
        assert not out.parent.exists()


def test_labels_can_be_let_through_where_the_alarm_is_false(tmp_path):
    ids = np.arange(6 * 20 * 3, dtype=np.uint16).repeat(8).reshape(SHAPE)
    words = {"volumes": (write(tmp_path / "ids.h5", ids),), "crop": (3, 8, 8), "crops": 2}
    with pytest.raises(DataError, match="looks like labels"):
        run(Config(**words, out=tmp_path / "x", write="hdf5"))
    for number, write_as in enumerate(("shards", "hdf5")):
        out = tmp_path / str(number)
        run(Config(**words, out=out, write=write_as, looks_like_labels="allow"))


@pytest.mark.parametrize("finished", [0, 1])
def test_a_nan_met_on_the_way_leaves_whole_tars_or_nothing(tmp_path, monkeypatch, finished):
    for name in ("content.IN_MEMORY", "content.TRIAL", "gray.PROBES"):
        monkeypatch.setattr(f"tokenunify_scale.data.{name}", int(name == "gray.PROBES"))
    values = np.random.default_rng(0).random((80, 130, 130)).astype(np.float32)
    path = write(tmp_path / "nan.h5", values)
    config = Config(volumes=(path,), out=tmp_path / "out", crops=8, crop=(4, 8, 8), per_shard=4)
    run(build(Config, {**to_dict(config), "out": tmp_path / "good"}))
    crop, meta = open_shards(tmp_path / "good").read(4 * finished + 3)
    with h5py.File(tmp_path / "nan.h5", "r+") as file:
        file["raw"][tuple(meta["box"][0])] = np.nan
    with pytest.raises(DataError, match="nan.h5:raw: NaN or infinity in the box"):
        run(config)
    if not finished:
        assert not config.out.exists()
        return
    assert sorted(path.name for path in config.out.iterdir()) == [
        "config.yaml", "environment.json", "index.partial.json", "shard-000000.tar",
    ]  # fmt: skip
    write(tmp_path / "nan.h5", values)
    run(config)
    assert hashes(config.out) == hashes(tmp_path / "good")


def test_blank_places_are_skipped_and_the_rate_is_said_and_kept(tmp_path, config, capsys):
    gray = np.random.default_rng(0).integers(60, 190, (6, 40, 80)).astype(np.uint8)
    gray[:, :, 40:] = 0
    half, full = write(tmp_path / "half.h5", gray), write(tmp_path / "full.h5", gray[:, :, :40])
    changes = {"volumes": [half, full], "sample": "content", "crops": 20}
    config = build(Config, {**to_dict(config), **changes})
    run(config)
    shards = open_shards(config.out)
    tried = [volume["tried"] for volume in shards.index.volumes]
    assert 30 < tried[0] < 60 and tried[1] == 20
    metas = [shards.read(number)[1] for number in range(40)]
    assert sum(meta["tried"] for meta in metas[:20]) == tried[0]
    said = capsys.readouterr().out
    assert f"{half}: content at 20 of {tried[0]} ({2000 / tried[0]:.3g} %) places tried" in said
    (config.out / "shard-000001.tar").unlink()
    before = (config.out / "index.json").read_text()
    run(config)
    assert (config.out / "index.json").read_text() == before
    stricter = build(Config, {**to_dict(config), "content": {"flat": 0.1}})
    with pytest.raises(ConfigError, match="content was .*choose another --out"):
        run(stricter)


def test_percentiles_are_a_choice_and_part_of_the_request(tmp_path, config, volumes):
    config = build(Config, {**to_dict(config), "percentiles": [10, 90]})
    run(config)
    wide = open_volume(volumes[1]).read()
    mapping = open_shards(config.out).index.volumes[1]["mapping"]
    assert (mapping["low"], mapping["high"]) == tuple(np.percentile(wide, (10, 90)))
    with pytest.raises(ConfigError, match="percentiles was .10.0, 90.0., is .0.5, 99.5."):
        run(build(Config, {**to_dict(config), "percentiles": [0.5, 99.5]}))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"crops": 0}, "crops"),
        ({"crop": [0, 4, 4]}, "crop"),
        ({"seed": -1}, "seed"),
        ({"percentiles": [60, 40]}, "percentiles rise"),
        ({"percentiles": [-1, 99]}, "percentiles rise"),
        ({"volumes": []}, "--volumes FILE, --dataset NAME or --images FOLDER; or --verify FOLDER"),
        ({"images": ["a"], "crop": [1, 8, 8]}, "--volumes and --images exclude each other"),
        ({**PHOTOS, "dataset": ["fib25"]}, "--dataset and --images exclude each other"),
        ({**PHOTOS, "verify": "shards"}, "--images and --verify exclude each other"),
        ({**PHOTOS, "preview": "a.png"}, "--images and --preview exclude each other"),
        (
            {**PHOTOS, "crop": [16, 160, 160]},
            r"depth of crop .16, .* must be 1, as in --crop 1,160",
        ),
        ({**PHOTOS, "sample": "content"}, "--images are written as shards of uniform crops"),
        ({**PHOTOS, "write": "hdf5"}, "--images are written as shards of uniform crops"),
        ({"dataset": ["fib25"]}, "--volumes and --dataset exclude each other"),
        ({"verify": "shards"}, "--volumes and --verify exclude each other"),
        ({"volumes": [], "verify": "a", "preview": "a.png"}, "--verify and --preview exclude"),
        ({"out": None}, "out is missing: say where to write with --out"),
        ({"source": ["b.h5"]}, "--source and --split belong to one --dataset"),
        ({"preview": "a.jpg"}, "preview is a PNG"),
        ({"volumes": [], "out": None, "verify": "a", "content": {"flat": 2}}, "flat"),
    ],
)
def test_requests_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        build(Config, {"volumes": ["a.h5:raw"], "out": "out", **change})


def test_a_data_set_is_read_from_the_users_own_copy(tmp_path, capsys):
    gray = np.random.default_rng(0).integers(0, 256, (20, 24, 24)).astype(np.uint8)
    spec = write(tmp_path / "mine.h5", gray, voxel_size=None)
    words = ["--dataset", "fib25", "--crops", "3", "--crop", "4,8,8", "--out", f"{tmp_path}/out"]
    assert main("prepare", [*words, "--source", spec]) == 0
    volume = open_shards(tmp_path / "out").index.volumes[0]
    assert (volume["dataset"], volume["path"]) == ("fib25", spec)
    assert volume["voxel_size"] is not None
    capsys.readouterr()
    assert main("prepare", [*words, "--source", spec, spec]) == 2
    assert "--source: 2 given" in capsys.readouterr().err
    assert main("prepare", ["--dataset", "fib52", "--out", "x", "--dry-run"]) == 2
    assert "did you mean 'fib25'" in capsys.readouterr().err


def test_verify_finds_what_has_changed_and_prepare_repairs_it(config, capsys):
    run(config)
    verify = ["--verify", str(config.out)]
    assert main("prepare", [*verify, "--dry-run"]) == 0
    assert "samples: 10, shards: 3" in " ".join(capsys.readouterr().out.split())
    assert main("prepare", verify) == 0
    assert "shards: 3, crops: 10, 0.0 MB; all as index.json says" in capsys.readouterr().out
    tar = config.out / "shard-000001.tar"
    good = tar.read_bytes()
    tar.write_bytes(good[:2000] + b"x" + good[2001:])
    assert main("prepare", verify) == 4
    said = capsys.readouterr()
    assert "shard-000001.tar: sha256 is" in said.out and said.err.count("error: ") == 1
    tar.unlink()
    run(config)
    assert tar.read_bytes() == good and main("prepare", verify) == 0


@pytest.mark.parametrize("names", [[], ["labelled"], ["raw"]])
def test_preview_draws_one_picture_and_writes_nothing_else(tmp_path, volumes, names, monkeypatch):
    drawn = {}

    def draw(path, crop, labels=None, **words):
        path.write_bytes(b"picture")
        drawn.update(words, crop=crop, labels=labels)

    monkeypatch.setattr(prepare, "draw_contact_sheet", draw)
    known = {"labelled": "synthetic:seed=2,shape=8x48x48", "raw": volumes[0]}
    picture = tmp_path / "pictures"
    picture.mkdir()
    given = {"volumes": [known[name] for name in names], "preview": picture / "p.png"}
    config = build(Config, {**given, "crop": [4, 16, 16], "seed": 5, "augment": {"p": 0.5}})
    assert plan(config)["files"] == [str(picture / "p.png")]
    assert run(config) == {}
    assert [path.name for path in picture.iterdir()] == ["p.png"]
    assert drawn["crop"].shape == (4, 16, 16) and drawn["crop"].dtype == np.uint8
    assert (drawn["labels"] is None) == (names == ["raw"])
    assert drawn["config"] == config.augment and drawn["seed"] == 5
    assert drawn["voxel_size"] == (VOXEL if names == ["raw"] else (35.0, 8.0, 8.0))


def test_two_jobs_for_one_folder_are_refused(config):
    with writing_to(config.out, results="*.tar"):
        with pytest.raises(HostError, match="is writing to it; wait for it, or choose another"):
            run(config)
        assert [path.name for path in config.out.iterdir()] == [".lock"]
    run(config)


def test_a_large_volume_is_sampled_in_little_memory(tmp_path):
    large = tensorstore.open(  # 64 GiB, of which some kB are on disk
        {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/large.zarr"}},
        create=True,
        dtype=tensorstore.uint16,
        shape=[4096, 4096, 2048],
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=[64] * 3),
    ).result()
    block = np.random.default_rng(0).integers(0, 9999, (64, 64, 64)).astype(np.uint16)
    large[480:544, 480:544, 224:288] = block
    # Not getrusage: its peak is inherited from the process that started this one.
    code = (
        "import sys; from pathlib import Path; from tokenunify_scale.cli import main; "
        "code = main('prepare', sys.argv[1:]); "
        "status = Path('/proc/self/status').read_text().split(); "
        "print(code, int(status[status.index('VmHWM:') + 1]) // 1024)"
    )
    words = ["--volumes", f"{tmp_path}/large.zarr", "--crops", "20", "--out", f"{tmp_path}/out"]
    words += ["--percentiles", "0,100"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    code, mebibytes = map(int, done.stdout.split()[-2:])
    assert code == 0 and mebibytes < 1024, done.stderr


@pytest.fixture
def photos(tmp_path):
    """A request for crops of five images, one of which is too small for them."""
    rng = np.random.default_rng(0)
    for name, sides in {
        "a": (20, 30),
        "b/c": (16, 16),
        "d": (64, 9),
        "e": (7, 99),
        "f": (8, 8),
    }.items():
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*sides, 3)).astype(np.uint8)).save(path)
    folder = str(tmp_path / "photos")
    return Config(images=(folder,), out=tmp_path / "out", crops=5, crop=(1, 8, 8), per_shard=6)


def test_a_folder_of_photographs_becomes_shards_that_a_stream_reads(photos, capsys):
    planned = plan(photos)
    assert not photos.out.exists()
    result = run(photos)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 of 5 images are smaller than 8x8: left out"
    for key in ("samples", "shards", "bytes", "volumes"):
        assert planned[key] == result[key]
    assert result["samples"] == 20 and result["shards"] == 4
    shards = open_shards(photos.out)
    assert (shards.index.channels, shards.index.crop) == (3, (1, 8, 8))
    assert shards.index.voxel_size is None and len(shards.index.volumes) == 1
    facts = shards.index.volumes[0]
    assert (facts["path"], facts["images"], facts["left_out"]) == (photos.images[0], 4, 1)
    for number in range(20):
        crop, meta = shards.read(number)
        assert meta["volume"] == 0
        (_, y, x), (_, bottom, right) = meta["box"]
        with Image.open(Path(photos.images[0]) / meta["image"]) as image:
            part = np.asarray(image)[y:bottom, x:right]
        assert np.array_equal(crop.transpose(1, 2, 0), part)
    batch = Stream([photos.out], seed=0).batch(0, 4)["crops"]
    assert batch.shape == (4, 3, 1, 8, 8)
    assert main("prepare", ["--verify", str(photos.out)]) == 0
    run(photos)
    assert "all 20 crops are there already" in capsys.readouterr().out


def test_photographs_too_are_continued_after_a_kill_and_refused_when_they_change(
    tmp_path, photos, monkeypatch
):
    written, write_tar = [], pack._write_tar

    def dies_at_the_third(path, samples):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_tar(path, samples)

    monkeypatch.setattr(pack, "_write_tar", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(photos)
    run(photos)
    assert written[2:] == ["shard-000002.tar"] * 2 + ["shard-000003.tar"]
    undisturbed = build(Config, {**to_dict(photos), "out": tmp_path / "undisturbed"})
    run(undisturbed)
    assert hashes(photos.out) == hashes(undisturbed.out)
    (tmp_path / "photos" / "f.png").rename(tmp_path / "photos" / "g.png")
    with pytest.raises(ConfigError, match="volumes was .*choose another --out"):
        run(photos)


def test_bad_photographs_are_one_line_and_leave_nothing(tmp_path, photos, capsys):
    words = ["--images", *photos.images, "--out", str(tmp_path / "made" / "out"), "--crop"]
    for crop, code, said in (
        ("1,65,8", 4, "photos/d.png, has 64x9 pixels"),
        ("16,8,8", 2, "--crop 1,160,160"),
    ):
        assert main("prepare", [*words, crop]) == code
        assert said in capsys.readouterr().err
    (tmp_path / "photos" / "bad.png").write_bytes(b"<html>")
    for dry_run in ([], ["--dry-run"]):
        assert main("prepare", [*words, "1,8,8", *dry_run]) == 4
        errors = capsys.readouterr().err.splitlines()
        assert sum("1 of 6 images cannot be used" in line for line in errors) == 1
    assert not (tmp_path / "made").exists()


def start(*words, ranks=None):
    """Start ``prepare`` on some ranks, or without MPI."""
    command = [sys.executable, ROOT / "scripts" / "prepare.py", *map(str, words)]
    if ranks is not None:
        command = [MPIRUN, "--oversubscribe", "-n", str(ranks), *command]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **allowed}, cwd=ROOT, **pipes)


def children(process):
    """Ids of the processes that a process has started."""
    found = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(word) for word in Path(found).read_text().split()]


@pytest.fixture
def job(tmp_path):
    """A request with content to look for, and its folder as one process leaves it."""
    gray = np.random.default_rng(0).integers(60, 190, (20, 80, 160)).astype(np.uint8)
    gray[:, :, 80:] = 255
    half, wide = write(tmp_path / "h.h5", gray), write(tmp_path / "w.h5", gray.astype(np.uint16))
    words = ["--volumes", half, wide, "--crops", 600, "--crop", "8,48,48", "--per-shard", 20]
    words += ["--sample", "content", "--looks-like-labels", "allow"]
    assert main("prepare", list(map(str, [*words, "--out", tmp_path / "alone"]))) == 0
    return words, tmp_path


def written(folder):
    """Everything that must not depend on who wrote it."""
    names = ("config.yaml", "environment.json", "result.json")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in names}


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_writes_the_same_bytes(job, ranks):
    words, folder = job
    process = start(*words, "--out", folder / "out", ranks=ranks)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert written(folder / "out") == written(folder / "alone")
    result = json.loads((folder / "out" / "result.json").read_text())
    assert (result["samples"], result["shards"]) == (1200, 60)
    assert out.count("content at 600 of") == 2 and out.count("crops: 1200") == 1


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks, then", [(3, 2), (None, 3)])
def test_a_killed_job_is_continued_by_another_number_of_ranks(job, ranks, then):
    words, folder = job
    out = folder / "out"
    process = start(*words, "--out", out, ranks=ranks)
    deadline = time.monotonic() + 60
    while len(list(out.glob("shard-*.tar"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(children(process)[-1] if ranks else process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    assert 6 <= len(kept) < 60 and not (out / "index.json").exists()
    process = start(*words, "--out", out, ranks=then)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert written(out) == written(folder / "alone")
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())


@needs_mpi
@pytest.mark.slow
def test_an_error_on_one_rank_is_one_line_and_the_code_of_one_process(tmp_path, volumes):
    bad = write(tmp_path / "bad.h5", np.full(SHAPE, 7, np.uint8))
    words = ["--volumes", volumes[0], bad, "--crop", "3,8,8", "--sample", "content"]
    process = start(*words, "--out", tmp_path / "made" / "out", ranks=2)
    _, err = process.communicate(timeout=120)
    errors = [line for line in err.splitlines() if "error: " in line]
    assert process.returncode == 4 and len(errors) == 1 and "bad.h5:raw: practically" in errors[0]
    assert not (tmp_path / "made").exists()


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
