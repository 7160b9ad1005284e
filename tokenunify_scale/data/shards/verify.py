"""Check a shard folder byte by byte: sizes, sha256, and that each sample can be read."""

from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.config import DataError
from tokenunify_scale.data.shards.index import INDEX, PARTIAL, Index, Shard, read_index
from tokenunify_scale.data.shards.reader import ShardSet
from tokenunify_scale.data.team import Team
from tokenunify_scale.train.sealed import file_sha256

SHOWN = 3
"""Samples of a tar that are named one by one."""


@dataclass(frozen=True)
class Report:
    """What was found in a folder."""

    folder: Path
    index: Index
    faults: dict[str, str]
    """Tars that are not as they should be, by name, and what is wrong with each."""

    def lines(self) -> list[str]:
        """A line for each tar that is damaged, and one that sums up."""
        shards, samples = self.index.shards, self.index.count
        size = sum(shard.bytes for shard in shards) / 1e6
        state = f"damaged: {len(self.faults)}" if self.faults else "all as index.json says"
        whole = f"{self.folder}: shards: {len(shards)}, crops: {samples}, {size:.1f} MB; {state}"
        return [*(f"{name}: {fault}" for name, fault in self.faults.items()), whole]


def report_on(folder: Path, *, team: Team | None = None) -> None:
    """Check a folder as ``verify`` does, and say what was found.

    Raises:
        DataError: a tar is damaged, or index.json is.
    """
    team = team or Team()
    report = verify(folder, team=team)

    def say() -> None:
        print("\n".join(report.lines()), flush=True)
        if report.faults:
            raise DataError(
                f"{folder}: {len(report.faults)} of its tars are damaged or not its own: delete "
                "them and run the same prepare again, which writes what is missing"
            )

    team.ask(say)


def read_facts(folder: Path) -> Index:
    """The index of a folder that is to be checked.

    Raises:
        DataError: no such folder, no index.json, or one that cannot be right.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such shard folder")
    if not (folder / INDEX).is_file():
        why = "prepare was interrupted, run it again" if (folder / PARTIAL).exists() else "missing"
        raise DataError(f"{folder / INDEX}: {why}")
    return read_index(folder / INDEX)


def verify(folder: Path, *, team: Team | None = None) -> Report:
    """Check each tar of a folder and look for tars that index.json does not list.

    Args:
        folder: what ``prepare`` wrote.
        team: the processes that share the work; all of them call this.

    Raises:
        DataError: as ``read_facts``; a damaged tar is no error but a part of the report.
    """
    team = team or Team()
    with team.together():
        index = read_facts(folder)
        extra = {p.name for p in folder.glob("*.tar")} - {shard.name for shard in index.shards}
    shards = ShardSet(folder, index)
    firsts, samples = [], 0
    for shard in index.shards:
        firsts.append(samples)
        samples += shard.count

    def check(number: int) -> str | None:
        fault = _fault(index.shards[number], of=shards, first=firsts[number])
        team.done()
        return fault

    with team.progress(len(index.shards), description="verify", unit="shard"):
        found = team.deal(range(len(index.shards)), check)
    faults = {s.name: fault for s, fault in zip(index.shards, found, strict=True) if fault}
    faults |= {name: f"{INDEX} does not list it" for name in sorted(extra)}
    return Report(folder, index, faults)


def _fault(shard: Shard, *, of: ShardSet, first: int) -> str | None:
    """What is wrong with a tar whose first sample has the number ``first``; None: nothing."""
    path = Path(of.folder) / shard.name
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"{size} bytes, {INDEX} says {shard.bytes}"
        sha256 = file_sha256(path)
    except OSError as error:
        return f"{error.strerror}"
    unread: list[str] = []
    for sample in range(first, first + shard.count):
        try:
            of.read(sample)
        except DataError as error:
            unread.append(str(error))
    faults = [f"sha256 is {sha256}, {INDEX} says {shard.sha256}"] * (sha256 != shard.sha256)
    if unread:
        shown = "; ".join(unread[:SHOWN])
        faults.append(f"{len(unread)} of {shard.count} samples cannot be read: {shown}")
    return ", ".join(faults) or None
