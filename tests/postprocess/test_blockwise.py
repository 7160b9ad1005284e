"""By blocks as at once but for fragments at faces; by one worker as by two; killed as never killed.

The volumes are 2 x 2 x 2 blocks of gapless neurites that drift through all sections.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.postprocess.drifting import (
    BLOCK,
    FAR,
    HALO,
    OFFSETS,
    SHAPE,
    arrays,
    columns,
    flipped,
    job,
    perfect,
    predicted,
)
from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.blockwise import segment_blocks
from tokenunify_scale.postprocess.multicut import MulticutConfig
from tokenunify_scale.postprocess.mutex import MutexConfig
from tokenunify_scale.postprocess.source import open_affinities
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.postprocess.whole import segment_whole
from tokenunify_scale.volumes.blocks import blocks_of, done

ROOT = Path(__file__).resolve().parents[2]


METHODS = {
    "waterz": ("waterz", WaterzConfig(scoring="mean"), OFFSETS),
    "waterz-median": ("waterz", WaterzConfig(scoring="median"), OFFSETS),
    "waterz-volume": ("waterz", WaterzConfig(scoring="mean", fragments="volume"), OFFSETS),
    "multicut": ("multicut", MulticutConfig(), OFFSETS),
    "mutex": ("mutex", MutexConfig(), (*OFFSETS, *FAR)),
}


@pytest.mark.parametrize("name", METHODS)
def test_eight_blocks_of_perfect_affinities_give_the_labels_back(tmp_path, name):
    method, options, offsets = METHODS[name]
    labels = columns()
    source = predicted(tmp_path, perfect(labels, offsets), offsets)
    whole = segment_whole(
        open_affinities(source), method=method, options=options, min_size=0, dissolve="nearest"
    )
    blocks = segment_blocks(job(source, tmp_path / "work", method=method, options=options))
    found = arrays(blocks)["segmentation"]
    assert blocks.blocks == 8 and found.dtype == np.uint64
    assert score(found, labels).voi < 0.01
    assert score(found, arrays(whole)["segmentation"].astype(np.int64)).voi < 0.02
    assert np.array_equal(np.unique(found), np.arange(1, found.max() + 1))


@pytest.mark.parametrize("name", METHODS)
def test_eight_blocks_of_noisy_affinities_differ_little_from_the_whole(tmp_path, name):
    method, options, offsets = METHODS[name]
    labels = columns()
    source = predicted(tmp_path, flipped(perfect(labels, offsets), 0.05), offsets)
    rules = {"method": method, "options": options, "min_size": 50, "dissolve": "nearest"}
    whole = segment_whole(open_affinities(source), **rules)
    blocks = segment_blocks(job(source, tmp_path / "work", **rules))
    assert blocks.segments["segmentation"].removed > 0
    one, other = (arrays(each)["segmentation"].astype(np.int64) for each in (whole, blocks))
    if method == "mutex":  # noise joins neurites here and there, at once as by blocks
        assert score(other, labels).voi < score(one, labels).voi + 0.2
    else:
        assert score(other, one).voi < 0.02


def test_one_block_is_the_whole(tmp_path):
    """Agglomerated by the graph, not by the library: the same segments of the same fragments."""
    labels = columns((8, 48, 56))
    source = predicted(tmp_path, flipped(perfect(labels), 0.05))
    options = WaterzConfig(scoring="mean", threshold=(0.5, 0.3))
    rules = {"method": "waterz", "options": options, "min_size": 20, "dissolve": "nearest"}
    whole = segment_whole(open_affinities(source), **rules)
    blocks = segment_blocks(job(source, tmp_path / "work", block=(8, 48, 56), **rules))
    expected, found = arrays(whole), arrays(blocks)
    assert list(found) == ["segmentation", "segmentation_0.3", "fragments"] == list(expected)
    for name in found:
        assert np.array_equal(found[name], expected[name]), name
    assert whole.segments == blocks.segments and whole.fragments == blocks.fragments


@pytest.mark.slow
def test_two_workers_give_what_one_gives(tmp_path):
    source = predicted(tmp_path, flipped(perfect(columns()), 0.05))
    options = WaterzConfig(scoring="mean", threshold=(0.5, 0.3))
    one = segment_blocks(job(source, tmp_path / "one", options=options, min_size=50))
    two = segment_blocks(job(source, tmp_path / "two", options=options, min_size=50), workers=2)
    expected, found = arrays(one), arrays(two)
    assert list(found) == ["segmentation", "segmentation_0.3", "fragments"] == list(expected)
    for name in found:
        assert np.array_equal(found[name], expected[name]), name
    assert one.segments == two.segments and one.fragments == two.fragments


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_wrong_with_the_affinities_of_a_block_is_said_with_its_place(tmp_path, workers):
    affinities = perfect(columns())
    affinities[1, 15, 80, 100] = np.nan
    source = predicted(tmp_path, affinities)
    with pytest.raises(DataError, match=r"NaN.*block that begins at \(8, 36, 44\)"):
        segment_blocks(job(source, tmp_path / "work"), workers=workers)


CHILD = """
from pathlib import Path
from tests.postprocess import drifting as here
from tokenunify_scale.postprocess.blockwise import segment_blocks
import tokenunify_scale.postprocess.stages as stages
import time
plain = stages.{slow}
def slowed(job, block):
    time.sleep(0.3)
    return plain(job, block)
stages.{slow} = slowed
segment_blocks(here.job(Path("."), Path("work"), min_size=50))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, slow",
    [
        ("fragments", "cut_fragments"),
        ("edges", "measure_edges"),
        ("segments", "write_segments"),
    ],
)
def test_a_run_killed_in_any_stage_does_what_is_missing_and_gives_the_same(tmp_path, stage, slow):
    predicted(tmp_path, flipped(perfect(columns()), 0.05))
    blocks = blocks_of(SHAPE, block=BLOCK, halo=HALO)
    marks = tmp_path / "work" / stage
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(slow=slow)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 120
    while done(blocks, folder=marks) < 3 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = {file: file.stat().st_mtime_ns for file in marks.glob("*.json")}
    assert 3 <= len(before) < 8
    again = segment_blocks(job(tmp_path, tmp_path / "work", min_size=50))
    assert {file: file.stat().st_mtime_ns for file in before} == before, "done once"
    fresh = segment_blocks(job(tmp_path, tmp_path / "fresh", min_size=50))
    for name, ids in arrays(fresh).items():
        assert np.array_equal(arrays(again)[name], ids), name
    assert again.segments == fresh.segments
