"""The C library's allocator, told to keep what is freed: training frees and asks for it again."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 64 << 20
"""Blocks up to these bytes come from the heap: activations do, weights of large models do not."""
TRIMMED = 2**31 - 1
"""Free bytes at the heap's end that stay with the process."""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let freed blocks be used again without a page fault for every 4 KiB of them.

    By default glibc returns every block above 32 MiB to the system, and zeroed pages come back.
    What the user has set in the environment stands.

    Returns:
        Whether the setting was made: not with another C library, nor against the user's.
    """
    if any(name in os.environ for name in SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT) and mallopt(M_TRIM_THRESHOLD, TRIMMED))
