"""What a rank's memory holds when it holds most: DeepSpeed's buffers beside a step's tensors.

Source: Rajbhandari et al. 2020 (ZeRO), Fig. 1, for the states; the buffers are those of DeepSpeed
0.19.8, as its runtime/engine.py, zero/stage_1_and_2.py and zero/stage3.py allocate them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from tokenunify_scale.train.allocator import KEPT
from tokenunify_scale.train.live import Peak
from tokenunify_scale.train.strategy import computed_in, is_narrow

Device = Literal["cpu", "cuda"]
MIB, GIB = 1 << 20, 1 << 30
FP32 = 4
MOMENTS = 2 * FP32  # of AdamW
BUCKET = 500_000_000  # numbers, where the strategy does not say
LIVE = 1_000_000_000
PERSISTENT = 100_000
SUB_GROUP = 1_000_000_000
ROWS = ("parameters", "gradients", "optimizer", "activations", "buckets", "gathered", "temporaries")
TEMPORARIES = 2  # of AdamW beside a weight's moments: a root and a quotient

PROCESS = {"cpu": 530 * MIB, "cuda": 1024 * MIB}
"""A rank without a network: on a CPU interpreter, torch, DeepSpeed, compiled kernels and loader, of
which 200 MiB are libraries that all ranks share. Measured: ``benchmark memory --size atto --crop
16,32,32``, less the other rows. On CUDA context and libraries, assumed."""

COMPILER = 64 * MIB
"""With ZeRO a CPU rank has loaded torch's compiler too: DeepSpeed imports an optimizer that wants
it. Measured likewise."""

HALVES = 92 * MIB
"""What torch keeps on a CPU to compute in 16 bits, the same for all sizes. Measured likewise."""

SLACK = {"cpu": 0.3, "cuda": 0.1}
"""Of the activations' bytes, what lies between them. The C library keeps freed memory in pieces
that the next tensor does not fit into: 0.2 to 0.4 by ``benchmark memory``, and as much apart from
run to run. On CUDA assumed."""


@dataclass(frozen=True)
class Inventory:
    """Numbers in the tensors of an objective."""

    trained: int
    frozen: int
    largest: int
    """In the largest trained tensor."""
    small: int
    """In all parameters that ZeRO-3 keeps whole on every rank."""
    buffers: int


def inventory(objective: nn.Module, config: Mapping[str, Any]) -> Inventory:
    """Count an objective's tensors; ``config`` is DeepSpeed's."""
    limit = config["zero_optimization"].get("stage3_param_persistence_threshold", PERSISTENT)
    sizes = [(each.numel(), each.requires_grad) for each in objective.parameters()]
    trained = [size for size, learns in sizes if learns]
    return Inventory(
        trained=sum(trained),
        frozen=sum(size for size, learns in sizes if not learns),
        largest=max(trained, default=0),
        small=sum(size for size, _ in sizes if size <= limit),
        buffers=sum(buffer.numel() for buffer in objective.buffers()),
    )


@dataclass(frozen=True)
class Memory:
    """A rank's memory at its peak."""

    moment: str
    """When that is: in the backward pass, while gradients are reduced, or in the optimizer."""

    rows: dict[str, float]
    """Bytes by what they are for."""

    offloaded: float
    """Bytes of state in host memory beside a GPU's, or on disk."""

    @property
    def total(self) -> float:
        """Sum of the rows."""
        return sum(self.rows.values())


