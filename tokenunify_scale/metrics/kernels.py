"""Compiled loops over pairs of ids: count them in a hash table, or find some of them.

Ids are uint64 here; signed ones come as their bits. Neighbouring voxels mostly share both ids, so
a run of equal pairs is looked up once. The interpreter lock is released meanwhile.
"""

import functools
import logging
from collections.abc import Callable

from numba import njit, types
from numba.extending import register_jitable

log = logging.getLogger(__name__)
_IDS, _COUNTS = types.uint64[::1], types.int64[::1]


@register_jitable
def _slot(a: int, b: int, left: list, right: list, counts: list) -> int:
    """Where the pair (a, b) lies in a table, or the free place where it would."""
    mixed = (a ^ (b * types.uint64(0x9E3779B97F4A7C15))) * types.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> types.uint64(29)
    mixed *= types.uint64(0x94D049BB133111EB)
    mask = left.size - 1
    slot = types.int64(mixed >> types.uint64(32)) & mask
    while counts[slot] != 0 and (left[slot] != a or right[slot] != b):
        slot = (slot + 1) & mask
    return slot


def _count(first, second, start, left, right, counts, filled):
    size = first.size
    i = start
    while i < size and 3 * filled < 2 * left.size:
        a, b = first[i], second[i]
        j = i + 1
        while j < size and first[j] == a and second[j] == b:
            j += 1
        slot = _slot(a, b, left, right, counts)
        if counts[slot] == 0:
            left[slot], right[slot] = a, b
            filled += 1
        counts[slot] += j - i
        i = j
    return i, filled


def _insert(first, second, amounts, left, right, counts):
    for i in range(first.size):
        if amounts[i] != 0:
            slot = _slot(first[i], second[i], left, right, counts)
            left[slot], right[slot] = first[i], second[i]
            counts[slot] += amounts[i]


def _find(first, second, left, right, numbers, found):
    size = first.size
    i = 0
    while i < size:
        a, b = first[i], second[i]
        number = numbers[_slot(a, b, left, right, numbers)]
        while i < size and first[i] == a and second[i] == b:
            found[i] = number
            i += 1


@functools.cache
def count() -> Callable:
    """Kernel (first, second, start, left, right, counts, filled) -> (next, filled).

    Adds the pairs of two flat arrays, from ``start`` on, to a table of a power of two places; a
    place is free where its count is 0. Stops before ``next`` when two thirds of them are taken.
    """
    pair = types.UniTuple(types.int64, 2)
    return _compile(_count, pair(_IDS, _IDS, types.int64, _IDS, _IDS, _COUNTS, types.int64))


@functools.cache
def insert() -> Callable:
    """Kernel (first, second, amounts, left, right, counts): adds rows to a table with room."""
    return _compile(_insert, types.void(_IDS, _IDS, _COUNTS, _IDS, _IDS, _COUNTS))


@functools.cache
def find() -> Callable:
    """Kernel (first, second, left, right, numbers, found): the number of each voxel's pair.

    The table holds numbers from 1 in place of counts; ``found`` [N] int32 gets 0 for other pairs.
    """
    return _compile(_find, types.void(_IDS, _IDS, _IDS, _IDS, _COUNTS, types.int32[::1]))


def _compile(kernel: Callable, signature: object) -> Callable:
    try:
        return njit(signature, nogil=True, cache=True)(kernel)
    except (RuntimeError, OSError):
        log.warning(
            "numba can write to no cache folder: what counts overlaps compiles again in "
            "every process, which takes a second; NUMBA_CACHE_DIR names another folder"
        )
        return njit(signature, nogil=True)(kernel)
