"""What a run says of itself while it trains: rates, use of the device, memory, time left."""

import json
import re
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tokenunify_scale.train.boards import Boards, wanted
from tokenunify_scale.train.communication import Blocked
from tokenunify_scale.train.curves import WEIGHT, in_short, points
from tokenunify_scale.train.distributed import World, sum_over_ranks
from tokenunify_scale.train.plan import BACKWARD
from tokenunify_scale.train.runlog import RunFolder, write_atomically

GIB = 1 << 30
ENDED = "ended.json"
RECENT = 20  # lines that the time left is reckoned from
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """Where a run can be watched, beside metrics.jsonl."""

    tensorboard: bool | Literal["auto"] = "auto"
    """Whether to write RUN/tensorboard; auto: where the package is installed."""

    wandb: str | None = None
    """Project of Weights & Biases that gets the numbers too; none by default."""

    peak_tflops: float | None = None
    """Dense peak of one device in TFLOP/s, which MFU is the share of; by default that of the data
    sheet, where the device is a known GPU."""

    def __post_init__(self) -> None:
        """Refuse a peak that is none."""
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"peak_tflops must be > 0, got {self.peak_tflops}")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run before it starts."""

    steps: int
    """Optimizer steps of the whole run."""

    global_batch: int
    """Crops of a step, over all ranks."""

    voxels: int
    """Of a crop."""

    tokens: int | None = None
    """Patches of a crop; None where the objective has none."""

    gmac: float | None = None
    """Multiply-accumulates of one crop's forward pass, in 1e9, as ``models.count.cost`` has them:
    of the network, not of heads and teachers. None where they were not counted."""

    peak_tflops: float | None = None
    """Dense peak of one device by its data sheet (``peaks.device_peak``); None where unknown."""

    name: str = ""
    """What the run is called on a board."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config as plain data, for a board."""


