"""How a run stands, read from its folder alone: live, finished, or left behind."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import ConfigError, DataError, load_yaml
from tokenunify_scale.train.curves import of_groups
from tokenunify_scale.train.runlog import read_metrics, read_result
from tokenunify_scale.train.saves import CHECKPOINTS, latest, step_of
from tokenunify_scale.train.telemetry import ENDED

CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
UNHEARD = 600.0  # seconds of silence after which a run counts as gone, if its lines tell no better
LEAST = 120.0
MISSED = 4  # lines that did not come
STOPPED = (75, 130)  # exit codes of a signal that was answered, and of Ctrl-C

Word = Literal["finished", "running", "stopped", "failed", "silent", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run. Times are seconds since 1970; None is what the folder does not say."""

    run: str
    """The folder."""

    state: Word
    """running: it was heard of lately; silent: it was not, and did not say why it ended."""

    reason: str = ""
    """Why it ended, or cannot be read."""

    verb: str | None = None
    model: str | None = None
    objective: str | None = None
    world: int | None = None
    """Ranks."""

    began: float | None = None
    """When it was last started."""

    heard: float | None = None
    """When it last wrote."""

    finished: float | None = None
    step: int | None = None
    """Optimizer steps done, as last logged."""

    steps: int | None = None
    """Of the whole run."""

    seconds_left: float | None = None
    """From now on, while it runs."""

    losses: list[float] = field(default_factory=list)
    """Of each logged line."""

    first: Mapping[str, float] = field(default_factory=dict)
    """Losses of the first line that has them, with its ``step``."""

    last: Mapping[str, float] = field(default_factory=dict)
    """Those of the last one."""

    held_out_first: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    """Of the last line: rates, memory, weights of the curriculum, skipped steps."""

    checkpoint: str | None = None
    """What a resume starts from."""

    saved: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Of the result."""


def runs_in(folder: Path) -> list[Path]:
    """The run folders at and below a folder, in the order of their names.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(_walk(folder))
    if not found:
        what = f"no run folder: it has no {CONFIG}, nor has any folder in it"
        raise ConfigError(f"{folder} is {what if folder.is_dir() else 'no folder'}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if CONFIG in files:
            folders.clear()  # a run has no runs in it, but may have many checkpoints
            yield Path(path)


def read_state(run: Path, *, now: float | None = None) -> RunState:
    """Read how a run stands; nothing in the folder is changed.

    Args:
        run: its folder. What cannot be read is told in the state, not raised.
        now: seconds since 1970.
    """
    try:
        return _read(run, now=time.time() if now is None else now)
    except (ConfigError, DataError, OSError) as error:
        return RunState(run=str(run), state="unreadable", reason=" ".join(str(error).split()))


def _read(run: Path, *, now: float) -> RunState:
    config, result, lines = load_yaml(run / CONFIG), read_result(run), read_metrics(run)
    facts = _json(run / ENVIRONMENT)
    times = [t for name in (ENVIRONMENT, METRICS) if (t := _modified(run / name)) is not None]
    heard = max(times, default=_modified(run / CONFIG))
    last = lines[-1] if lines else {}
    state, reason = _state(run, result, lines, silence=now - heard)
    left = last.get("seconds_left") if state == "running" else None
    finished = (result or {}).get("finished")
    with_loss, measured = ([n for n in lines if key in n] for key in ("loss", "held_out_loss"))
    rated = [line for line in lines if "crops_per_s" in line]
    tag = latest(run)
    return RunState(
        run=str(run),
        state=state,
        reason=reason,
        verb=facts.get("verb"),
        model=_name(config.get("model")),
        objective=_name(config.get("objective")),
        world=facts.get("world"),
        began=_modified(run / ENVIRONMENT),
        heard=heard,
        finished=datetime.fromisoformat(finished).timestamp() if finished else None,
        step=last.get("step"),
        steps=config.get("steps"),
        seconds_left=None if left is None else max(0.0, left - (now - heard)),
        losses=[line["loss"] for line in with_loss],
        first=_losses(with_loss[:1], "loss"),
        last=_losses(with_loss[-1:], "loss"),
        held_out_first=_losses(measured[:1], "held_out"),
        held_out=_losses(measured[-1:], "held_out"),
        rates=of_groups(rated[-1], "rate", "memory", "weight", "optim", "") if rated else {},
        checkpoint=tag,
        saved=_modified(run / CHECKPOINTS / tag) if tag else None,
        metrics=(result or {}).get("metrics") or {},
    )


def _state(
    run: Path,
    result: Mapping[str, Any] | None,
    lines: Sequence[Mapping[str, Any]],
    *,
    silence: float,
) -> tuple[Word, str]:
    """The word for how a run stands, and why."""
    if result is not None:
        return "finished", ""
    if ended := _json(run / ENDED):
        word = "stopped" if ended.get("exit_code") in STOPPED else "failed"
        why = ended.get("message") or ended.get("kind", "")
        if word == "stopped":
            why = why.split(":")[0]  # the signal; what follows is told from the checkpoint
        return word, f"{why} (exit code {ended.get('exit_code')})"
    if silence <= patience(lines):
        return "running", ""
    return "silent", "it was killed, or hangs"


def patience(lines: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of silence that are nothing unusual for a run, by the times of its last lines."""
    times = [line["time"] for line in lines[-10:] if "time" in line]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    return max(LEAST, MISSED * max(gaps)) if gaps else UNHEARD


def resumes_at(state: RunState) -> int | None:
    """The step behind which a run would go on; None where it would begin anew."""
    return step_of(state.checkpoint) if state.checkpoint else None


def _losses(lines: Sequence[Mapping[str, Any]], group: str) -> dict[str, Any]:
    return {"step": lines[0].get("step"), **of_groups(lines[0], group)} if lines else {}


def _name(section: Any) -> str | None:
    """Of a section that is a registry's choice, or the folder that a verb takes its model from."""
    return section.get("name") if isinstance(section, Mapping) else section


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
