"""A whole training step: how long it takes, and which kinds of work take it."""

import os
import re
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from tokenunify_scale.measure.calls import precision
from tokenunify_scale.measure.clock import medians

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PASSES = 3  # of multiply-adds in a step: forward, and backward to inputs and to weights
# The first pattern that is found in the name of a profiled operation says what kind it is.
KINDS = {
    "scan": r"selective_scan|scan_kernel",
    "conv1d": r"causal_conv1d|conv1d_kernel",
    "conv3d": r"conv",
    "matmul": r"::(addmm_?|mm|bmm|baddbmm_?|matmul|linear|mkldnn_linear)$",
    "norm": r"norm(?!al)",
    "activation": r"relu|gelu|silu|sigmoid|softplus|threshold|tanh",
    "copies and sums": (
        r"::(copy_|_to_copy|clone|contiguous|cat|stack|flip|repeat|constant_pad_nd|im2col|col2im"
        r"|add_?|sub_?|mul_?|div_?|neg|exp|sum|mean|fill_|zero_)$"
    ),
}
OTHER = "other"
WHOLE = "benchmark::whole"


def training_step(model: nn.Module, crops: Tensor, *, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward of a mean square against the crops; gradients are made anew."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision(dtype, like=crops):
            output = model(crops)
        (output.float() - crops).square().mean().backward()

    return step


def steps_on_gpu(
    model: nn.Module, crops: Tensor, *, gmac: float, repeats: int
) -> dict[str, dict[str, Any]]:
    """Seconds and operations of a training step in each precision, medians of steps in turns.

    Args:
        model: the network, on the GPU.
        crops: its input, there too.
        gmac: multiply-adds of its forward pass, in 1e9.
        repeats: turns of each precision.
    """
    works = {name: training_step(model, crops, dtype=dtype) for name, dtype in PRECISIONS.items()}
    seconds = medians(works, repeats=repeats)
    flop = 2e9 * PASSES * gmac
    return {name: {"seconds": spent, "flop": flop} for name, spent in seconds.items()}


def breakdown(work: Callable[[], object], *, repeats: int) -> dict[str, float]:
    """Seconds of each kind of work on the CPU, medians of profiled runs; one run warms up.

    An operation's time is its own, without that of the operations it calls; what is between
    operations (Python, autograd) is in ``OTHER``.
    """
    work()
    runs = [_seconds_by_kind(work) for _ in range(repeats)]
    return {kind: statistics.median(run[kind] for run in runs) for kind in (*KINDS, OTHER)}


def kind_of(name: str) -> str:
    """The kind of a profiled operation."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHER)


def profiled(work: Callable[[], object], **options: bool) -> profile:
    """The profile of one run on the CPU, with options of torch's ``profile``."""
    # Else the profiler says on stderr when it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], **options) as found, record_function(WHOLE):
        work()
    return found


def _seconds_by_kind(work: Callable[[], object]) -> dict[str, float]:
    seconds = dict.fromkeys((*KINDS, OTHER), 0.0)
    for row in profiled(work).key_averages():
        seconds[kind_of(row.key)] += row.self_cpu_time_total / 1e6
    return seconds
