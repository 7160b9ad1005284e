"""Permutations and hashes of whole numbers, the same on every machine and in every version.

A library's random numbers may change between versions, and would change the order of a run that
is resumed.
"""

from collections.abc import Sequence

WORD = (1 << 64) - 1
ROUNDS = 8
TABLE = 1 << 15
"""Numbers up to which a permutation is a table: as quick as can be, once it is there."""


def permutation(size: int, *, key: int) -> Sequence[int]:
    """A permutation of range(size), indexed by what it permutes; another key, another one."""
    return shuffled(size, key=key) if size <= TABLE else Permutation(size, key=key)


class Permutation:
    """A permutation of range(size) in no memory, whatever the size: a Feistel network, walked."""

    def __init__(self, size: int, *, key: int) -> None:
        """Another key, another permutation."""
        bits = max(size - 1, 2).bit_length()
        self._size, self._low = size, bits // 2
        self._masks = (1 << bits - bits // 2) - 1, (1 << bits // 2) - 1
        keys = [mix(key, round_) for round_ in range(ROUNDS)]
        self._rounds = tuple(zip(keys[::2], keys[1::2], strict=True))

    def __getitem__(self, value: int) -> int:
        """Where ``value`` goes."""
        low, (upper, lower) = self._low, self._masks
        while True:
            left, right = value >> low, value & lower
            for even, odd in self._rounds:
                left ^= stir(even + right) & upper
                right ^= stir(odd + left) & lower
            value = left << low | right
            if value < self._size:
                return value


def shuffled(size: int, *, key: int) -> list[int]:
    """range(size) permuted: sorted by hashes."""
    start = mix(key)
    return sorted(range(size), key=lambda value: stir(start + value))


def mix(*words: int) -> int:
    """Hash words to 64 bits: splitmix64's finaliser, chained (Steele, Lea, Flood 2014)."""
    state = 0
    for word in words:
        state = stir(state + word)
    return state


def stir(state: int) -> int:
    """One step of splitmix64."""
    state = (state + 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & WORD
    return state ^ state >> 31
