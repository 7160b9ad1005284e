"""Predict a volume's affinities tile by tile, blended where tiles overlap, on any number of ranks.

What is held does not grow with the volume, and a prediction that was stopped goes on.
"""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from tokenunify_scale.config import to_dict
from tokenunify_scale.data.gray import find_mapping, read_gray
from tokenunify_scale.inference.estimate import PROCESS, SLACK, network_peak, weight_bytes
from tokenunify_scale.inference.lattice import Lattice
from tokenunify_scale.inference.ledger import Ledger
from tokenunify_scale.inference.predictor import Predictor
from tokenunify_scale.inference.request import Request, open_request, parse_box
from tokenunify_scale.inference.streaming import SCALES, stream
from tokenunify_scale.inference.tasks import CHUNK, Division, divide
from tokenunify_scale.inference.views import Tta, views
from tokenunify_scale.models.load import load_model
from tokenunify_scale.models.tiling import check_overlap
from tokenunify_scale.ops import backend
from tokenunify_scale.train.checkpoint import WEIGHTS
from tokenunify_scale.train.distributed import leave, meet, on_main, place
from tokenunify_scale.train.ranks import seat_of
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.volumes.boxed import Boxed, write_hdf5_from
from tokenunify_scale.volumes.geometry import Box, Triple

