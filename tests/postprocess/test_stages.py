"""One block at a time: ids of its own, edges that it owns, tables that hold for all."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.postprocess.drifting import HALO, columns, flipped, perfect, predicted
from tests.postprocess.drifting import job as job_of
from tokenunify_scale.postprocess import stages
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import Edges
from tokenunify_scale.postprocess.phases import needed
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.volumes.blocks import blocks_of
from tokenunify_scale.volumes.geometry import Box

SHAPE, BLOCK = (8, 40, 44), (4, 24, 24)


@pytest.fixture
def begun(tmp_path):
    """A job whose fragments are cut, its blocks, its affinities and the counts."""
    stages.affinities.cache_clear()
    affinities = flipped(perfect(columns(SHAPE, count=8)), 0.05)
    options = WaterzConfig(scoring="mean", threshold=(0.4, 0.6))
    folder = predicted(tmp_path, affinities)
    job = job_of(folder, tmp_path / "work", block=BLOCK, options=options, min_size=30)
    blocks = blocks_of(SHAPE, block=BLOCK, halo=HALO)
    for name in ("fragments", "edges"):
        (job.folder / name).mkdir()
    # The last block first: no id may depend on the order.
    counts = [stages.cut_fragments(job, block)["count"] for block in blocks[::-1]][::-1]
    return job, blocks, affinities.astype(np.float32), counts


def fragments_of(job):
    return job.store("fragments").read(Box.of(SHAPE))


def test_ids_are_unique_consecutive_in_a_block_and_their_sizes_are_kept(begun):
    job, blocks, _, counts = begun
    whole = fragments_of(job)
    seen = set()
    for block, count in zip(blocks, counts, strict=True):
        ids, sizes = np.unique(whole[block.write.slices], return_counts=True)
        first = job.last_before(block) + 1
        assert ids.tolist() == list(range(first, first + count)) and not seen & set(ids)
        seen |= set(ids)
        kept = np.load(job.folder / "fragments" / f"{block.index:06d}.npy")
        assert np.array_equal(kept, sizes)


@pytest.mark.parametrize("scoring", ["mean", "paper", "median"])
def test_the_edges_of_all_blocks_are_those_of_the_whole(begun, scoring):
    job, blocks, affinities, counts = begun
    job = replace(job, options=WaterzConfig(scoring=scoring))
    for block in blocks[::-1]:
        stages.measure_edges(job, block)
    nodes, kept = stages._nodes(job, blocks, counts), needed(job.options)
    assert np.array_equal(nodes, np.unique(fragments_of(job)))
    paths = [job.folder / "edges" / f"{block.index:06d}.npz" for block in blocks]
    found = Contacts.read(paths, nodes, needed=kept)
    whole = Contacts.of(Edges.of(affinities, fragments_of(job)), nodes, needed=kept)
    for name in ("ends", "count", "total", "length"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name
    for each in range(len(whole) if kept != "sums" else 0):
        one, other = (slice(c.begin[each], c.begin[each] + c.length[each]) for c in (found, whole))
        assert np.array_equal(found.bins[one], whole.bins[other])
        assert np.array_equal(found.times[one], whole.times[other])


def test_tables_are_told_when_they_are_all_there(begun):
    job, blocks, _, counts = begun
    for block in blocks:
        stages.measure_edges(job, block)
    assert stages.tables(job) is None
    stages.join(job, blocks, counts)
    told = stages.tables(job)
    assert list(told) == ["segmentation", "segmentation_0.6"]
    assert told == json.loads((job.folder / stages.TABLE).read_text())
    assert told["segmentation"]["threshold"] == 0.4 and told["segmentation"]["count"] > 1
    fewer = told["segmentation_0.6"]
    assert fewer["count"] <= told["segmentation"]["count"]


@pytest.mark.parametrize("dissolve", ["nearest", "background"])
def test_specks_go_to_their_surroundings_or_to_background(begun, dissolve):
    job, blocks, _, counts = begun
    job = job_of(
        job.folder.parent, job.folder, block=BLOCK, options=job.options, min_size=30,
        dissolve=dissolve,
    )  # fmt: skip
    for block in blocks:
        stages.measure_edges(job, block)
    stages.join(job, blocks, counts)
    background = [stages.write_segments(job, block) for block in blocks]
    for name, told in stages.tables(job).items():
        found = job.store(name).read(Box.of(SHAPE))
        assert sum(each[name] for each in background) == np.count_nonzero(found == 0)
        assert (dissolve == "background") == bool((found == 0).any()) or not told["removed"]
        ids = np.unique(found[found > 0])
        assert ids.tolist() == list(range(1, told["count"] + 1))


def test_ids_far_above_what_a_float_tells_apart_are_segmented_alike(begun, tmp_path, monkeypatch):
    job, blocks, _, counts = begun
    for block in blocks:
        stages.measure_edges(job, block)
    stages.join(job, blocks, counts)
    for block in blocks:
        stages.write_segments(job, block)
    expected = job.store("segmentation").read(Box.of(SHAPE))
    plain = stages.Job.last_before
    monkeypatch.setattr(stages.Job, "last_before", lambda job, b: (1 << 62) + plain(job, b))
    high = job_of(tmp_path, tmp_path / "high", block=BLOCK, options=job.options, min_size=30)
    for name in ("fragments", "edges"):
        (high.folder / name).mkdir()
    for block in blocks:
        stages.cut_fragments(high, block)
    for block in blocks:
        stages.measure_edges(high, block)
    stages.join(high, blocks, counts)
    for block in blocks:
        stages.write_segments(high, block)
    assert fragments_of(high).min() > 1 << 62
    assert np.array_equal(high.store("segmentation").read(Box.of(SHAPE)), expected)