def memory_of_rank(
    config: Mapping[str, Any], *, counted: Inventory, peak: Peak, world: int, device: Device
) -> Memory:
    """Memory of a rank when it holds most.

    Args:
        config: DeepSpeed's, as ``ds_config`` returned it.
        counted: of the objective.
        peak: of a micro-batch.
        world: number of ranks.
        device: what the ranks compute on.
    """
    stage = config["zero_optimization"]["stage"]
    states, moments, blocks = (_sharded if stage else _plain)(
        config, counted=counted, peak=peak, world=world, device=device
    )
    process, offloaded = float(PROCESS[device]), 0.0
    for name, part in (("optimizer", "optimizer"), ("parameters", "param")):
        place = config["zero_optimization"].get(f"offload_{part}", {}).get("device", "none")
        if place == "nvme" or (place == "cpu" and device == "cuda"):
            offloaded += states[name]
            states[name] = 0.0
    if device == "cpu":
        process += COMPILER * (stage > 0) + HALVES * (computed_in(config) != "float32")
        mapped = (size * count for size, count in blocks if size >= KEPT)
        moments["backward pass"]["temporaries"] = max(mapped, default=0.0)
    moment, held = max(moments.items(), key=lambda each: sum(each[1].values()))
    rows = {name: states.get(name, 0.0) + held.get(name, 0.0) for name in ROWS}
    slack = SLACK[device] * peak.activations
    return Memory(moment, {**rows, "slack": slack, "process": process}, offloaded)


class _Held(NamedTuple):
    """Bytes that a rank holds."""

    states: dict[str, float]
    """Always."""
    moments: dict[str, dict[str, float]]
    """Beside them, by what a step is at."""
    blocks: list[tuple[float, int]]
    """Temporaries after the backward pass: the size of one, and how many there are at once. On a
    CPU they are made in memory that the C library has kept since then, but for the large, which it
    maps anew."""


def _plain(
    config: Mapping[str, Any], *, counted: Inventory, peak: Peak, world: int, device: Device
) -> _Held:
    """Stage 0: no ZeRO."""
    trained = float(counted.trained)
    states = {
        "parameters": FP32 * (trained + counted.frozen + counted.buffers),
        "optimizer": MOMENTS * trained,
    }
    whole, bucket = FP32 * trained, FP32 * min(trained, BUCKET)
    # Accumulated ones are there from the beginning.
    early = whole if config["gradient_accumulation_steps"] > 1 else peak.together - peak.activations
    # torch steps weight by weight on a CPU, and all at once on a GPU.
    stepped = FP32 * float(counted.largest if device == "cpu" else trained)
    moments = {
        "backward pass": {"activations": peak.activations, "gradients": early},
        "reduction": {"gradients": whole, "buckets": bucket},
        "optimizer": {"gradients": whole, "temporaries": TEMPORARIES * stepped},
    }
    return _Held(states, moments, [(bucket, 1), (stepped, TEMPORARIES)])


def _sharded(
    config: Mapping[str, Any], *, counted: Inventory, peak: Peak, world: int, device: Device
) -> _Held:
    """Stages 1, 2 and 3: as ``_plain``."""
    zero, trained = config["zero_optimization"], float(counted.trained)
    stage, word = zero["stage"], 2 if is_narrow(config) else FP32
    everything, mine = trained + counted.frozen, trained / world
    kept = everything / world + (counted.small if world > 1 else 0) if stage == 3 else everything
    states = {
        "parameters": word * kept + FP32 * counted.buffers,
        "optimizer": (MOMENTS + FP32) * mine,  # the master copy is there in fp32 mode too
    }
    size = zero.get("reduce_bucket_size", BUCKET)
    # Pages of a CPU that nobody writes to are not there.
    bucket = word * float(min(size, trained) if device == "cpu" else size)
    double = 2 if stage < 3 and zero.get("overlap_comm") and device == "cuda" else 1
    sent = word * float(min(size, trained))
    gathered = 0.0
    if stage == 3 and world > 1:
        most = zero.get("stage3_max_live_parameters", LIVE)
        gathered = word * float(min(everything - counted.small, most))
    # Stage 3 steps in parts.
    part = FP32 * (min(mine, zero.get("sub_group_size", SUB_GROUP)) if stage == 3 else mine)
    own = {"gradients": FP32 * mine} if stage > 1 else {"gradients": word * trained}
    held = {"buckets": double * bucket}
    moments = {
        "backward pass": {**own, **held, "gathered": gathered, "activations": peak.activations},
        "reduction": {**own, **held, "gathered": gathered, "temporaries": sent},
        "optimizer": {
            **own, **(held if stage == 3 else {}), "temporaries": (1 + TEMPORARIES) * part,
        },
    }  # fmt: skip
    return _Held(states, moments, [(sent, 1), (part, 1 + TEMPORARIES)])
