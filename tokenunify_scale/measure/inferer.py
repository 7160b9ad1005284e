"""``predict`` beside MONAI's sliding-window inferer: the same network, tiles and blending."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenunify_scale.config import HostError, Named
from tokenunify_scale.measure.clock import own_clock
from tokenunify_scale.measure.memory import FORGET_PEAK, RESET, STATUS
from tokenunify_scale.measure.report import Finding, table
from tokenunify_scale.models.load import build_chosen, describe, load_model
from tokenunify_scale.models.tiling import WINDOW_SIGMA, Windows, windows
from tokenunify_scale.train.checkpoint import save_weights
from tokenunify_scale.volumes.geometry import Triple, tiles
from tokenunify_scale.volumes.hdf5 import read_hdf5, write_hdf5

CHANNELS = 3
OURS, MONAI = "predict", "monai"
# Verbs lie above this package: a process of its own runs one.
CODE = {
    OURS: """
from tokenunify_scale import predict
from tokenunify_scale.config import build
from tokenunify_scale.measure.inferer import measured_here
from tokenunify_scale.train.allocator import keep_freed_memory
from tokenunify_scale.volumes.store import library
keep_freed_memory(), library()
def work(model, job):
    del model  # predict loads its own
    asked = {key: job[key] for key in ("model", "volume", "out", "tile", "overlap")}
    predict.run(build(predict.Config, asked))
measured_here(work)
""",
    MONAI: """
from tokenunify_scale.measure.inferer import measured_here, monai_inferer, slide
monai_inferer()
measured_here(slide)
""",
}


def monai_inferer() -> Any:
    """The class of MONAI.

    Raises:
        HostError: it is not installed.
    """
    try:
        from monai.inferers import SlidingWindowInferer
    except ImportError as error:
        raise HostError(f"benchmark inferer needs MONAI ({error}): pip install monai") from None
    return SlidingWindowInferer


def look_at(model: Named, *, shape: Triple, tile: Triple) -> Windows:
    """How ``predict`` would lay its tiles, in overlaps that MONAI takes too.

    Raises:
        ConfigError: the network predicts nothing of such a tile.
    """
    with torch.device("meta"):
        network = build_chosen(model, in_channels=1, out_channels=CHANNELS)
    return windows(network, tile=tile, overlap=None, shape=shape)


def compare(
    model: Named, *, shape: Triple, tile: Triple, repeats: int, threads: int, folder: Path
) -> dict[str, Any]:
    """Run both in turns, each time in a new process, on a CPU.

    Ours is timed from the volume's file to the affinities' file; MONAI from a tensor in memory to
    another, and beside that with reading and writing; by ``own_clock``, the processor's time of
    all that a process does where torch has one thread.

    Args:
        model: the network, of random weights.
        shape: of the volume of noise, zyx voxels.
        tile: sides of what the network sees at once.
        repeats: turns; medians are taken.
        threads: of torch.
        folder: for weights, volume and affinities.

    Returns:
        ``shape``, ``tile``, ``overlap``, ``tiles``, and ``ways``: by way the medians of seconds
        (``files``: those of reading and writing too), and of bytes ``base``, ``above`` and
        ``peak``.

    Raises:
        HostError: MONAI is not installed, a process failed, or the system does not tell a peak.
    """
    if importlib.util.find_spec("monai") is None:
        raise HostError("benchmark inferer needs MONAI, which is not installed: pip install monai")
    if not os.access(RESET, os.W_OK):
        raise HostError(f"a process' peak is read through {RESET}, which is not there")
    look = look_at(model, shape=shape, tile=tile)
    job = _job(model, look, shape=shape, threads=threads, folder=folder)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CODE}
    for turn in range(repeats):
        for name in sorted(CODE, reverse=bool(turn % 2)):
            found = _run(name, job, folder=folder)
            print({"turn": turn, "way": name, **found}, file=sys.stderr, flush=True)
            runs[name].append(found)
    ways = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    return {
        "shape": [*shape],
        "tile": [*look.tile],
        "overlap": [*look.overlap],
        "tiles": len(tiles(shape, tile=look.tile, overlap=look.overlap)),
        "ways": ways,
    }


def _job(
    model: Named, look: Windows, *, shape: Triple, threads: int, folder: Path
) -> dict[str, Any]:
    """Weights and a volume of noise on disk, and what is asked of either process."""
    torch.manual_seed(0)
    network = build_chosen(model, in_channels=1, out_channels=CHANNELS)
    about = describe(model, in_channels=1, out_channels=CHANNELS, objective="affinity")
    (folder / "model").mkdir(parents=True, exist_ok=True)
    save_weights(folder / "model", network.state_dict(), about)
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_hdf5(folder / "volume.h5", {"raw": raw})
    return {
        "model": str(folder / "model"),
        "volume": f"{folder}/volume.h5:raw",
        "out": str(folder / "out"),
        "tile": look.tile,
        "overlap": look.overlap,
        "threads": threads,
    }


def _run(name: str, job: dict[str, Any], *, folder: Path) -> dict[str, float]:
    """One way in a process of its own.

    Raises:
        HostError: it failed; where to read why.
    """
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        done = subprocess.run(
            [sys.executable, "-c", CODE[name], json.dumps(job)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(job["threads"]),
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
    if done.returncode:
        raise HostError(f"benchmark inferer: {name} ended with {done.returncode}: see {log}")
    return json.loads(done.stdout.splitlines()[-1])


def measured_here(work: Callable[[nn.Module, dict[str, Any]], float | None]) -> None:
    """Print seconds and bytes of one way as JSON; to be called in a fresh process.

    Args:
        work: does all of it, files included; what it returns are the seconds without files.
    """
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    loaded = [load_model(job["model"])]
    base, clock = _bytes("VmRSS"), own_clock("cpu")
    RESET.write_text(FORGET_PEAK)
    start = clock()
    alone = work(loaded.pop(), job)
    whole = clock() - start
    peak = _bytes("VmHWM")
    told = {"seconds": alone or whole, "files": whole}
    print(json.dumps({**told, "base": base, "above": peak - base, "peak": peak}))


def slide(model: nn.Module, job: dict[str, Any]) -> float:
    """MONAI's way: the whole volume as one tensor; returns the seconds of the inferer alone."""
    inferer = monai_inferer()(
        roi_size=job["tile"],
        sw_batch_size=1,
        overlap=[o / side for o, side in zip(job["overlap"], job["tile"], strict=True)],
        mode="gaussian",
        sigma_scale=WINDOW_SIGMA,
    )
    raw, _ = read_hdf5(job["volume"].removesuffix(":raw"), "raw")
    inputs: Tensor = torch.from_numpy(raw)[None, None].float().div_(255)
    del raw
    clock = own_clock("cpu")
    start = clock()
    with torch.inference_mode():
        outputs = inferer(inputs, model)
    seconds = clock() - start
    del inputs
    write_hdf5(Path(job["out"]) / "monai.h5", {"affinities": outputs[0].numpy()})
    return seconds


