"""Names to factories: one small class, five instances, filled by plain calls."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenunify_scale.config import ConfigError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """What a name stands for: a factory, its default options, and where it was published."""

    name: str
    factory: Callable[..., Any]
    config: Any
    source: str


class Registry:
    """A table of entries of one kind, in the order they were added."""

    def __init__(self, kind: str) -> None:
        """Name the kind, as errors will call it."""
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._families: dict[str, tuple[str, Callable[[re.Match], Entry]]] = {}

    def add(
        self, name: str, factory: Callable[..., Any], config: Any = None, *, source: str
    ) -> None:
        """Enter ``factory`` under ``name``.

        Args:
            name: what users type.
            factory: called as ``factory(options, ...)``.
            config: default options, a frozen dataclass, or None where there are none.
            source: table, section or paper; "not in the paper" is a fine source.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = Entry(name, factory, config, source)

    def add_family(self, written: str, pattern: str, make: Callable[[re.Match], Entry]) -> None:
        """Enter all names that match a pattern, made when they are asked for; never listed.

        Args:
            written: how a user would write one, for errors: "emmamba_wN".
            pattern: a regular expression of whole names.
            make: the entry of a match; ValueError where its number cannot be.
        """
        self._families[pattern] = written, make

    def get(self, name: str) -> Entry:
        """The entry of ``name``.

        Raises:
            ConfigError: unknown; the message has the nearest name and the list.
        """
        if name in self._entries:
            return self._entries[name]
        for pattern, (_, make) in self._families.items():
            if match := re.fullmatch(pattern, str(name), re.ASCII):
                try:
                    return make(match)
                except ValueError as error:
                    raise ConfigError(f"{self.kind} {name!r}: {error}") from None
        hint = did_you_mean(str(name), self.names())
        also = "".join(f", {written}" for written, _ in self._families.values())
        raise ConfigError(f"unknown {self.kind} {name!r}: {hint}{also}")

    def names(self) -> list[str]:
        """All names, in the order they were added."""
        return list(self._entries)


MODELS = Registry("model")
OBJECTIVES = Registry("objective")
CURRICULA = Registry("curriculum")
READERS = Registry("reader")
POSTPROCESS = Registry("post-processing")
