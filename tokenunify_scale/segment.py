"""Turn predicted affinities into neurons, in memory or block by block."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tokenunify_scale.config import ConfigError, Named, to_dict
from tokenunify_scale.postprocess import budget, outcome
from tokenunify_scale.postprocess.blockwise import segment_blocks
from tokenunify_scale.postprocess.phases import check_graph, phases
from tokenunify_scale.postprocess.source import Affinities, open_affinities
from tokenunify_scale.postprocess.stages import Job
from tokenunify_scale.postprocess.waterz import WaterzConfig
from tokenunify_scale.postprocess.whole import Dissolve, segment_whole
from tokenunify_scale.registry import POSTPROCESS
from tokenunify_scale.train.runlog import RunFolder, write_atomically
from tokenunify_scale.volumes.blocks import daisy
from tokenunify_scale.volumes.geometry import Triple

KEPT = ("voxel_size", "offset", "volume", "model")  # attributes handed on to the segmentation
FREE = ("out", "format", "workers", "memory_MiB")  # what a run that goes on may be told anew
WORK, PLAN = "work", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """One segmentation."""

    affinities: str
    """A finished predict folder, file.h5:dataset or x.zarr, of shape [C, D, H, W]."""

    out: Path = Path("runs/segment")
    """The run folder; segmentation.h5 is written there."""

    postprocess: Annotated[Named, POSTPROCESS] = Named("waterz", WaterzConfig())
    """The method and its options, as {name: waterz, threshold: 0.5}. Of several thresholds the
    first gives the dataset segmentation, the others segmentation_0.3 and so on."""

    # Paper: it drops nothing. A membrane predicted with noise breaks into thousands of specks.
    min_size: int = 50
    """Segments of fewer voxels are dissolved; 0 keeps all."""

    dissolve: Dissolve = "nearest"
    """A dissolved segment's voxels go to the nearest segment that stays, or to background 0; by
    blocks to the nearest within block and halo, else to background."""

    format: outcome.Format = "hdf5"
    """What to write: segmentation.h5, segmentation.tif for ImageJ and napari, both of them, or
    segmentation.zarr and fragments.zarr; evaluate reads the HDF5 file or the Zarr of a folder."""

    block: Triple | None = None
    """Size (z, y, x) in voxels of a block that is segmented on its own; above 16, 128, 128 its
    sides are multiples of these. By default the whole volume at once where it fits into memory,
    else the largest blocks that do."""

    halo: Triple = (4, 32, 32)
    """Voxels (z, y, x) around a block that its fragments and dissolved segments may depend on."""

    workers: int = 1
    """Processes that work on blocks; more than one need daisy, and always work on blocks."""

    memory_MiB: int | None = None
    """Memory for all workers together, but for the graph of fragments; by default half of what is
    available."""

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        if self.min_size < 0:
            raise ConfigError(f"min_size must be >= 0 voxels, got {self.min_size}")
        if self.workers < 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")
        if min(self.halo) < 0:
            raise ConfigError(f"halo must be >= 0 voxels (z, y, x), got {self.halo}")
        if self.memory_MiB is not None and self.memory_MiB < 1:
            raise ConfigError(f"memory_MiB must be >= 1, got {self.memory_MiB}")
        if self.block is not None:
            budget.chunk_of(self.block)


def plan(config: Config) -> dict[str, Any]:
    """What would be segmented and how it would be cut; reads no voxel.

    Raises:
        ConfigError: the memory does not hold the smallest block.
        DataError: the affinities are missing or of another convention.
    """
    source = open_affinities(config.affinities)
    limit, cut = _cut(config, source)
    return {
        "affinities": config.affinities,
        "voxels": list(source.sides),
        "offset": source.attributes.get("offset", [0, 0, 0]),
        "method": config.postprocess.name,
        "blocks": cut.count,
        "block": list(cut.block) if cut.block else None,
        "memory_MiB": round(cut.memory / budget.MIB, 1),
        "limit_MiB": limit // budget.MIB,
    }


def run(config: Config) -> dict[str, Any]:
    """Segment, dissolve small segments, renumber from 1 and write.

    By blocks, a run that was killed goes on with those that are missing when it is repeated.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the folder holds an unfinished run of other options; the memory does not hold
            the smallest block.
        DataError: the affinities are missing, of another convention, or hold NaN.
        HostError: a package is absent, a worker ended, or the disk is full.
    """
    source = open_affinities(config.affinities)
    work = config.out / WORK
    _, cut = _cut(config, source, begun=_begun(config, work, source))
    if cut.block:
        check_graph(config.postprocess.options)
    if config.workers > 1:
        daisy()
    folder = RunFolder.create(
        config.out, verb="segment", config=to_dict(config), changeable=tuple(to_dict(config))
    )
    if not (work / PLAN).is_file():
        shutil.rmtree(work, ignore_errors=True)  # nothing there could be gone on with
    work.mkdir(exist_ok=True)
    facts = {"axes": "zyx", **{k: source.attributes[k] for k in KEPT if k in source.attributes}}
    method, options = config.postprocess.name, config.postprocess.options
    rules = {"min_size": config.min_size, "dissolve": config.dissolve}
    if cut.block is None:
        found = segment_whole(source, method=method, options=options, **rules)
    else:
        write_atomically(work / PLAN, json.dumps(_standing(config, source, cut.block)))
        job = Job(
            source=config.affinities,
            method=method,
            options=options,
            folder=work,
            shape=source.sides,
            block=cut.block,
            halo=config.halo,
            voxel_size=source.voxel_size or (1.0, 1.0, 1.0),
            facts=facts,
            **rules,
        )
        found = segment_blocks(job, workers=config.workers)
    if config.format == "zarr":  # the stores move: from here on nothing is left to go on with
        (work / PLAN).unlink(missing_ok=True)
    outcome.write(found, folder.path, format=config.format, facts=facts, work=work)
    shutil.rmtree(work)
    return folder.finish(
        volume=source.attributes.get("volume"), voxels=list(source.sides), **found.to_dict()
    )


def _cut(
    config: Config, source: Affinities, *, begun: Triple | None = None
) -> tuple[int, budget.Cut]:
    """The limit in bytes, and how the volume is cut, as a run that stands there has begun it."""
    limit = budget.available() // 2
    if config.memory_MiB is not None:
        limit = config.memory_MiB * budget.MIB
    thresholds = getattr(config.postprocess.options, "threshold", None)
    need = budget.Need(
        channels=len(source.offsets),
        method=phases(config.postprocess.name).bytes_a_voxel,
        results=len(thresholds) if isinstance(thresholds, tuple) else 1,
    )
    return limit, budget.cut(
        source.sides,
        need=need,
        limit=limit,
        block=begun or config.block,
        halo=config.halo,
        workers=config.workers,
    )


def _standing(config: Config, source: Affinities, block: Triple) -> dict[str, Any]:
    """What the stores of a run by blocks depend on."""
    asked = {key: value for key, value in to_dict(config).items() if key not in FREE}
    return json.loads(json.dumps({**asked, "written": source.written, "cut": block}))


def _begun(config: Config, work: Path, source: Affinities) -> Triple | None:
    """The blocks of an unfinished run of these options; None where there is none.

    Raises:
        ConfigError: of other options.
    """
    if not (work / PLAN).is_file():
        return None
    before = json.loads((work / PLAN).read_text())
    now = _standing(config, source, before["cut"])
    for key in now:
        if before.get(key) != now[key]:
            raise ConfigError(
                f"{work} holds an unfinished run with {key} {before.get(key)}, this one has "
                f"{now[key]}: give the same, or another --out, or delete that folder"
            )
    z, y, x = before["cut"]
    return z, y, x
