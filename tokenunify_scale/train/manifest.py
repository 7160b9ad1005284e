"""What a checkpoint holds, file by file: sizes and checksums, written last and checked first."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import ConfigError, DataError, build
from tokenunify_scale.train.durable import THREADS, Files, Sum, size_of, sum_of

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checkpoint's own account of itself; a folder without one was never finished."""

    step: int
    """Optimizer steps done."""

    world: int
    """Ranks that wrote it."""

    stage: Literal[0, 1, 2, 3]
    """ZeRO stage."""

    offload: Literal["none", "cpu", "nvme"]
    """The slowest place where model state was kept while training."""

    loss: float | None = None
    """What best is judged by; None where none was measured."""

    measured_on: Literal["training", "held_out"] = "training"
    """What ``loss`` was measured on: the two are never compared with each other."""

    probe: float | None = None
    """Loss on a frozen batch right after the save: what a restored engine must give again."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Plain data that the writer wants back without opening the files."""

    files: Files
    """All that the folder holds beside this account."""

    def __post_init__(self) -> None:
        """Refuse counts that cannot be, losses that are no numbers, and a save of nothing."""
        if self.step < 0 or self.world < 1:
            raise ValueError(f"step {self.step} of {self.world} ranks: must be >= 0 and >= 1")
        for name in ("loss", "probe"):
            if (value := getattr(self, name)) is not None and not isfinite(value):
                raise ValueError(f"{name} is {value}, expected a finite number or None")
        if not self.files:
            raise ValueError("files is empty: nothing was saved")
        for name, entry in self.files.items():
            if not (len(entry) == 2 and all(type(n) is int and n >= 0 for n in entry)):
                raise ValueError(f"files.{name} is {entry!r}, expected bytes and CRC-32")
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"files names {name!r}, which is outside the folder")

    def to_json(self) -> str:
        """Text that ``from_json`` reads back; NaN cannot be written."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = MANIFEST) -> "Manifest":
        """Read an account, strictly.

        Raises:
            DataError: not JSON, or a key is unknown, missing or of a wrong kind.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
                raise ValueError("expected an object that lists files")
            files = {name: tuple(entry) for name, entry in data["files"].items()}
            return build(cls, {**data, "files": files}, where=where)
        except ConfigError as error:
            raise DataError(str(error)) from None
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: not a checkpoint's manifest ({error})") from None


def read_manifest(folder: Path) -> Manifest | None:
    """The account of a checkpoint's folder; None where it has none.

    Raises:
        DataError: it is there and cannot be read, or is not ours.
    """
    try:
        return Manifest.from_json((folder / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{MANIFEST}: cannot be read ({error})") from None


def files_of(folder: Path) -> list[str]:
    """Names of all files below a folder but its manifest, sorted, with slashes."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != MANIFEST)


def files_of_rank(folder: Path, *, rank: int) -> list[str]:
    """Names of the files that a rank wrote, as they say themselves; the rest are rank 0's.

    DeepSpeed names the data-parallel rank first: ``zero_pp_rank_3_mp_rank_00_optim_states.pt``,
    ``offloaded_tensors/rank03/...``; ``mp_rank`` is the model-parallel one, always 0 here.
    """

    def owner(name: str) -> int:
        found = re.search(r"(?<!mp_)rank_?(\d+)", name)
        return int(found[1]) if found else 0

    return [name for name in files_of(folder) if owner(name) == rank]


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's folder, file by file; None where it is whole.

    Sizes are compared first, so that a file cut short is found without reading any.
    """
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return str(error)
    if manifest is None:
        return f"no {MANIFEST}"
    for name, (expected, _) in manifest.files.items():
        try:
            found = size_of(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found is None:
            return f"{name} is missing"
        if found != expected:
            return f"{name} has {found} bytes of {expected}"
    with ThreadPoolExecutor(THREADS) as threads:
        wrong = threads.map(lambda item: _wrong(folder, *item), manifest.files.items())
        return next(filter(None, wrong), None)


def _wrong(folder: Path, name: str, expected: Sum) -> str | None:
    """What is wrong with one file's content."""
    try:
        found = sum_of(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None if found == expected else f"{name} has checksum {found[1]}, not {expected[1]}"
