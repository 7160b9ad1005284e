"""Names to factories: one small class, five instances, filled by plain calls."""

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

    def get(self, name: str) -> Entry:
        """The entry of ``name``.

        Raises:
            ConfigError: unknown; the message has the nearest name and the list.
        """
        if name not in self._entries:
            hint = did_you_mean(str(name), self.names())
            raise ConfigError(f"unknown {self.kind} {name!r}: {hint}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order they were added."""
        return list(self._entries)


MODELS = Registry("model")
OBJECTIVES = Registry("objective")
CURRICULA = Registry("curriculum")
READERS = Registry("reader")
POSTPROCESS = Registry("post-processing")