class Telemetry:
    """Clocks of a training loop, and the lines it logs. All ranks have one; rank 0 writes.

    A window is what lies between two lines. Everything that costs a collective or a wait for the
    device happens once a window.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        run: RunFolder,
        facts: Facts,
        world: World,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Set up.

        Args:
            config: what to write.
            run: gets metrics.jsonl.
            facts: of the run.
            world: this process's place.
            clock: seconds since some moment.
            now: seconds since 1970.

        Raises:
            HostError: a package that was asked for is not installed.
        """
        self.note = ""
        """The last line in short, for a progress bar."""
        self._run, self._facts, self._world = run, facts, world
        self._clock, self._now = clock, now
        self._peak = config.peak_tflops or facts.peak_tflops
        chosen = {"tensorboard": config.tensorboard, "wandb": config.wandb}
        labels = {"name": facts.name, "config": facts.config}
        self._boards = Boards(wanted(run.path, **chosen, **labels) if world.is_main else [])
        # On GPUs the collectives cannot be timed here: see Blocked.
        timed = world.size > 1 and world.device.type == "cpu"
        self._blocked = Blocked(clock=clock) if timed else None
        self._stack = ExitStack()
        self._step = 0
        self._begin_window()

    def __enter__(self) -> "Telemetry":
        """Begin to time collectives, and forget how the run ended before."""
        if self._blocked is not None:
            self._stack.enter_context(self._blocked)
        if self._world.is_main:
            (self._run.path / ENDED).unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Close the boards; an error is left in ``RUN/ended.json`` for ``tokenunify status``."""
        self._stack.close()
        self._boards.close()
        if error is not None and self._world.is_main:
            ended = {
                "kind": type(error).__name__,
                "exit_code": getattr(error, "exit_code", 1),
                "message": " ".join(str(error).split())[:500],
                "step": self._step,
                "time": round(self._now(), 1),
            }
            with suppress(OSError):  # a full disk may be the error itself
                write_atomically(self._run.path / ENDED, json.dumps(ended) + "\n")

    def begin(self, step: int) -> None:
        """Start behind ``step``: at the start, after a resume, and where a run goes back.

        Raises:
            HostError: a board that was asked for cannot be had.
        """
        self._step, self._cold = step, True
        self._marks = deque([(step, self._clock())], maxlen=RECENT)
        self._begin_window()
        self._boards.begin(step)

    def _begin_window(self) -> None:
        """Start all clocks of a window."""
        self._steps, self._weights = 0, {}
        self._waited = 0.0
        self._held_before = self._blocked.seconds if self._blocked else 0.0
        self._began = self._clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what asks for data."""
        began = self._clock()
        yield
        self._waited += self._clock() - began

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Around what is no training, as a save or a measurement: the rates leave it out."""
        began, held = self._clock(), self._blocked.seconds if self._blocked else 0.0
        yield
        self._began += self._clock() - began
        if self._blocked:
            self._held_before += self._blocked.seconds - held

    def count(self, weights: Mapping[str, float] | None = None) -> None:
        """Count a step, whether it was taken or skipped.

        Args:
            weights: of the curriculum at this step, by term; their means are logged.
        """
        self._steps += 1
        for name, value in (weights or {}).items():
            self._weights[name] = self._weights.get(name, 0.0) + value

    def log(self, step: int, record: Mapping[str, Any], **more: Any) -> None:
        """Log the window that ends here, and begin another. Collective: all ranks call it.

        Args:
            step: optimizer steps done.
            record: losses and terms, already read from the device: they mark the window's end.
            more: ``lr``, and counts such as ``skipped``, ``steps_skipped`` and ``rollbacks``.
        """
        self._step = step
        weights = {WEIGHT + name: sum_ / self._steps for name, sum_ in self._weights.items()}
        values = {**record, **more, **weights, **self._rates(), **self._left(step)}
        line = {"step": step, "time": round(self._now(), 1), **values}
        if "mfu" in line:
            line["peak_tflops"] = self._peak
        self._run.log(**line)
        self._boards.write(step, points(line))
        self.note = in_short(line)
        self._begin_window()

    def _rates(self) -> dict[str, float]:
        """What the window's clocks say, and memory; nothing of a window without a step."""
        if not self._steps:
            return {}
        seconds = max(self._clock() - self._began, 1e-9)
        facts, size = self._facts, self._world.size
        crops = self._steps * facts.global_batch / seconds
        unit, count = ("tokens", facts.tokens) if facts.tokens else ("voxels", facts.voxels)
        rates = {"crops_per_s": crops, f"{unit}_per_s": crops * count}
        if facts.gmac:
            rates["tflop_per_s"] = crops * 2e-3 * BACKWARD * facts.gmac
            if self._peak:
                rates["mfu"] = rates["tflop_per_s"] / (size * self._peak)
        held = self._blocked.seconds - self._held_before if self._blocked else 0.0
        own = [self._waited / seconds, held / seconds, peak_rss() / GIB, self._gpu() / GIB]
        waits, blocks, rss, gpu = self._over_ranks(own)
        rates["data_wait"] = max(waits)  # the others wait for this rank
        if self._blocked:
            rates["communication"] = sum(blocks) / size
        rates["peak_rss_gib"] = max(rss)
        return rates | ({"peak_gpu_gib": max(gpu)} if max(gpu) else {})

    def _over_ranks(self, own: list[float]) -> list[tuple[float, ...]]:
        """Each of this rank's numbers as those of all ranks."""
        rows = torch.zeros(self._world.size, len(own), dtype=torch.float64)
        rows[self._world.rank] = torch.tensor(own, dtype=torch.float64)
        return list(zip(*sum_over_ranks(rows.to(self._world.device)).tolist(), strict=True))

    def _gpu(self) -> int:
        device = self._world.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    def _left(self, step: int) -> dict[str, float]:
        """Seconds to the end, by the last lines, with all that happened between them."""
        if not self._steps:
            return {}
        (before, began), ended = self._marks[0], self._clock()
        if self._cold:  # the first window compiles and fills caches
            self._marks.clear()
            self._cold = False
        self._marks.append((step, ended))
        if step <= before:
            return {}
        return {"seconds_left": (self._facts.steps - step) * (ended - began) / (step - before)}


def peak_rss() -> int:
    """Most bytes of main memory that this process has held."""
    if STATUS.is_file():  # getrusage also counts what the parent had when it started this process
        kilobytes = re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)[1]
        return 1024 * int(kilobytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
