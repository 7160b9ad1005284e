"""The words of the doctor: a host, the job it is to be part of, and what is wrong with it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Facts = Mapping[str, Any]
"""What ``host.look`` returns."""

Severity = Literal["error", "warning"]
Remark = tuple[Severity, str, str, str]
"""How bad it is, what was found, what is wanted, and a command that helps."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    host: str
    check: str
    severity: Severity
    found: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        word = "FAIL" if self.severity == "error" else "warn"
        return (
            f"{word} {self.host}, {self.check}: {self.found}; "
            f"wanted: {self.wanted}; remedy: {self.remedy}"
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every host is measured against."""

    here: Facts
    """The facts of the machine that starts the job."""

    names: Sequence[str] = ()
    """The hosts that answered, without users."""

    gpu: Facts | None = None
    """The facts of the first host with GPUs."""

    shared: Path | None = None
    """The folder that all hosts are to see."""

    shared_bytes: int = 0
    """Free space wanted there."""

    port: int = 29500
    """Where the ranks meet, on the first host."""

    travel_file: str = "~/.deepspeed_env"
    """Where variables that are to travel are written down."""

    mistakes: Sequence[str] = ()
    """Lines of such files that DeepSpeed cannot read."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One host, and what is known of it."""

    name: str | None
    """As in the hostfile; None for this machine."""

    facts: Facts
    slots: int | None = None
    """Ranks that are to run there."""

    first: bool = False
    """Whether it is the host where the ranks meet."""

    asked: float = 0.0
    """When, in seconds since 1970 by the clock here."""

    answered: float = 0.0
    unreached: Sequence[Sequence[Any]] | None = ()
    """What ``host.meet`` returned; None where it did not answer."""

    def on(self, command: str) -> str:
        """How a command is run on this host."""
        return command if self.name is None else f"ssh {self.name} {shlex.quote(command)}"


def some(names: Sequence[str], *, most: int = 3) -> str:
    """A few names, and dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def together(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that differ in the host alone as one, in the order of the first ones."""
    hosts: dict[Finding, list[str]] = {}
    for finding in findings:
        hosts.setdefault(replace(finding, host=""), []).append(finding.host)
    return [replace(finding, host=", ".join(names)) for finding, names in hosts.items()]
