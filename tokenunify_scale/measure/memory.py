"""Peak memory of work: on a CPU in a process of its own that has done nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tokenunify_scale.measure.scan import forward_backward, tensors
from tokenunify_scale.ops.selective_scan import selective_scan

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # what Linux wants written into clear_refs to set the peak to the present


def peak_extra(*, channels: int, length: int, states: int, threads: int) -> float | None:
    """Most memory that a scan's forward and backward take beyond the inputs, over u's bytes.

    Returns:
        None where the system cannot tell: it needs Linux's /proc/self/clear_refs.
    """
    found = printed(
        f"from {__name__} import measure_here; measure_here({channels}, {length}, {states}, "
        f"{threads})"
    )
    return None if found is None else found / (channels * length * torch.float32.itemsize)


def printed(code: str, *, environment: Mapping[str, str] | None = None) -> int | None:
    """The number that code prints in a fresh process, as ``print_peak`` does.

    Args:
        code: Python.
        environment: added to this process's.

    Returns:
        None where the system cannot tell a peak.
    """
    if not os.access(RESET, os.W_OK):
        return None
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return int(done.stdout)


def print_peak(work: Callable[[], object]) -> None:
    """Run work in this process and print the bytes at its peak that are more than before."""
    RESET.write_text(FORGET_PEAK)
    before = _kilobytes("VmRSS")
    results = work()
    print(1024 * (_kilobytes("VmHWM") - before))
    del results


def peak_on_gpu(work: Callable[[], object]) -> int:
    """Bytes of tensors on the GPU at the peak of work that are more than before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = work()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    del results
    return extra


def measure_here(channels: int, length: int, states: int, threads: int) -> None:
    """Print the extra bytes at the peak of a scan; to be called in a fresh process."""
    torch.set_num_threads(threads)
    short, full = (
        forward_backward(
            selective_scan,
            tensors(channels=channels, length=steps, states=states),
            delta_softplus=True,
        )
        for steps in (2, length)
    )
    short()  # compiles or loads the kernels, whose memory is not the scan's
    print_peak(full)


def _kilobytes(name: str) -> int:
    return int(re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)[1])
