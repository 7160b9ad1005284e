import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorstore
import torch

from tokenunify_scale import build_model, predict
from tokenunify_scale.cli import main
from tokenunify_scale.config import Named
from tokenunify_scale.inference import predictor, tasks
from tokenunify_scale.measure.memory import STATUS
from tokenunify_scale.models.load import describe
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import save_weights
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import read_hdf5, write_hdf5
from tokenunify_scale.volumes.volume import open_volume

TILES = {"tile": (8, 32, 32), "overlap": (2, 8, 8)}
LEFT = {"config.yaml", "environment.json", "result.json", ".held"}
SMALL = (4, 16, 16)
RANK = f"""
import os, sys, time
from tokenunify_scale import predict
from tokenunify_scale.cli import main
from tokenunify_scale.inference import ledger, predictor, tasks
for module in (predict, predictor, tasks):
    module.CHUNK = {SMALL}
if "SLOW" in os.environ:
    mark = ledger.Ledger.mark
    ledger.Ledger.mark = lambda *all: (mark(*all), time.sleep(60))
sys.exit(main("predict", sys.argv[1:]))
"""


@pytest.fixture
def small_chunks(monkeypatch):
    """A small volume, cut into many tasks."""
    for module in (predict, predictor, tasks):
        monkeypatch.setattr(module, "CHUNK", SMALL)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "a.h5"
    with open_volume("synthetic:seed=5,shape=16x64x64") as volume:
        told = {"raw": {"voxel_size": volume.voxel_size}}
        write_hdf5(path, {"raw": volume.read()}, attributes=told)
    return f"{path}:raw"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with weights of atto that were never trained to affinities, and say they were."""
    torch.manual_seed(0)
    name, folder = "emmamba_atto", tmp_path_factory.mktemp("model")
    choice = Named(name, MODELS.get(name).config)
    about = describe(choice, in_channels=1, out_channels=3, objective="affinity")
    save_weights(folder, build_model(name).state_dict(), about)
    return folder


def predicted(model, raw, out, **changes):
    """The affinities that a prediction writes, and what result.json holds."""
    result = predict.run(predict.Config(model=model, volume=raw, out=out, **{**TILES, **changes}))
    return read_hdf5(out / "affinities.h5", "affinities")[0], result


@pytest.fixture(scope="module")
def whole(model, raw, tmp_path_factory):
    """The prediction of all of the volume."""
    return predicted(model, raw, tmp_path_factory.mktemp("whole"))[0]


def test_affinities_carry_their_convention(model, raw, tmp_path):
    words = ["--model", model, "--volume", raw, "--sections", "4:12", "--out", tmp_path]
    words += ["--tile", "8,32,32", "--overlap", "0,8,8"]
    assert main("predict", [str(word) for word in words]) == 0
    affinities, attributes = read_hdf5(tmp_path / "affinities.h5", "affinities")
    assert affinities.shape == (3, 8, 64, 64) and affinities.dtype == np.float32
    assert np.array_equal(attributes["offsets"], np.eye(3)) and attributes["axes"] == "czyx"
    assert list(attributes["offset"]) == [4, 0, 0] and list(attributes["voxel_size"]) == [35, 8, 8]
    assert attributes["scale"] == 1 and attributes["convention"] == "edge (p, p - offset)"
    assert read_result(tmp_path)["voxels"] == [8, 64, 64]
    assert {path.name for path in tmp_path.iterdir()} == LEFT | {"affinities.h5"}


@pytest.mark.parametrize(
    "part, changes",
    [
        (Box((4, 0, 0), (9, 64, 64)), {"sections": (4, 9)}),
        (Box((3, 5, 7), (14, 64, 40)), {"box": "3,5,7..14,64,40"}),
    ],
)
def test_a_part_is_predicted_as_within_the_whole(part, changes, whole, model, raw, tmp_path):
    found, result = predicted(model, raw, tmp_path, **changes)
    assert np.array_equal(found, whole[(slice(None), *part.slices)])
    assert result["metrics"]["mean_affinity"] == pytest.approx(found.mean(dtype=np.float64))


@pytest.mark.parametrize("changes", [{"batch": 3}, {"memory_MiB": 1}])
def test_neither_batch_nor_budget_change_a_prediction(
    changes, whole, model, raw, tmp_path, small_chunks
):
    config = predict.Config(model=model, volume=raw, out=tmp_path, **TILES, **changes)
    assert (predict.plan(config)["tasks"] > 1) == ("memory_MiB" in changes)
    found, _ = predicted(model, raw, tmp_path, **changes)
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_zarr_and_smaller_types_hold_the_same(whole, model, raw, tmp_path):
    config = {"model": model, "volume": raw, **TILES}
    predicted(model, raw, tmp_path)  # an older output in another format
    predict.run(predict.Config(out=tmp_path, format="zarr", dtype="uint8", **config))
    assert not (tmp_path / "affinities.h5").exists()
    store = Boxed.open(tmp_path / "affinities.zarr")
    assert store.attributes["scale"] == 255 and store.dtype == np.uint8
    assert np.array_equal(store.read(Box.of((16, 64, 64))), np.rint(whole * np.float32(255)))
    array = tensorstore.open(
        {"driver": "zarr", "kvstore": f"file://{tmp_path}/affinities.zarr/"}
    ).result()
    assert array.shape == (3, 16, 64, 64)
    half, _ = predicted(model, raw, tmp_path, dtype="float16")
    assert half.dtype == np.float16 and np.array_equal(half, whole.astype(np.float16))


def test_the_plan_tells_tiles_tasks_memory_and_output(model, raw, tmp_path):
    config = predict.Config(model=model, volume=raw, out=tmp_path, tta="flips", **TILES)
    plan = predict.plan(config)
    assert plan["tiles"] == plan["tiles_computed"] == 3 * 3 * 3 and plan["views"] == 8
    assert plan["tasks"] == plan["ranks"] == 1
    assert plan["output_MiB"] == round(3 * 16 * 64 * 64 * 4 / 2**20, 1)
    held = plan["memory_per_rank_MiB"]
    assert held["total"] == pytest.approx(sum(held.values()) - held["total"], abs=0.3)
    assert not (tmp_path / "config.yaml").exists()


def start(*words, **environment):
    """A process that predicts with small chunks."""
    return subprocess.Popen(
        [sys.executable, "-c", RANK, *map(str, words)],
        env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_share_the_tasks_and_change_nothing(ranks, whole, model, raw, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--model", model, "--volume", raw, "--out", tmp_path]
    words += ["--tile", "8,32,32", "--overlap", "2,8,8"]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    jobs = [start(*words, RANK=str(r), LOCAL_RANK=str(r), **meeting) for r in range(ranks)]
    said = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * ranks, said
    found, _ = read_hdf5(tmp_path / "affinities.h5", "affinities")
    assert np.array_equal(found, whole)
    result = read_result(tmp_path)
    assert result["world"] == ranks
    assert result["metrics"]["mean_affinity"] == pytest.approx(whole.mean(dtype=np.float64))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_a_killed_prediction_goes_on_and_computes_nothing_twice(
    model, raw, whole, tmp_path, small_chunks, monkeypatch, capsys
):
    out = tmp_path
    words = ["--model", model, "--volume", raw, "--out", out, "--format", "zarr"]
    words += ["--tile", "8,32,32", "--overlap", "2,8,8"]
    # It sleeps once the first sections are written, so that it is met there.
    job, mark = start(*words, SLOW="1"), out / "progress" / "task-000000.json"
    until(mark.is_file)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    done = json.loads(mark.read_text())["until"]
    assert 0 < done < 16 and not (out / "result.json").exists()

    assert main("predict", [str(word) for word in [*words, "--dtype", "uint8"]]) == 2
    error = capsys.readouterr().err
    assert "dtype float32, this one has uint8" in error and len(error.splitlines()) == 1

    written, write = [], Boxed.write
    monkeypatch.setattr(Boxed, "write", lambda s, box, v: written.append(box) or write(s, box, v))
    assert main("predict", [str(word) for word in [*words, "--batch", "2"]]) == 0
    assert written[0].start[0] == done and written[-1].stop[0] == 16
    found = Boxed.open(out / "affinities.zarr").read(Box.of((16, 64, 64)))
    np.testing.assert_allclose(found, whole, atol=1e-6)
    mean = read_result(out)["metrics"]["mean_affinity"]
    assert mean == pytest.approx(whole.mean(dtype=np.float64))
    assert {path.name for path in out.iterdir()} == LEFT | {"affinities.zarr"}


def test_a_finished_prediction_starts_anew(model, raw, tmp_path):
    predicted(model, raw, tmp_path)
    again, _ = predicted(model, raw, tmp_path, sections=(0, 8))
    assert again.shape[1] == 8


PEAK = """
import sys
from tokenunify_scale.cli import main
from tokenunify_scale.measure.planned import highest
code = main("predict", sys.argv[1:])
print(highest() if code == 0 else code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_volume(model, tmp_path):
    """Three times the sections: 120 MiB more of affinities, and hardly more memory."""
    peaks = []
    for depth in (80, 240):
        raw = np.random.default_rng(0).integers(0, 256, (depth, 256, 256), dtype=np.uint8)
        write_hdf5(tmp_path / f"{depth}.h5", {"raw": raw})
        words = ["--model", model, "--volume", tmp_path / f"{depth}.h5", "--out"]
        words += [tmp_path / f"out{depth}", "--tile", "16,128,128", "--overlap", "0,16,16"]
        words += ["--format", "zarr"]
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, words)],
                              capture_output=True, text=True, timeout=600)  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 2**20)
        assert read_result(tmp_path / f"out{depth}")["voxels"] == [depth, 256, 256]
    assert peaks[0] > 100 and peaks[1] - peaks[0] < 30


