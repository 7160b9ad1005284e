"""The C library's heap: what is free in it goes back to the system."""

import ctypes
import functools
from collections.abc import Callable


def give_back() -> bool:
    """Return the free pages of the heap, those between what is in use too.

    Activations of a few sizes, freed and asked for again, leave holes that others do not fit into;
    over thousands of tiles they add up to some times what is in use. It takes milliseconds.

    Returns:
        Whether the C library can do it, and did.
    """
    trim = _trim()
    return bool(trim and trim(0))


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's function, or None with another C library."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
