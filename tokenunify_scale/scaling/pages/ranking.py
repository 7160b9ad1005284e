"""Which initialisation or method is best in each cell of a grid, and what the seeds cannot tell."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from tokenunify_scale.config import ConfigError, did_you_mean
from tokenunify_scale.scaling.pages.collect import CELL, SCORES, Row, axes_of, values_of
from tokenunify_scale.scaling.pages.tables import EMPTY, Table

LEVEL = 0.95
CLOSE = "="  # stands behind what is not told from the best
NAMES = {"voi": "VOI (bits)", "arand": "ARAND", "voi_split": "split", "voi_merge": "merge"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One initialisation or method within a block."""

    name: str
    n: int
    """Seeds that were scored."""
    planned: int
    """Seeds of the plan."""
    mean: float | None
    """None where no seed was scored."""
    sd: float | None
    """Of a sample, n - 1 in the denominator; None below two seeds."""
    best: bool
    pairs: int = 0
    """Seeds shared with the best."""
    behind: float | None = None
    """Mean over shared seeds of this score minus the best's; None for the best, or without any."""
    low: float | None = None
    """95 % interval of ``behind`` by the paired t distribution; None below two shared seeds."""
    high: float | None = None

    @property
    def close(self) -> bool | None:
        """Whether the interval holds zero; None where the seeds allow no interval."""
        return None if self.low is None else self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is compared: entries that differ in one axis, all else equal but the seed."""

    where: tuple[tuple[str, str], ...]
    """(axis, value) pairs that all entries share."""
    entries: tuple[Entry, ...]
    """From the best mean to the worst; those without a score last."""


def rank(rows: Iterable[Row], *, score: str = "voi", of: str = "init") -> list[Block]:
    """Order the values of one axis by their mean score over seeds; lower is better.

    Args:
        rows: of one study.
        score: voi, arand, voi_split or voi_merge.
        of: the axis whose values compete: init, size, or one of the study's own.

    Returns:
        A block for each combination of the other axes, in the order of the rows.

    Raises:
        ConfigError: no such score, or no such axis.
    """
    rows = list(rows)
    axes = [name for name in (*CELL, *axes_of(rows)) if name != "seed"]
    if score not in SCORES:
        raise ConfigError(f"no score {score!r}: {did_you_mean(score, SCORES)}")
    if of not in axes:
        raise ConfigError(f"no axis {of!r} to rank: {did_you_mean(of, axes)}")
    blocks: dict[tuple[tuple[str, str], ...], dict[str, dict[str, float | None]]] = {}
    for row in rows:
        at = values_of(row)
        where = tuple((name, at[name]) for name in axes if name != of and name in at)
        scores = blocks.setdefault(where, {}).setdefault(at.get(of, ""), {})
        scores[at["seed"]] = getattr(row, score)
    return [Block(where=where, entries=_entries(found)) for where, found in blocks.items()]


def _entries(found: dict[str, dict[str, float | None]]) -> tuple[Entry, ...]:
    measured = {
        name: {seed: value for seed, value in scores.items() if value is not None}
        for name, scores in found.items()
    }
    means = {name: statistics.fmean(some.values()) for name, some in measured.items() if some}
    best = min(means, key=means.__getitem__, default=None)
    entries = []
    for name in sorted(found, key=lambda name: means.get(name, math.inf)):
        some = list(measured[name].values())
        compared = {} if best in (None, name) else paired(measured[name], measured[best])
        entries.append(
            Entry(
                name=name,
                n=len(some),
                planned=len(found[name]),
                mean=means.get(name),
                sd=statistics.stdev(some) if len(some) > 1 else None,
                best=name == best,
                **compared,
            )
        )
    return tuple(entries)


def paired(one: dict[str, float], other: dict[str, float]) -> dict[str, float | int | None]:
    """Mean difference over shared seeds and its 95 % interval by Student's paired t.

    Args:
        one: score by seed.
        other: score by seed; subtracted.

    Returns:
        pairs, behind, low and high, as in ``Entry``.
    """
    seeds = [seed for seed in one if seed in other]
    if not seeds:
        return {"pairs": 0}
    gaps = [one[seed] - other[seed] for seed in seeds]
    found: dict[str, float | int | None] = {"pairs": len(gaps), "behind": statistics.fmean(gaps)}
    if len(gaps) > 1:
        error = statistics.stdev(gaps) / math.sqrt(len(gaps))
        reach = float(student.ppf((1 + LEVEL) / 2, len(gaps) - 1)) * error
        found |= {"low": found["behind"] - reach, "high": found["behind"] + reach}
    return found


def ranking_table(
    rows: Iterable[Row],
    *,
    of: str = "init",
    scores: Sequence[str] = ("voi", "arand"),
    caption: str = "",
) -> Table:
    """Blocks of ``rank`` by the first score, with mean +- sd of all scores, as a table.

    The best mean of every score and block is bold; what the paired seeds do not tell from it has
    an "=" behind it. The notes say what was compared, and what the number of seeds left open.

    Args:
        rows: of one study.
        of: the axis whose values compete.
        scores: columns; the first one orders.
        caption: stands over the table.
    """
    rows = list(rows)
    ranked = {score: rank(rows, score=score, of=of) for score in scores}
    shown = [name for name in ("size", "init", *axes_of(rows)) if name != of]
    versus = f"{NAMES[scores[0]]} to the best [95 %]"
    columns = (*shown, of, "seeds", *(NAMES[score] for score in scores), versus)
    lines, bold, rules = [], set(), set()
    for number, block in enumerate(ranked[scores[0]]):
        rules.add(len(lines))
        others = {s: {e.name: e for e in ranked[s][number].entries} for s in scores}
        for entry in block.entries:
            cells = [others[score][entry.name] for score in scores]
            for place, cell in enumerate(cells, start=len(shown) + 2):
                if cell.best:
                    bold.add((len(lines), place))
            n = str(entry.n) if entry.n == entry.planned else f"{entry.n} of {entry.planned}"
            where = [dict(block.where).get(name, EMPTY) for name in shown]
            lines.append((*where, entry.name, n, *map(_score, cells), _behind(entry)))
    return Table(
        columns=columns,
        rows=tuple(lines),
        words=frozenset({*shown, of}),
        bold=frozenset(bold),
        rules=frozenset(rules) if len(ranked[scores[0]]) < len(lines) else frozenset(),
        caption=caption,
        notes=_notes([block for blocks in ranked.values() for block in blocks], of=of),
    )


def _score(entry: Entry) -> str:
    if entry.mean is None:
        return EMPTY
    spread = "" if entry.sd is None else f" +- {entry.sd:.4f}"
    return f"{entry.mean:.4f}{spread}{f' {CLOSE}' if entry.close else ''}"


def _behind(entry: Entry) -> str:
    if entry.behind is None:
        return EMPTY
    interval = "" if entry.low is None else f" [{entry.low:+.4f}, {entry.high:+.4f}]"
    return f"{entry.behind:+.4f}{interval}"


def _notes(blocks: Sequence[Block], *, of: str) -> tuple[str, ...]:
    """What a reader must know about the marks."""
    entries = [entry for block in blocks for entry in block.entries]
    rivals = [entry for entry in entries if entry.behind is not None]
    notes = ["Lower is better; bold: the best mean."]
    if any(entry.sd is not None for entry in entries):
        notes[0] += " +-: standard deviation over seeds."
    if any(entry.low is not None for entry in rivals):
        marked = f" {CLOSE}: within the noise of the best." if any(e.close for e in rivals) else ""
        notes.append(
            f"Interval: difference to the best of its block over shared seeds, paired t, 95 % for "
            f"one comparison (not corrected for their number).{marked}"
        )
    if any(entry.low is None for entry in rivals):
        which = "Where" if any(entry.low is not None for entry in rivals) else "As"
        notes.append(
            f"{which} fewer than two seeds are shared, how much of a difference between "
            f"{of} values is noise is not known."
        )
    return tuple(notes)
