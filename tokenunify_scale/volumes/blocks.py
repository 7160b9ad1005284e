"""Blocks of a volume: worked through by one process or by several, and each of them once."""

import functools
import itertools
import json
import logging
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.volumes.geometry import Box, Triple

KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, HostError)}
"""Errors that come back from a worker as what they are."""
ERROR, LOGS = "error.json", "logs"
BLOCK_SECONDS = 7 * 86400.0
"""The other package wants a limit; a block that is slow is no error here."""
LOOK_SECONDS = 0.5

Facts = dict[str, Any]
Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True)
class Block:
    """A part of a volume that is computed on its own."""

    index: int
    """Its place in the list of blocks, in raster order, z slowest."""
    write: Box
    """Its own voxels; those of all blocks cover the volume once."""
    read: Box
    """These and a halo around them, within the volume."""


def blocks_of(shape: Triple, *, block: Triple, halo: Triple) -> list[Block]:
    """Cut a volume into blocks.

    Args:
        shape: of the volume (z, y, x).
        block: sides of a block's own voxels; those at the end of an axis may be smaller.
        halo: voxels that are read beyond them on either side.

    Raises:
        ValueError: a side of the shape or the block below 1, or a negative halo.
    """
    if min(*shape, *block) < 1 or min(halo) < 0:
        raise ValueError(
            f"shape {shape} and block {block} must be >= 1 and halo {halo} >= 0 (zyx voxels)"
        )
    whole, found = Box.of(shape), []
    axes = (range(0, size, side) for size, side in zip(shape, block, strict=True))
    for index, start in enumerate(itertools.product(*axes)):
        write = Box.of(block).shift(start).intersect(whole)
        found.append(Block(index, write, beyond(write, halo).intersect(whole)))
    return found


def beyond(box: Box, before: Triple, after: Triple | None = None) -> Box:
    """A box grown by voxels before and behind it, by as many unless told; it may begin below 0."""
    after = before if after is None else after
    z, y, x = (a - b for a, b in zip(box.start, before, strict=True))
    return Box((z, y, x), tuple(a + b for a, b in zip(box.stop, after, strict=True)))


