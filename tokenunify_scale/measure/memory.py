"""Peak memory of a scan, in a process of its own that has done nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from tokenunify_scale.measure.scan import forward_backward, tensors
from tokenunify_scale.ops import selective_scan

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # what Linux wants written into clear_refs to set the peak to the present


def peak_extra(*, channels: int, length: int, states: int, threads: int) -> float | None:
    """Most memory that forward and backward take beyond the inputs, as a multiple of u's bytes.

    Returns:
        None where the system cannot tell: it needs Linux's /proc/self/clear_refs.
    """
    if not os.access(RESET, os.W_OK):
        return None
    code = (
        f"from {__name__} import measure_here; measure_here({channels}, {length}, {states}, "
        f"{threads})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout) / (channels * length * torch.float32.itemsize)


def measure_here(channels: int, length: int, states: int, threads: int) -> None:
    """Print the extra bytes at the peak; to be called in a fresh process."""
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
    RESET.write_text(FORGET_PEAK)
    before = _kilobytes("VmRSS")
    results = full()
    print(1024 * (_kilobytes("VmHWM") - before))
    del results


def _kilobytes(name: str) -> int:
    return int(re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE)[1])
