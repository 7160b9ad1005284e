"""Look at this machine, or at all hosts of a job, before training, and name what would stop it."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenunify_scale.config import HostError
from tokenunify_scale.train import able, alike
from tokenunify_scale.train.finding import Finding, Job, Patient, together
from tokenunify_scale.train.hostfile import HostLine, environment_files, read_hostfile, travelling
from tokenunify_scale.train.reach import Visit, visit_all

CHECKS = {
    "net": able.network,
    "python": alike.python,
    "packages": alike.packages,
    "code": alike.code,
    "slots": able.slots,
    "folder": able.folder,
    "env": alike.variables,
    "clock": able.clock,
    "disk": able.disk,
    "locks": able.locks,
    "memory": able.memory,
}
COLUMNS = ("ssh", *CHECKS)
ALONE = ("net", "packages", "slots", "folder", "env", "disk", "locks", "memory")
STARTING = ("packages", "folder", "env", "disk")  # of the machine that starts a job of others
UNREACHED = {
    "unknown": ("its address", "correct line {line} of {hostfile}, or /etc/hosts"),
    "host key": ("a known host key", "ssh-keyscan -H {host} >> ~/.ssh/known_hosts"),
    "denied": ("a login without a password", "ssh-copy-id {name}"),
    "refused": ("an ssh server", "systemctl start ssh, on {host}"),
    "silent": ("an answer within {timeout:.0f} s", "ping -c 3 {host}; ssh -v {name} true"),
    "python": ("Python", "rsync -a {root}/ {name}:{root}/"),
    "failed": ("the facts", "ssh -v {name} true"),
}
Marks = Mapping[str, Sequence[str]]
"""By host, the checks that were made."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One examination."""

    hostfile: Path | None = None
    """DeepSpeed's hostfile, lines 'host slots=N'; without it, this machine alone is looked at."""

    out: Path | None = None
    """The run folder to be: all hosts must see, and be able to write to, the folder it lies in."""

    disk: float = 20.0
    """GiB that should be free there."""

    port: int = 29500
    """Where the ranks will meet, on the first host: DeepSpeed's --master_port."""

    timeout: float = 20.0
    """Seconds after which a host counts as silent."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if not self.timeout > 0:
            raise ValueError(f"timeout must be > 0 s, got {self.timeout}")
        if not 0 < self.port < 65535:
            raise ValueError(f"port must lie within 1 and 65534, got {self.port}")

    @property
    def shared(self) -> Path | None:
        """The folder in which the run folder lies; one machine alone makes it where it lacks."""
        if self.out is None:
            return None
        folders = self.out.absolute().parents
        return folders[0] if self.hostfile else next(f for f in folders if f.is_dir())


def plan(config: Config) -> dict[str, Any]:
    """Whom it would ask, and what.

    Raises:
        ConfigError: the hostfile is missing or wrong.
    """
    hosts = read_hostfile(config.hostfile) if config.hostfile else ()
    return {
        "hosts": {host.name: host.slots for host in hosts} or "this machine",
        "ranks": sum(host.slots for host in hosts) or None,
        "shared_folder": config.shared and str(config.shared),
        "checks": list(COLUMNS if hosts else ALONE),
    }


def run(config: Config) -> dict[str, Any]:
    """Print a table of hosts and checks, and below it all that was found, one line each.

    Returns:
        Nothing: what was found is printed; ``examine`` returns it.

    Raises:
        ConfigError: the hostfile is missing or wrong.
        HostError: a host is not ready.
    """
    findings, marks = examine(config)
    print(_table(findings, marks))
    print("".join(f"{line}\n" for line in together(findings)), end="", flush=True)
    if config.out is None and config.hostfile:
        print("not looked at: the shared folder; name it by --out RUN")
    bad = [f for f in findings if f.severity == "error"]
    if bad:
        checks = {f.host: {b.check: None for b in bad if b.host == f.host} for f in bad}
        names = "; ".join(f"{host} ({', '.join(c)})" for host, c in checks.items())
        raise HostError(f"not ready: {names}; the remedies stand above")
    print(f"ready; warnings: {len(findings)}")
    return {}


def examine(config: Config) -> tuple[list[Finding], Marks]:
    """What is wrong with this machine, or with the hosts of a job, and what was looked at.

    Returns:
        The findings by host, in the hostfile's order, this machine first; and by host the checks
        that were made.

    Raises:
        ConfigError: the hostfile is missing or wrong.
        HostError: there is no ssh here.
    """
    hosts = read_hostfile(config.hostfile) if config.hostfile else ()
    with _token(config.shared) as token:
        request = {
            "packages": [*alike.PACKAGES, *alike.GPU_PACKAGES],
            "names": [host.host for host in hosts],
            "folders": [*map(str, filter(None, [config.shared])), *able.SCRATCH],
            "variables": alike.VARIABLES,
            "shared": config.shared and str(config.shared),
            "token": token,
            "port": config.port,
        }
        here = _look_here(request, timeout=config.timeout)
        exports, mistakes = travelling(os.environ, gpus=bool(here["gpus"]))
        names = [host.name for host in hosts]
        visits = names and visit_all(names, request, exports=exports, timeout=config.timeout)
    known = [visit.facts for visit in visits if visit.facts] if hosts else [here]
    files = [path for path in environment_files(os.environ) if path.is_file()]
    job = Job(
        here=here, names=[h.host for h, v in zip(hosts, visits, strict=True) if v.facts],
        shared=config.shared, shared_bytes=int(config.disk * able.GIB),
        port=config.port, mistakes=mistakes, gpu=next((f for f in known if f["gpus"]), None),
        travel_file=str(files[-1]) if files else "~/.deepspeed_env",
    )  # fmt: skip
    found, marks = _judge_here(job, hosts)
    for host, visit in zip(hosts, visits, strict=True):
        new, checks = _judge(host, visit, job, config, first=visit is visits[0])
        found, marks = [*found, *new], {**marks, host.name: checks}
    return [*found, *_twice(visits)], marks


def _look_here(request: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
    visit = Visit(None, exports={}, timeout=timeout)
    visit.ask(request)
    visit.close()
    if visit.facts is None:
        raise HostError(f"this machine's own Python gave no facts: {visit.told}; try --timeout 60")
    return visit.facts


def _judge_here(job: Job, hosts: Sequence[HostLine]) -> tuple[list[Finding], dict[str, Any]]:
    """The machine that starts the job; it need not be one of the hosts."""
    name = f"{job.here['name']} (here)"
    patient = Patient(name=None, facts=job.here, first=not hosts)
    checks = [c for c in (STARTING if hosts else ALONE) if c != "folder" or job.shared]
    found = _findings(name, patient, job, checks)
    if len(hosts) > 1 and not shutil.which("pdsh"):
        remedy = "apt-get install pdsh, or start by tokenunify launch, which needs none"
        told = ("warning", "no pdsh", "what DeepSpeed starts hosts with", remedy)
        found.append(Finding(name, "packages", *told))
    return found, {name: checks}


def _judge(
    host: HostLine, visit: Visit, job: Job, config: Config, *, first: bool
) -> tuple[list[Finding], list[str]]:
    """One host of the hostfile: what is wrong, and what was looked at."""
    if visit.facts is None:
        root = Path(job.here["executable"]).parents[1]
        words = {"name": host.name, "host": host.host, "line": host.line, "root": root}
        words |= {"hostfile": config.hostfile, "timeout": config.timeout}
        wanted, remedy = (text.format(**words) for text in UNREACHED[visit.failure])
        finding = Finding(host.name, "ssh", "error", visit.told, wanted, remedy)
        return [finding], ["ssh"]
    patient = Patient(
        name=host.name, facts=visit.facts, slots=host.slots, first=first,
        asked=visit.asked, answered=visit.answered, unreached=visit.unreached,
    )  # fmt: skip
    # Where this machine could not leave its mark, nothing can be said of the others' folder.
    mine = job.here["shared"]
    hidden = {"folder"} if not mine or not mine["there"] or mine["error"] else set()
    if visit.facts["executable"] != job.here["executable"]:
        hidden.add("packages")  # of another Python
    checks = [check for check in CHECKS if check not in hidden]
    return _findings(host.name, patient, job, checks), ["ssh", *checks]


def _findings(name: str, patient: Patient, job: Job, checks: Sequence[str]) -> list[Finding]:
    return [Finding(name, c, *remark) for c in checks for remark in CHECKS[c](patient, job)]


def _twice(visits: Sequence[Visit]) -> Iterator[Finding]:
    """One machine under two names would get two jobs' ranks."""
    before: dict[tuple[str, str], str | None] = {}
    for visit in (visit for visit in visits if visit.facts):
        other = before.setdefault((visit.facts["name"], visit.facts["boot"]), visit.name)
        if other != visit.name:
            told = f"the same machine as {other}", "each machine once"
            yield Finding(f"{visit.name}", "slots", "error", *told, "take one line out")


@contextmanager
def _token(folder: Path | None) -> Iterator[str]:
    """A file that all who share the folder see; its name. What cannot be written is told later."""
    name = f".tokenunify-doctor-{secrets.token_hex(8)}"
    path = (folder or Path()) / name
    if folder is not None:
        with suppress(OSError):
            path.touch()
    try:
        yield name
    finally:
        if folder is not None:
            path.unlink(missing_ok=True)


def _table(findings: Sequence[Finding], marks: Marks) -> str:
    """Hosts by checks: ok, warn, FAIL, or - where nothing was looked at."""
    worst = {(f.host, f.check): "warn" for f in findings}
    worst |= {(f.host, f.check): "FAIL" for f in findings if f.severity == "error"}
    width = max(map(len, [*marks, "host"]))
    lines = ["  ".join([f"{'host':{width}}", *(f"{column:>4}" for column in COLUMNS)])]
    for host, checks in marks.items():
        cells = (worst.get((host, c), "ok" if c in checks else "-") for c in COLUMNS)
        row = (f"{cell:>{max(4, len(c))}}" for c, cell in zip(COLUMNS, cells, strict=True))
        lines.append("  ".join([f"{host:{width}}", *row]))
    return "\n".join(lines)