def run_blocks(
    blocks: Sequence[Block],
    work: Callable[[Block], Facts | None],
    *,
    folder: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Facts]:
    """Do the work of every block that is not done yet.

    A block that is done leaves a file in ``folder``, which appears when the work has returned; a
    run that was killed goes on with those that have none. What the work writes must not depend on
    other blocks of the same call, and must be the same when it is done again.

    Args:
        blocks: all of them, also those that are done.
        work: of one block; what it returns is kept as JSON. Workers get it pickled.
        folder: of the marks, made if it is missing; of this work only.
        workers: 1 works here; more are processes on this host, through daisy.
        progress: wraps an iterator over the blocks as they are done, with their number, as
            ``track`` of the run folder does.

    Returns:
        What the work of each block returned, now or before, in their order; {} for None.

    Raises:
        HostError: a worker ended without a word, or daisy is not installed.
        ConfigError, DataError: as the work raises them, with the place of the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    missing = [block for block in blocks if not _mark(folder, block).is_file()]
    progress = progress or (lambda items, total: items)
    if workers > 1 and len(missing) > 1:
        _by_daisy(missing, work, folder=folder, workers=workers, progress=progress)
    else:
        for _ in progress(_one_by_one(missing, work, folder), len(missing)):
            pass
    shutil.rmtree(folder / LOGS, ignore_errors=True)
    return [json.loads(_mark(folder, block).read_text()) for block in blocks]


def done(blocks: Sequence[Block], *, folder: Path) -> int:
    """How many of the blocks are done."""
    return sum(_mark(folder, block).is_file() for block in blocks)


def daisy() -> ModuleType:
    """The package that runs workers.

    Raises:
        HostError: it is not installed.
    """
    try:
        import daisy.v2
    except ImportError as error:
        raise HostError(f"more than one worker needs daisy ({error}): pip install daisy") from None
    return daisy.v2


def _mark(folder: Path, block: Block) -> Path:
    return folder / f"{block.index:06d}.json"


def _one_by_one(
    blocks: Iterable[Block], work: Callable[[Block], Facts | None], folder: Path
) -> Iterator[int]:
    for block in blocks:
        _write(_mark(folder, block), _done(work, block))
        yield block.index


def _done(work: Callable[[Block], Facts | None], block: Block) -> Facts:
    """What the work returns; its errors say where."""
    try:
        return work(block) or {}
    except tuple(KINDS.values()) as error:
        place = f"in the block that begins at {block.read.start} (zyx voxels)"
        raise type(error)(f"{error}, {place}") from error


def _write(path: Path, facts: Facts) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(facts))
    part.replace(path)


def _by_daisy(
    blocks: Sequence[Block],
    work: Callable[[Block], Facts | None],
    *,
    folder: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Let daisy hand out the blocks, as places of a list: which boxes they are is our own matter.

    What is done is told by our own marks, that one process and several leave alike.
    """
    library = daisy()
    from daisy import logging as worker_logging

    worker_logging.set_log_basedir(folder / LOGS)
    places, one = library.Roi((0,), (len(blocks),)), library.Roi((0,), (1,))
    task = library.Task(
        folder.name,
        places,
        one,
        one,
        process_function=functools.partial(_in_worker, tuple(blocks), work, folder.absolute()),
        read_write_conflict=False,
        max_workers=min(workers, len(blocks)),
        max_retries=1,
        max_worker_restarts=workers + 1,
        timeout=BLOCK_SECONDS,
        tracking_path=False,
    )
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(blocks, folder, ended, progress), daemon=True)
    watch.start()
    cause = ""
    try:
        # Nothing outside this host is to connect; summaries and bars are drawn by the caller.
        quiet = {"progress": False, "summary": False, "block_tracking": False}
        states = library.run_blockwise(task, return_states=True, host="127.0.0.1", **quiet)
        cause = states[folder.name].last_worker_error or ""
    except RuntimeError as error:  # workers fell again and again
        cause = str(error)
    finally:
        ended.set()
        watch.join()
    _raise_error(folder)
    left = len(blocks) - done(blocks, folder=folder)
    if left:
        said = (cause.strip().splitlines() or ["no reason given"])[-1]
        raise HostError(
            f"{left} of {len(blocks)} blocks are not done, workers ended: {said}; where memory "
            "ran out, give fewer workers or smaller blocks. The same command goes on with them"
        )


def _in_worker(
    blocks: Sequence[Block], work: Callable[[Block], Facts | None], folder: Path, handed: Any
) -> None:
    """The work of the block that daisy hands out. After an error of any worker none begins."""
    if (folder / ERROR).exists():
        return
    logging.getLogger().setLevel(logging.WARNING)
    block = blocks[handed.write_roi.offset[0]]
    try:
        _write(_mark(folder, block), _done(work, block))
    except Exception as error:
        _write(
            folder / ERROR,
            {
                "kind": type(error).__name__,
                "said": " ".join(str(error).split()),
                "start": block.read.start,
                "traceback": traceback.format_exc(),
            },
        )


def _raise_error(folder: Path) -> None:
    """Raise here what a worker ran into."""
    if not (folder / ERROR).is_file():
        return
    found = json.loads((folder / ERROR).read_text())
    if found["kind"] in KINDS:
        raise KINDS[found["kind"]](found["said"])
    place = f"in the block that begins at {tuple(found['start'])} (zyx voxels)"
    if found["kind"] == "MemoryError":
        raise HostError(f"a worker has no memory left {place}: fewer workers or smaller blocks")
    raise RuntimeError(f"{found['kind']}: {found['said']}, {place}\n{found['traceback']}")


def _watch(
    blocks: Sequence[Block], folder: Path, ended: threading.Event, progress: Progress
) -> None:
    """Feed the progress with the marks that appear."""

    def appearing() -> Iterator[int]:
        left = list(blocks)
        while left:
            over = ended.wait(LOOK_SECONDS)
            here = [block for block in left if _mark(folder, block).is_file()]
            left = [block for block in left if block not in here]
            yield from (block.index for block in here)
            if over:
                return

    for _ in progress(appearing(), len(blocks)):
        pass
