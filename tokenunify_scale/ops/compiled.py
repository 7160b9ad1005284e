"""Plain functions compiled by numba, kept on disk where there is a place."""

import functools
import logging
from collections.abc import Callable

from numba import njit

log = logging.getLogger(__name__)


def compiled(function: Callable) -> Callable:
    """Compile a function on its first call; the interpreter lock is released while it runs.

    Kept in numba's cache on disk; where no cache can be written, a warning says so once.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except (RuntimeError, OSError):
        say_uncached()
        return njit(nogil=True)(function)


@functools.cache
def say_uncached() -> None:
    """Warn, once, that compiled kernels cannot be kept on disk."""
    log.warning(
        "numba can write to no cache folder: kernels compile again in every process, "
        "which takes seconds; NUMBA_CACHE_DIR names another folder"
    )
