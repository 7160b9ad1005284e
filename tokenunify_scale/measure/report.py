"""Findings of a benchmark beside what is asked of them, and tables of plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """A number that a finding should reach, or stay within."""

    sense: Literal["at least", "at most"]
    limit: float
    digits: str = ".1f"
    """How limit and value are printed."""


TARGETS = {
    "per-step loop": Target("at least", 1000, ".0f"),
    "parallel scan, short": Target("at least", 30),
    "parallel scan, long": Target("at least", 120),
    "floor": Target("at most", 2.2, ".2f"),
    "memory": Target("at most", 6, ".2f"),
    "scan and conv1d": Target("at most", 0.20, ".1%"),
    "rest of the Mamba block": Target("at most", 1.3, ".2f"),
    "convolutions": Target("at most", 1.05, ".2f"),
    "loader": Target("at least", 0.9, ".2f"),
    "whole volumes": Target("at least", 100, ".0f"),
    "growth": Target("at most", 1.15, ".2f"),
    "three-way step": Target("at most", 1.25, ".2f"),
    "loop": Target("at most", 0.03, ".1%"),
    "planner": Target("at most", 0.15, ".1%"),
    "inferer": Target("at least", 1.0, ".2f"),
    "inferer memory": Target("at most", 0.5, ".2f"),
    "scores": Target("at least", 5),
    "perfect": Target("at most", 0.01, ".3f"),
    "noise": Target("at most", 0.25, ".2f"),
    "blocks": Target("at most", 0.02, ".4f"),
    "equal scores": Target("at most", 1e-9, ".1e"),
}
VERDICTS = {True: "PASS", False: "FAIL", None: ""}


@dataclass(frozen=True)
class Finding:
    """One measured ratio."""

    what: str
    """In words, with the shape."""

    value: float
    kind: str
    """Its key in ``TARGETS``."""

    judged: bool = True
    """Whether the target holds: at other sizes than the tiny network's it does not."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where it does not hold."""
        if not self.judged:
            return None
        target = TARGETS[self.kind]
        above = self.value >= target.limit
        return above if target.sense == "at least" else self.value <= target.limit

    def record(self) -> dict[str, Any]:
        """Plain data for a file."""
        target = TARGETS[self.kind]
        asked = f"{target.sense} {target.limit}" if self.judged else None
        return {"what": self.what, "value": self.value, "target": asked, "met": self.met}


def verdicts(findings: Sequence[Finding]) -> str:
    """A table of findings, each with its target and PASS or FAIL where that holds."""
    rows = []
    for finding in findings:
        target = TARGETS[finding.kind]
        value, limit = (format(number, target.digits) for number in (finding.value, target.limit))
        asked = f"{target.sense} {limit}" if finding.judged else ""
        rows.append([finding.what, value, asked, VERDICTS[finding.met]])
    return table(["ratios", "measured", "target", ""], rows)


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many of the findings reach their targets, of how many that hold; empty for none."""
    judged = [finding.met for finding in findings if finding.judged]
    return {"targets_met": sum(judged), "targets": len(judged)} if judged else {}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text under their heads: the first flush left, the others flush right."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(size) if i else cell.ljust(size)
            for i, (cell, size) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def milliseconds(seconds: float) -> str:
    """A time in ms with three or four digits."""
    return f"{seconds * 1e3:.4g}" if seconds < 1 else f"{seconds * 1e3:.0f}"
