"""The two files that DeepSpeed's launcher reads: the hosts of a job, and what travels to them."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.config import ConfigError

TRAVELS = ("MLFLOW", "PYTHON", "MV2", "UCX")  # beginnings of names that DeepSpeed 0.19 exports
TRAVELS_WITH_GPUS = "NCCL"
NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class HostLine:
    """One line of a hostfile."""

    name: str
    """As written, user and all: what ssh is given."""

    slots: int
    """Ranks on this host."""

    line: int
    """Where it stands, from 1."""

    @property
    def host(self) -> str:
        """The name without the user."""
        return self.name.rpartition("@")[2]


def read_hostfile(path: Path | str) -> tuple[HostLine, ...]:
    """The hosts of a job, in order: lines ``[user@]host slots=N``, blank lines and # comments.

    DeepSpeed reads such lines more loosely (``slots=8x`` as 8) and only warns of a missing file.

    Raises:
        ConfigError: no such file, no host in it, or wrong lines, each with its number.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise ConfigError(
            f"hostfile {path}: {error.strerror}; with it, DeepSpeed would only warn and train on "
            "this machine alone: correct --hostfile"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"hostfile {path} is not a text file") from None
    hosts: dict[str, HostLine] = {}
    mistakes = []
    for number, text in enumerate(lines, start=1):
        words = text.partition("#")[0].split()
        if not words:
            continue
        mistake = _mistake(words, hosts)
        if mistake:
            mistakes.append(f"{path}:{number}: {mistake}")
        else:
            entry = HostLine(words[0], int(words[1].removeprefix("slots=")), number)
            hosts[entry.host] = entry
    if mistakes:
        raise ConfigError("; ".join(mistakes))
    if not hosts:
        raise ConfigError(f"hostfile {path} names no host: write lines such as 'node1 slots=8'")
    return tuple(hosts.values())


def _mistake(words: Sequence[str], before: Mapping[str, HostLine]) -> str | None:
    """What is wrong with a line, if anything."""
    if len(words) != 2 or not re.fullmatch(r"slots=-?[0-9]+", words[1]):
        return f"{' '.join(words)!r} is not of the form 'host slots=N'"
    name, slots = words[0], int(words[1].removeprefix("slots="))
    if not re.fullmatch(r"([^@\s-][^@\s]*@)?[A-Za-z0-9_][\w.:-]*", name):
        return f"{name!r} is not a host's name"
    if slots < 1:
        return f"{name} has slots={slots}: at least 1, or leave the host out"
    other = before.get(name.rpartition("@")[2])
    if other:
        return f"{name} stands in line {other.line} already: one line for each host"
    return None


def environment_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where DeepSpeed looks for what is to travel; a file need not be there, a later one wins."""
    name = environment.get("DS_ENV_FILE", ".deepspeed_env")
    return (Path(os.path.expanduser("~")) / name, Path(".").absolute() / name)


def read_environment_file(path: Path) -> tuple[dict[str, str], list[str]]:
    """What a ``.deepspeed_env`` file exports, and its mistakes with their lines.

    DeepSpeed splits each line at its first '=': a blank line or a comment ends it with a traceback.
    It puts values with unusual characters in double quotes, so quotes of one's own break them.
    """
    found: dict[str, str] = {}
    mistakes = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        key, equals, value = (part.strip() for part in text.partition("="))
        if not text.strip():
            mistakes.append(f"{path}:{number}: a blank line, which DeepSpeed cannot read")
        elif not equals or not NAME.fullmatch(key):
            mistakes.append(f"{path}:{number}: {text.strip()!r} is not KEY=VALUE")
        elif '"' in value or "'" in value:
            mistakes.append(f"{path}:{number}: {key} has quotes, which DeepSpeed adds itself")
        else:
            found[key] = value
    return found, mistakes


def travelling(environment: Mapping[str, str], *, gpus: bool) -> tuple[dict[str, str], list[str]]:
    """What DeepSpeed's launcher would set on each host, and the mistakes of its files.

    Args:
        environment: the variables here.
        gpus: whether there are GPUs here; NCCL's variables travel by themselves only then.
    """
    names = (*TRAVELS, TRAVELS_WITH_GPUS) if gpus else TRAVELS
    exports = {name: value for name, value in environment.items() if name.startswith(names)}
    before = environment.get("PYTHONPATH")
    exports["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *([before] if before else [])])
    mistakes = []
    # With an absolute DS_ENV_FILE both places are the same file.
    for path in dict.fromkeys(environment_files(environment)):
        if path.is_file():
            found, wrong = read_environment_file(path)
            exports.update(found)
            mistakes += wrong
    return exports, mistakes