def inferer_table(measured: dict[str, Any]) -> str:
    """The table of ``benchmark inferer``."""
    mib, voxels = 2**20, np.prod(measured["shape"])
    rows = [
        [name, f"{voxels / way['seconds']:,.0f}", f"{voxels / way['files']:,.0f}",
         *(f"{way[key] / mib:,.0f}" for key in ("base", "above", "peak"))]
        for name, way in measured["ways"].items()
    ]  # fmt: skip
    heads = ["way", "voxels/s", "with files", "base MiB", "above it", "peak MiB"]
    volume, tile, overlap = (
        "x".join(map(str, measured[key])) for key in ("shape", "tile", "overlap")
    )
    title = f"{volume} voxels in {measured['tiles']} tiles of {tile}, overlap {overlap}"
    return f"{title}\n{table(heads, rows)}"


def inferer_findings(measured: dict[str, Any]) -> Sequence[Finding]:
    """What of ``benchmark inferer`` has a target."""
    ours, theirs = measured["ways"][OURS], measured["ways"][MONAI]
    return [
        Finding("voxels/s with files, of MONAI's", theirs["files"] / ours["files"], "inferer"),
        Finding(
            "voxels/s with files, of MONAI's without", theirs["seconds"] / ours["files"], "inferer"
        ),
        Finding("memory above the loaded model, of MONAI's", ours["above"] / theirs["above"],
                "inferer memory"),
        Finding("memory of the process, of MONAI's", ours["peak"] / theirs["peak"],
                "inferer memory"),
    ]  # fmt: skip


def _bytes(name: str) -> int:
    """A line of the process' status, in bytes."""
    return 1024 * int(re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)[1])
