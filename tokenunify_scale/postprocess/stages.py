"""The stages of a segmentation by blocks: what is done with one block, and with the graph of all.

Each can be repeated: it writes the same files, and needs nothing of the others of its stage.
"""

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenunify_scale.postprocess.budget import chunk_of
from tokenunify_scale.postprocess.contacts import Contacts
from tokenunify_scale.postprocess.edges import Edges
from tokenunify_scale.postprocess.outcome import FRAGMENTS, names
from tokenunify_scale.postprocess.phases import needed, phases
from tokenunify_scale.postprocess.relabel import Table, compact, fill
from tokenunify_scale.postprocess.source import Affinities, open_affinities
from tokenunify_scale.postprocess.whole import Dissolve
from tokenunify_scale.train.runlog import write_atomically
from tokenunify_scale.volumes.blocks import Block, beyond
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box, Triple

TABLE = "table.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all blocks of a segmentation have in common; workers get it pickled."""

    source: str
    """A predict folder, or a spec."""
    method: str
    options: Any
    folder: Path
    """Of the stores; what is done stands there."""
    shape: Triple
    block: Triple
    halo: Triple
    voxel_size: tuple[float, float, float]
    min_size: int
    dissolve: Dissolve
    facts: dict[str, Any]
    """Attributes of what is written."""

    def store(self, name: str) -> Boxed:
        """The array of that name, made if it is missing."""
        return Boxed.create(
            self.folder / f"{name}.zarr",
            shape=self.shape,
            dtype=np.uint64,
            chunk=chunk_of(self.block),
            attributes=self.facts,
        )

    def last_before(self, block: Block) -> int:
        """Ids of a block's fragments begin behind it, whoever computes them and when."""
        return block.index * math.prod(self.block)


def cut_fragments(job: Job, block: Block) -> dict[str, Any]:
    """Fragments of a block, seen with its halo, with ids that no other block has; their sizes."""
    source = affinities(job.source)
    seen = phases(job.method).fragments(
        job.options, source.read(block.read), offsets=source.offsets
    )
    own = seen[_within(block.write, block.read).slices]
    numbers, _ = compact(own)
    sizes = np.bincount(numbers.reshape(-1).astype(np.int64), minlength=1)[1:]
    ids = np.where(numbers, numbers + np.uint64(job.last_before(block)), np.uint64(0))
    job.store(FRAGMENTS).write(block.write, ids)
    _save(_file(job, "fragments", block, "npy"), lambda file: np.save(file, sizes))
    return {"count": int(sizes.size)}


def measure_edges(job: Job, block: Block) -> None:
    """The edges that a block's voxels own: an edge (p, p - e) is p's, also across a face."""
    source = affinities(job.source)
    seen = beyond(block.write, (1, 1, 1), (0, 0, 0)).intersect(Box.of(job.shape))
    edges = Edges.of(
        source.read(seen, channels=slice(0, 3)),
        job.store(FRAGMENTS).read(seen),
        box=_within(block.write, seen),
    )
    kept = edges.cut(needed(job.options))
    _save(_file(job, "edges", block, "npz"), lambda file: np.savez(file, **vars(kept)))


def join(job: Job, blocks: list[Block], counts: list[int]) -> None:
    """Agglomerate the graph of all blocks; a table of fragments to segments for each threshold.

    Args:
        job: of the blocks.
        blocks: all of them.
        counts: fragments of each.
    """
    nodes = _nodes(job, blocks, counts)
    parts = [_file(job, "edges", block, "npz") for block in blocks]
    kept = needed(job.options)
    # Not held here: of a noisy volume it is what needs memory, and the method uses it up.
    solved = phases(job.method).solve(job.options, Contacts.read(parts, nodes, needed=kept), nodes)
    sizes = np.concatenate([np.load(_file(job, "fragments", block, "npy")) for block in blocks])
    called = names(list(solved), asked=getattr(job.options, "threshold", None))
    told = {}
    _save(job.folder / "nodes.npy", lambda file: np.save(file, nodes))
    for threshold, name in called.items():
        table = Table.of(nodes, solved[threshold], sizes, min_size=job.min_size)
        segments = table.segments
        _save(job.folder / f"{name}.npy", lambda file, segments=segments: np.save(file, segments))
        told[name] = {"threshold": threshold, "count": table.count, "removed": table.removed}
    write_atomically(job.folder / TABLE, json.dumps(told))


def tables(job: Job) -> dict[str, dict[str, Any]] | None:
    """Threshold, count and removed segments of each segmentation, when ``join`` is done."""
    path = job.folder / TABLE
    return json.loads(path.read_text()) if path.is_file() else None


def write_segments(job: Job, block: Block) -> dict[str, int]:
    """Segments of a block, by each table; specks go to what is nearest within block and halo.

    Returns:
        Background voxels, by the name of the segmentation.
    """
    fragments, background = job.store(FRAGMENTS), {}
    own = fragments.read(block.write)
    for name, table in _tables(job).items():
        segments = table.apply(own)
        if job.dissolve == "nearest" and table.removed:
            holes = (segments == 0) & (own != 0)
            if holes.any():
                inside = _within(block.write, block.read).slices
                around = table.apply(fragments.read(block.read))
                everywhere = np.zeros(around.shape, dtype=bool)
                everywhere[inside] = holes
                segments = fill(around, everywhere, voxel_size=job.voxel_size)[inside]
        job.store(name).write(block.write, segments)
        background[name] = int(np.count_nonzero(segments == 0))
    return background


def _nodes(job: Job, blocks: list[Block], counts: list[int]) -> np.ndarray:
    """The ids of all fragments, uint64 [N], ascending."""
    nodes, begin = np.empty(sum(counts), np.uint64), 0
    for block, count in zip(blocks, counts, strict=True):
        own = nodes[begin : begin + count]
        own[:] = np.arange(1, count + 1)
        own += np.uint64(job.last_before(block))
        begin += count
    return nodes


@functools.lru_cache(maxsize=1)
def affinities(source: str) -> Affinities:
    """Open affinities once a process; who may meet others of that name clears the cache."""
    return open_affinities(source)


def _tables(job: Job) -> dict[str, Table]:
    """The tables of all thresholds, mapped into memory: workers of a host share them."""
    nodes = np.load(job.folder / "nodes.npy", mmap_mode="r")
    return {
        name: Table(
            nodes,
            np.load(job.folder / f"{name}.npy", mmap_mode="r"),
            each["count"],
            each["removed"],
        )
        for name, each in tables(job).items()
    }


def _within(box: Box, outer: Box) -> Box:
    """A box as the array of ``outer`` counts its voxels."""
    z, y, x = outer.start
    return box.shift((-z, -y, -x))


def _file(job: Job, stage: str, block: Block, kind: str) -> Path:
    return job.folder / stage / f"{block.index:06d}.{kind}"


def _save(path: Path, write: Callable[[Any], None]) -> None:
    """A file that is whole or absent."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        write(file)
    part.replace(path)
