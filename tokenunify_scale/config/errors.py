"""What can be wrong, each kind with the exit code that scripts can test."""

import difflib
from collections.abc import Sequence


class ConfigError(ValueError):
    """The request is wrong: a key, a value or a combination of them."""

    exit_code = 2


class HostError(RuntimeError):
    """The environment lacks something: a package, a device, a reachable host."""

    exit_code = 3


class DataError(ValueError):
    """Data on disk is missing, damaged, or of another shape than the request needs."""

    exit_code = 4


class DivergedError(RuntimeError):
    """Training produced losses that are no numbers or far off, and going back did not help."""

    exit_code = 5


class Stopped(RuntimeError):
    """A signal asked the run to stop; it is saved, and goes on when it is started again."""

    exit_code = 75


def did_you_mean(word: str, valid: Sequence[str]) -> str:
    """A hint that names the nearest valid word and lists them all."""
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}valid: {', '.join(valid)}"
