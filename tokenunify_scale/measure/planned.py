"""Memory that the planner foretells, beside the peaks of real ranks: ``benchmark memory``."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, HostError, load_yaml
from tokenunify_scale.measure.memory import STATUS
from tokenunify_scale.measure.report import Finding, table
from tokenunify_scale.registry import MODELS

FAMILY = "emmamba_"
STAGES, WORLDS = (0, 3), (1, 2)
STEPS, CROPS = 3, 8
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
SECONDS = 900.0
"""That a cell may take; its ranks are ended then."""
RANK = """
import sys
from pathlib import Path
from tokenunify_scale.cli import main
from tokenunify_scale.measure.planned import highest
code = main("pretrain", sys.argv[2:])
Path(sys.argv[1]).write_text(str(highest()))
sys.exit(code)
"""


def ladder(model: str) -> list[str]:
    """The sizes of EMmamba from the smallest up to a network's own, as ``--size`` takes them.

    Raises:
        ConfigError: it is another network.
    """
    names = [name for name in MODELS.names() if name.startswith(FAMILY)]
    if model not in names:
        raise ConfigError(f"benchmark memory is of {FAMILY}*, not of {model}")
    names.sort(key=lambda name: sum(MODELS.get(name).config.features))
    return [name.removeprefix(FAMILY) for name in names[: names.index(model) + 1]]


def compare(
    sizes: Sequence[str], *, shards: Path, folder: Path, crop: Sequence[int]
) -> dict[str, Any]:
    """Plan and measure each size at ZeRO stages 0 and 3 on one rank and two, a crop a rank.

    Args:
        sizes: as ``--size`` takes them.
        shards: crops at least as large as ``crop``.
        folder: where runs and plans are written.
        crop: (z, y, x).

    Returns:
        ``cells``: size, stage, ranks, and the GiB ``planned`` and ``measured`` (of the rank that
        held most), in the order in which they were measured, one after another.

    Raises:
        HostError: a training failed, or the system does not tell a peak.
    """
    if not STATUS.is_file():
        raise HostError(f"a process' peak is read from {STATUS}, which is not there")
    cells = []
    for size in sizes:
        for stage in STAGES:
            for world in WORLDS:
                words = ["--size", size, "--zero", str(stage), "--expect-world", str(world)]
                words += ["--global-batch", str(world), "--steps", str(STEPS), "--shards", shards]
                words += ["--crop", ",".join(map(str, crop)), "--save-every", "1000"]
                out = folder / f"{size}-zero{stage}-ranks{world}-{time.time_ns()}"
                words = [str(word) for word in [*words, "--out", out]]
                out.mkdir(parents=True)
                cell = {"size": size, "stage": stage, "ranks": world}
                cell["planned"] = planned(words, out.with_suffix(".yaml"))
                cell["measured"] = max(measured(words, world=world, folder=out)) / 2**30
                print(cell, file=sys.stderr, flush=True)
                cells.append(cell)
    return {"cells": cells, "crop": [*crop]}


def planned(words: Sequence[str], file: Path) -> float:
    """GiB a rank that ``pretrain --dry-run`` foretells; all it says is left in ``file``.

    Raises:
        HostError: it failed.
    """
    command = [sys.executable, "-m", "tokenunify_scale", "pretrain", *words, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS,
                          env={**os.environ, **ON_CPU})  # fmt: skip
    if done.returncode:
        raise HostError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}")
    file.write_text(done.stdout)
    return load_yaml(file)["plan"]["memory_per_rank_GiB"]["total"]


def measured(words: Sequence[str], *, world: int, folder: Path) -> list[int]:
    """Most bytes that each rank of a real training held, from its start to its end.

    Args:
        words: of the command ``pretrain``.
        world: ranks, all on this machine.
        folder: where each leaves its number and what it said.

    Raises:
        HostError: one failed, or took too long.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    ranks, ends = [], time.monotonic() + SECONDS
    try:
        for rank in range(world):
            place = {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(folder / f"rank{rank}.log", "w") as log:
                ranks.append(subprocess.Popen(
                    [sys.executable, "-c", RANK, folder / f"rank{rank}.peak", *words],
                    env={**os.environ, **ON_CPU, **place}, stdout=log, stderr=subprocess.STDOUT,
                ))  # fmt: skip
        codes = [rank.wait(max(0.0, ends - time.monotonic())) for rank in ranks]
    except subprocess.TimeoutExpired:
        raise HostError(f"{folder}: no end within {SECONDS:.0f} s") from None
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
    if any(codes):
        raise HostError(f"{folder}: ranks ended with {codes}: see rank0.log there")
    return [int((folder / f"rank{rank}.peak").read_text()) for rank in range(world)]


def highest() -> int:
    """Most bytes of memory that this process has held since it began.

    Not ``ru_maxrss``, which begins with what the process held that started this one.
    """
    found = re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1])


def memory_table(measured: dict[str, Any]) -> str:
    """The table of ``benchmark memory``."""
    rows = [
        [cell["size"], str(cell["stage"]), str(cell["ranks"]), f"{cell['planned']:.3f}",
         f"{cell['measured']:.3f}", f"{cell['planned'] / cell['measured']:.3f}"]
        for cell in measured["cells"]
    ]  # fmt: skip
    return table(["size", "ZeRO", "ranks", "planned GiB", "measured GiB", "ratio"], rows)


def memory_findings(measured: dict[str, Any]) -> list[Finding]:
    """What of ``benchmark memory`` has a target: the cell that is farthest off."""
    off = max(abs(cell["planned"] / cell["measured"] - 1) for cell in measured["cells"])
    return [Finding("planned memory, farthest from measured", off, "planner")]
