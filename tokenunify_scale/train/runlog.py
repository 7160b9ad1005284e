"""The run folder: what was asked, where it ran, what was measured; and progress on the screen."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from tokenunify_scale.config import ConfigError, DataError, HostError, dump_yaml, load_yaml, to_dict
from tokenunify_scale.train.hold import hold

T = TypeVar("T")
PACKAGES = ("tokenunify-scale", "torch", "deepspeed", "numpy", "numba", "mamba-ssm", "waterz")
LINE_SECONDS = 15.0  # between progress lines where there is no terminal


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Ranks other than 0 hold one too, and write nothing."""

    path: Path
    verb: str
    rank: int = 0
    started: float = field(default_factory=time.time)

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        verb: str,
        config: dict[str, Any],
        environment: dict[str, Any] | None = None,
        rank: int = 0,
        changeable: Container[str] | None = None,
    ) -> "RunFolder":
        """Open a folder for a run: config.yaml and environment.json; an old result.json goes.

        Args:
            path: made if it is missing.
            verb: which command runs.
            config: the resolved config as plain data; running it repeats the run.
            environment: what the verb knows beyond versions (world size, kernel backend).
            rank: only rank 0 writes.
            changeable: keys in which a run that goes on from a checkpoint may differ from what
                stands there; None where a run always begins anew.

        Raises:
            ConfigError: the folder belongs to another verb, or holds a checkpoint of another run.
        """
        folder = cls(Path(path), verb, rank)
        folder._check_owner(config, changeable)
        if rank == 0:
            folder.path.mkdir(parents=True, exist_ok=True)
            if changeable is not None:
                hold(folder.path)
            (folder.path / "result.json").unlink(missing_ok=True)
            write_atomically(folder.path / "config.yaml", dump_yaml(config))
            facts = {"verb": verb, **describe_environment(), **(environment or {})}
            write_atomically(folder.path / "environment.json", json.dumps(facts, indent=1) + "\n")
        return folder

    def _check_owner(self, config: dict[str, Any], changeable: Container[str] | None) -> None:
        """Refuse to write over what another run left."""
        known, facts = self.path / "config.yaml", self.path / "environment.json"
        if not known.is_file() or not facts.is_file():
            return
        other = json.loads(facts.read_text()).get("verb")
        if other != self.verb:
            raise ConfigError(f"{self.path} is a run of {other}: give {self.verb} another --out")
        if changeable is None or not any((self.path / "checkpoints").glob("*step-*")):
            return
        before, now = load_yaml(known), to_dict(config)
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        different = [key for key in keys if key not in changeable]
        if different:
            key = different[0]
            raise ConfigError(
                f"{self.path} holds a run with {key} {before.get(key)}, this one has "
                f"{now.get(key)}: give another --out, or delete the folder"
            )

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            HostError: the disk does not take it.
        """
        if self.rank == 0:
            path = self.path / "metrics.jsonl"
            try:
                with path.open("a") as file:
                    file.write(json.dumps(values) + "\n")
            except OSError as error:
                raise HostError(
                    f"{path} cannot be written ({error.strerror}), after step {values.get('step')}:"
                    " make room, then start the run again; it goes on from its newest checkpoint"
                ) from error

    def rewind(self, step: int) -> None:
        """Drop lines of metrics.jsonl after ``step``: they will be measured again; 0 drops all."""
        if self.rank == 0:
            records = read_metrics(self.path) if step else []
            kept = [r for r in records if r.get("step", 0) <= step]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomically(self.path / "metrics.jsonl", text)

    def finish(self, **result: Any) -> dict[str, Any]:
        """Write result.json, last and atomically: it exists if and only if the run is finished."""
        record = {
            "verb": self.verb,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 2),
            **result,
        }
        if self.rank == 0:
            write_atomically(self.path / "result.json", json.dumps(record, indent=1) + "\n")
        return record


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_result(path: Path | str) -> dict[str, Any] | None:
    """The result of a run folder, or None where the run has not finished.

    Raises:
        DataError: result.json is there and is not JSON.
    """
    file = Path(path) / "result.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not valid JSON ({error})") from None


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl; a last line cut short by a kill is left out."""
    file = Path(path) / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number + 1 < len(lines):
                raise DataError(f"{file}:{number + 1}: not valid JSON ({error})") from None
    return records


def describe_environment() -> dict[str, Any]:
    """Versions, platform, command and git commit, for environment.json."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "command": sys.argv,
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from; None when installed or without git."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # A package installed below some repository is no part of it.
        tracked = [*git, "ls-files", "--error-unmatch", here.name]
        if subprocess.run(tracked, capture_output=True, timeout=10, check=False).returncode:
            return None
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def track(
    items: Iterable[T],
    *,
    description: str,
    total: int | None = None,
    unit: str = "step",
    enabled: bool = True,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Iterate with progress on stderr: a bar on a terminal, else a line now and then.

    Args:
        items: what to iterate over.
        description: what is being done.
        total: number of items, where ``items`` has no length.
        unit: what one item is.
        enabled: False on ranks other than 0.
        note: what to say beside it, asked whenever it is drawn.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if not enabled:
        yield from items
    elif sys.stderr.isatty():
        yield from _bar(items, description, total, unit, note)
    else:
        yield from _lines(items, description, total, unit, note)


def _bar(
    items: Iterable[T], description: str, total: int | None, unit: str, note: Callable[[], str]
) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g} {unit}/s" if task.speed else "")

    class Note(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(note())

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), Note())
    with Progress(*columns, *times, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(
    items: Iterable[T], description: str, total: int | None, unit: str, note: Callable[[], str]
) -> Iterator[T]:
    start = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= LINE_SECONDS and done != total:
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            of = f"/{total}" if total else ""
            words = ", ".join(filter(None, (f"{rate:.2f} {unit}/s{left}", note())))
            print(f"{description}: {done}{of}, {words}", file=sys.stderr)
            said = now