PART, FINAL = "affinities.part.zarr", {"hdf5": "affinities.h5", "zarr": "affinities.zarr"}
CHANGEABLE = ("out", "batch")  # what a prediction that goes on may be given anew
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """One prediction."""

    model: Path
    """A finished fine-tuning run or an export of one."""

    volume: str
    """The raw volume, as file.h5:dataset, file.tif or synthetic:..."""

    sections: tuple[int, int] | None = None
    """Predict these sections only, as 150:250 (the end is excluded)."""

    box: str | None = None
    """Predict this box only, first to last corner (z, y, x), as 150,0,0..250,512,512 (the end is
    excluded)."""

    out: Path = Path("runs/predict")
    """The run folder; affinities.h5 or affinities.zarr is written there. A prediction that was
    stopped there goes on."""

    tile: Triple | None = None
    """Size (z, y, x) in voxels of what the network sees at once; best the training crop's. By
    default what it was published with, 16x160x160 for emmamba. Tiles lie where the volume's origin
    puts them, whatever part of it is predicted."""

    overlap: Triple | None = None
    """Voxels (z, y, x) that neighbouring predictions share at least; by default a quarter of the
    tile's sections and a fifth of its other sides, 0 for a network that predicts less than it
    sees, and at least twice the context."""

    context: Triple = (0, 0, 0)
    """Voxels (z, y, x) of a prediction that are dropped at the faces of its tile, but not at the
    volume's: where the network looks no farther than this, tiles leave no trace."""

    batch: int = 1
    """Tiles computed at once."""

    tta: Tta = "none"
    """Average over views of each tile: flips along z, y and x (8 views, 8 times the work), or all,
    with y and x swapped too (16)."""

    memory_MiB: int = 1024
    """What a rank may hold beside the network: sums of as wide a column of tiles as fits. What lies
    at the borders of columns is computed twice."""

    format: Literal["hdf5", "zarr"] = "hdf5"
    """What is written: one file, or a folder that is there without another copy."""

    dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Of what is written; uint8 holds 255 times the affinity."""

    def __post_init__(self) -> None:
        """Refuse an overlap that leaves no step, empty batches, and what is no box."""
        if self.tile and self.overlap:
            check_overlap(self.overlap, self.tile, context=self.context)
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")
        if self.memory_MiB < 1:
            raise ValueError(f"memory_MiB must be >= 1, got {self.memory_MiB}")
        if self.box and self.sections:
            raise ValueError("give sections or box, not both")
        if self.box:
            parse_box(self.box)


def plan(config: Config) -> dict[str, Any]:
    """What would be predicted: the box, tiles, tasks, memory of a rank and size of the output.

    Raises:
        ConfigError: the model does not predict affinities, the part is not there, or the memory
            does not hold a column.
        DataError: volume or model are missing or damaged.
    """
    request, world = _open(config), seat_of(os.environ).size
    box, look, network = request.box, request.look, request.network
    division = _divide(config, request, world=world)
    channels = request.description.in_channels
    tensors = network_peak(network, batch=config.batch, channels=channels, seen=request.seen)
    memory = {
        "process": PROCESS,
        "weights": weight_bytes(network),
        "network": tensors * (1 + SLACK),
        "column": division.held,
    }
    size = torch.empty(0, dtype=getattr(torch, config.dtype)).element_size()
    return {
        "volume": request.volume.path,
        "voxels": list(box.shape),
        "tiles": Lattice(request.volume.shape, look).count(box),
        "tiles_computed": division.tiles,
        "views": len(views(config.tta)),
        "predicted_at_once": list(look.tile),
        "overlap": list(look.overlap),
        "seen_beyond_on_either_side": list(look.margin),
        "ranks": world,
        "tasks": len(division.tasks),
        "memory_per_rank_MiB": {
            name: round(held / MIB, 1)
            for name, held in {**memory, "total": sum(memory.values())}.items()
        },
        "output_MiB": round(len(request.offsets) * math.prod(box.shape) * size / MIB, 1),
    }


def run(config: Config) -> dict[str, Any]:
    """Predict and write ``affinities``: [C, D, H, W], channel c the edge (p, p - offsets[c]).

    Returns:
        What result.json holds; {} on ranks other than 0.

    Raises:
        ConfigError: the model does not predict affinities, the part is not there, the memory does
            not hold a column, or another prediction stands unfinished in the folder.
        DataError: volume or model are missing or damaged, or the network predicts NaN.
        HostError: the disk does not take it, another process writes there, or ranks are lost.
    """
    request, world = _open(config), place()
    if world.size > 1:
        meet(world, backend="gloo")  # on GPUs too: ranks tell each other nothing but the tasks
    ledger = Ledger(config.out / "progress")
    begin = partial(_begin, config, request, ledger, world=world.size, device=world.device)
    folder, tasks = on_main(world, begin)
    mapping = find_mapping(request.volume)
    predictor = Predictor(
        load_model(config.model).to(world.device),
        partial(read_gray, request.volume, mapping=mapping),
        shape=request.volume.shape,
        look=request.look,
        batch=config.batch,
        device=world.device,
        tta=config.tta,
        offsets=request.offsets,
    )
    store = Boxed.open(config.out / PART)
    stream(
        predictor,
        store,
        tasks={number: tasks[number] for number in range(world.rank, len(tasks), world.size)},
        origin=request.box.start,
        ledger=ledger,
        speak=world.is_main,
    )
    if world.size > 1:
        leave()
    if not world.is_main:
        return {}
    total = ledger.wait(tasks)
    _finish(config, store, ledger)
    return folder.finish(
        model=request.description.model["name"],
        volume=config.volume,
        voxels=list(request.box.shape),
        world=world.size,
        metrics={"mean_affinity": total / math.prod(store.shape)},
    )


def _begin(
    config: Config, request: Request, ledger: Ledger, *, world: int, device: torch.device
) -> tuple[RunFolder, Sequence[Box]]:
    """Open the run folder, the ledger and the store: those that are there, or new ones."""
    weights = (Path(config.model) / WEIGHTS).stat()
    asked = {key: value for key, value in to_dict(config).items() if key not in CHANGEABLE}
    asked["weights"] = [weights.st_size, weights.st_mtime_ns]
    goes_on = ledger.check(asked)
    tasks = ledger.tasks() if goes_on else _divide(config, request, world=world).tasks
    folder = RunFolder.create(
        config.out,
        verb="predict",
        config=to_dict(config),
        environment={"world": world, "scan": backend.describe(device.type)},
        changeable=CHANGEABLE,
    )
    if not goes_on:
        for name in (PART, *FINAL.values()):
            _remove(config.out / name)
        Boxed.create(
            config.out / PART,
            shape=(len(request.offsets), *request.box.shape),
            dtype=config.dtype,
            chunk=CHUNK,
            attributes={
                "offsets": [list(offset) for offset in request.offsets],
                "axes": "czyx",
                "convention": "edge (p, p - offset)",
                "scale": SCALES[config.dtype],
                "offset": list(request.box.start),
                "volume": config.volume,
                "model": str(config.model),
                "voxel_size": request.volume.voxel_size,
            },
        )
        ledger.begin(asked, tasks)
    return folder, tasks


def _finish(config: Config, store: Boxed, ledger: Ledger) -> None:
    """Turn the store into what was asked for."""
    final = config.out / FINAL[config.format]
    if config.format == "hdf5":
        write_hdf5_from(final, {"affinities": store})
    ledger.forget()  # before the store goes
    if config.format == "zarr":
        store.path.replace(final)
    _remove(store.path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open(config: Config) -> Request:
    return open_request(
        config.model,
        config.volume,
        sections=config.sections,
        box=config.box,
        tile=config.tile,
        overlap=config.overlap,
        context=config.context,
        tta=config.tta,
    )


def _divide(config: Config, request: Request, *, world: int) -> Division:
    """The tasks of so many ranks."""
    return divide(
        request.box,
        Lattice(request.volume.shape, request.look),
        channels=len(request.offsets),
        budget=config.memory_MiB * MIB,
        world=world,
    )
