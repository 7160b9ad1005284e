"""Segment a volume larger than memory: block by block but for the graph of its fragments.

Fragments end at the faces of blocks, and the graph joins them again: the edges across a face count
as those inside. One table of edges is summed from those of the blocks, agglomerated as a whole, and
what it says of each fragment is written back, block by block.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from tokenunify_scale.postprocess import stages
from tokenunify_scale.postprocess.outcome import FRAGMENTS, Outcome, Segments
from tokenunify_scale.postprocess.stages import Job
from tokenunify_scale.train.runlog import track
from tokenunify_scale.volumes.blocks import Block, Facts, blocks_of, run_blocks


def segment_blocks(job: Job, *, workers: int = 1) -> Outcome:
    """Segment by blocks, or go on where a run that was killed has stopped.

    Args:
        job: what to do.
        workers: processes; the result does not depend on them.

    Raises:
        ConfigError: the method cannot agglomerate a graph.
        DataError: affinities that hold NaN, or values outside [0, 1]; where.
        HostError: the disk is full, a worker ended, or a package is absent.
    """
    blocks = blocks_of(job.shape, block=job.block, halo=job.halo)
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[Job, Block], Any]) -> list[Facts]:
        begun = time.monotonic()
        facts = run_blocks(
            blocks,
            functools.partial(work, job),
            folder=job.folder / name,
            workers=workers,
            progress=lambda items, total: track(items, description=name, total=total, unit="block"),
        )
        seconds[name] = time.monotonic() - begun
        return facts

    stages.affinities.cache_clear()
    job.store(FRAGMENTS)
    found = stage("fragments", stages.cut_fragments)
    stage("edges", stages.measure_edges)
    begun = time.monotonic()
    if stages.tables(job) is None:
        stages.join(job, blocks, [facts["count"] for facts in found])
    seconds["graph"] = time.monotonic() - begun
    for name in stages.tables(job):
        job.store(name)
    written = stage("segments", stages.write_segments)
    stages.affinities.cache_clear()
    return _outcome(job, found, written, seconds)


def _outcome(
    job: Job, found: Sequence[Facts], written: Sequence[Facts], seconds: dict[str, float]
) -> Outcome:
    """Counts of all blocks together."""
    told, voxels = stages.tables(job), math.prod(job.shape)
    segments = {}
    for name, each in told.items():
        background = sum(facts[name] for facts in written) / voxels
        segments[name] = Segments(each["threshold"], each["count"], each["removed"], background)
    return Outcome(
        {name: job.store(name) for name in (*told, FRAGMENTS)},
        segments,
        fragments=sum(facts["count"] for facts in found),
        blocks=len(found),
        stages=seconds,
    )
