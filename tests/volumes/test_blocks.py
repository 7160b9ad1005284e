"""Blocks cover a volume once; each is done once, whoever does it and however often it is begun."""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.volumes import blocks as module
from tokenunify_scale.volumes.blocks import Block, beyond, blocks_of, done, run_blocks
from tokenunify_scale.volumes.geometry import Box

SHAPE, BLOCK, HALO = (10, 20, 17), (4, 8, 8), (1, 3, 2)


def begun(folder, block):
    """Leave a trace of each time that a block's work is begun, and by whom."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{block.index}").open("a") as file:
        file.write(f"{os.getpid()}\n")


def work(folder, block: Block):
    begun(folder, block)
    return {"voxels": int(np.prod(block.write.shape))}


def slow(folder, block: Block):
    begun(folder, block)
    time.sleep(0.2)


def picky(kind, folder, block: Block):
    begun(folder, block)
    if block.index == 3:
        raise kind("values\nrange over [0, 7]")


def fatal(folder, block: Block):
    if block.index == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def traces(folder):
    return {int(file.name): file.read_text().split() for file in folder.iterdir()}


def test_blocks_cover_the_volume_once_in_raster_order():
    cover = np.zeros(SHAPE, int)
    found = blocks_of(SHAPE, block=BLOCK, halo=HALO)
    for place, block in enumerate(found):
        cover[block.write.slices] += 1
        assert block.index == place
    assert (cover == 1).all() and len(found) == 3 * 3 * 3
    assert found[1].write == Box((0, 0, 8), (4, 8, 16))


def test_a_block_reads_its_halo_as_far_as_the_volume_goes():
    first, *_, last = blocks_of(SHAPE, block=BLOCK, halo=HALO)
    assert first.read == Box((0, 0, 0), (5, 11, 10))
    assert last.write == Box((8, 16, 16), SHAPE) and last.read == Box((7, 13, 14), SHAPE)
    assert beyond(Box.of((2, 2, 2)), (1, 0, 0), (0, 0, 5)) == Box((-1, 0, 0), (2, 2, 7))


def test_a_block_without_voxels_or_a_negative_halo_is_refused():
    with pytest.raises(ValueError, match="must be >= 1"):
        blocks_of(SHAPE, block=(0, 8, 8), halo=HALO)
    with pytest.raises(ValueError, match=">= 0"):
        blocks_of(SHAPE, block=BLOCK, halo=(0, -1, 0))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_block_is_done_once_and_what_it_returns_comes_back_in_order(tmp_path, workers):
    blocks = blocks_of(SHAPE, block=(5, 10, 17), halo=HALO)
    call = functools.partial(work, tmp_path / "traces")
    seen = []

    def progress(items, total):
        assert total == 4
        for item in items:
            seen.append(item)
            yield item

    marks = {"folder": tmp_path / "marks", "workers": workers}
    facts = run_blocks(blocks, call, progress=progress, **marks)
    assert [each["voxels"] for each in facts] == [5 * 10 * 17] * 4
    found = traces(tmp_path / "traces")
    assert sorted(found) == sorted(seen) == [0, 1, 2, 3]
    assert all(len(each) == 1 for each in found.values())
    ours = {who for each in found.values() for who in each} == {str(os.getpid())}
    assert ours == (workers == 1)
    assert run_blocks(blocks, call, **marks) == facts, "nothing is done again"
    assert traces(tmp_path / "traces") == found
    assert not (tmp_path / "marks" / "logs").exists()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [DataError, ConfigError])
def test_an_error_of_a_worker_is_one_line_that_says_where(tmp_path, workers, kind):
    blocks = blocks_of((16, 8, 8), block=(2, 8, 8), halo=(0, 0, 0))
    marks = {"folder": tmp_path / "marks", "workers": workers}
    with pytest.raises(kind, match=r"\[0, 7\].*block that begins at \(6, 0, 0\)") as caught:
        run_blocks(blocks, functools.partial(picky, kind, tmp_path / "t"), **marks)
    assert "\n" not in " ".join(str(caught.value).split())
    assert done(blocks, folder=tmp_path / "marks") < 8
    facts = run_blocks(blocks, functools.partial(work, tmp_path / "again"), **marks)
    assert len(facts) == 8 and len(traces(tmp_path / "again")) < 8, "the others are not repeated"


def test_an_error_nobody_expected_brings_its_traceback(tmp_path):
    blocks = blocks_of((8, 8, 8), block=(2, 8, 8), halo=(0, 0, 0))
    call = functools.partial(picky, KeyError, tmp_path / "t")
    with pytest.raises(RuntimeError, match=r"(?s)KeyError.*Traceback.*in picky"):
        run_blocks(blocks, call, folder=tmp_path / "marks", workers=2)


def test_a_worker_that_is_killed_is_an_error_of_the_host(tmp_path):
    blocks = blocks_of((8, 8, 8), block=(2, 8, 8), halo=(0, 0, 0))
    call = functools.partial(fatal, tmp_path / "t")
    with pytest.raises(HostError, match="1 of 4 blocks are not done.*code -9.*fewer workers"):
        run_blocks(blocks, call, folder=tmp_path / "marks", workers=2)
    assert done(blocks, folder=tmp_path / "marks") == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_with_the_blocks_that_are_missing(tmp_path, workers):
    code = (
        "import functools, pathlib\n"
        "from tests.volumes.test_blocks import blocks_of, run_blocks, slow\n"
        "here = pathlib.Path('.')\n"
        "run_blocks(blocks_of((32, 8, 8), block=(2, 8, 8), halo=(0, 0, 0)),"
        " functools.partial(slow, here / 'first'),"
        f" folder=here / 'marks', workers={workers})\n"
    )
    blocks = blocks_of((32, 8, 8), block=(2, 8, 8), halo=(0, 0, 0))
    root = str(module.__file__).split("/tokenunify_scale/")[0]
    environment = {**os.environ, "PYTHONPATH": root}
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while done(blocks, folder=tmp_path / "marks") < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    time.sleep(0.5 if workers > 1 else 0)  # workers finish the block they have
    finished = {b.index for b in blocks if done([b], folder=tmp_path / "marks")}
    assert 4 <= len(finished) < 16
    call = functools.partial(work, tmp_path / "second")
    run_blocks(blocks, call, folder=tmp_path / "marks", workers=1)
    assert set(traces(tmp_path / "second")) == set(range(16)) - finished


def test_without_daisy_more_workers_are_an_error_of_the_host(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "daisy.v2", None)
    blocks = blocks_of(SHAPE, block=BLOCK, halo=HALO)
    with pytest.raises(HostError, match="pip install daisy"):
        run_blocks(blocks, functools.partial(work, tmp_path), folder=tmp_path / "m", workers=2)
