"""Plain functions compiled by numba, kept on disk where there is a place."""

from collections.abc import Callable

from numba import njit

from tokenunify_scale.ops.kernels import say_uncached


def compiled(function: Callable) -> Callable:
    """Compile a function on its first call; the interpreter lock is released while it runs.

    Kept in numba's cache on disk; where no cache can be written, a warning says so once.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except (RuntimeError, OSError):
        say_uncached()
        return njit(nogil=True)(function)