@pytest.mark.parametrize(
    "words, hint",
    [
        (["--overlap", "16,0,0"], "overlap (16, 0, 0)"),
        (["--overlap", "4,8,8", "--context", "0,5,0"], "twice the context (0, 5, 0)"),
        (["--sections", "4:99"], "99"),
        (["--box", "0,0,0..4,99,9"], "(16, 64, 64)"),
        (["--box", "0,0,0..4,9"], "expected z,y,x..z,y,x"),
        (["--box", "0,0,0..4,9,9", "--sections", "0:4"], "not both"),
        (["--tta", "flip"], "did you mean 'flips'"),
        (["--memory-MiB", "1"], "memory_MiB 1 does not hold one column"),
    ],
)
def test_what_cannot_be_predicted_is_refused(words, hint, model, raw, tmp_path, capsys):
    base = ["--model", model, "--volume", raw]
    code = main("predict", [str(w) for w in [*base, *words, "--out", tmp_path]])
    assert code in (2, 4) and hint in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_pretraining_run_predicts_no_affinities(pretrained, tmp_path, capsys):
    words = ["--model", str(pretrained), "--volume", "synthetic:shape=16x64x64"]
    assert main("predict", [*words, "--out", str(tmp_path)]) == 2
    assert "fine-tune it first" in capsys.readouterr().err
