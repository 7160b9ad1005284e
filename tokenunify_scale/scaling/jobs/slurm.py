"""A study as Slurm job arrays: one a stage, each task one job, run as the local pool would.

A task of an array waits for the task of the same number where jobs are made from each other one by
one (``aftercorr``), as a prediction from its fine-tuning. Where they are not, as fine-tunings that
share a pretraining or prepared data, the array waits for the end of the whole stage before
(``afterany``), and a task whose own needs were not met then says so and ends: what failed does not
hold the others up.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import TRAINS
from tokenunify_scale.scaling.jobs.retry import STOPPED
from tokenunify_scale.scaling.jobs.states import State
from tokenunify_scale.scaling.jobs.task import FOLDER, JOBS
from tokenunify_scale.train.runlog import write_atomically
from tokenunify_scale.train.sbatch import PACKAGE, WARNING, Batch

DEVICE = ("pretrain", "finetune", "predict")  # verbs that want a GPU
# What the scripts decide themselves.
OURS = ("--array", "--dependency", "--output", "--job-name", "--open-mode", "--signal", "-a", "-d",
        "-o", "-J", "--wrap", "--parsable")  # fmt: skip


@dataclass(frozen=True)
class Array:
    """The jobs of one stage."""

    verb: str
    names: tuple[str, ...]
    script: Path
    one_by_one: tuple[str, ...]
    """Stages whose task of the same number each of its tasks waits for."""
    after: tuple[str, ...]
    """Stages whose end all of its tasks wait for."""


def check_batch(batch: Batch) -> None:
    """Refuse options that the scripts decide themselves.

    Raises:
        ConfigError: which.
    """
    for option in batch.options:
        name = re.split(r"[=\s]", option, maxsplit=1)[0]
        if name in OURS:
            raise ConfigError(f"--slurm-option={option}: {name} is decided by the study")


def arrays(jobs: Sequence[Job], states: Mapping[str, State], out: Path) -> list[Array]:
    """What is to be submitted: the jobs that are not finished, by stage, and what waits for what.

    Args:
        jobs: of the study, each after those it needs.
        states: of each, by name.
        out: folder of the study.
    """
    todo = [job for job in jobs if states[job.name] != "finished"]
    verbs = list(dict.fromkeys(job.verb for job in sorted(todo, key=lambda j: _depth(j, jobs))))
    stages = {verb: [job for job in todo if job.verb == verb] for verb in verbs}
    verb_of = {job.name: job.verb for job in todo}
    found = []
    for number, (verb, some) in enumerate(stages.items()):
        before = dict.fromkeys(
            verb_of[need] for job in some for need in job.needs if need in verb_of
        )
        pairs = tuple(other for other in before if _one_by_one(stages[other], some))
        found.append(
            Array(
                verb,
                tuple(job.name for job in some),
                out / FOLDER / f"{number}-{verb}.sbatch",
                pairs,
                tuple(other for other in before if other not in pairs),
            )
        )
    return found


def _depth(job: Job, jobs: Sequence[Job]) -> int:
    """The longest way from data to any job of this verb."""
    depths: dict[str, int] = {}
    for each in jobs:
        depths[each.name] = 1 + max((depths[need] for need in each.needs), default=0)
    return max(depths[each.name] for each in jobs if each.verb == job.verb)


def _one_by_one(earlier: Sequence[Job], later: Sequence[Job]) -> bool:
    """Whether each job needs the earlier one of its own number and no other of them."""
    names = {job.name for job in earlier}
    return len(earlier) == len(later) and all(
        names.intersection(b.needs) == {a.name} for a, b in zip(earlier, later, strict=True)
    )


def write(
    jobs: Sequence[Job],
    states: Mapping[str, State],
    out: Path,
    *,
    batch: Batch,
    at_once: int | None = None,
    retries: int = 1,
) -> list[Array]:
    """Write scripts, tables of their tasks and the plan into ``out/slurm``; submit nothing.

    Args:
        jobs: of the study, each after those it needs.
        states: of each, by name.
        out: folder of the study.
        batch: what is asked of Slurm for each task.
        at_once: tasks of an array that run at the same time, at most.
        retries: starts of a failing job beyond the first.

    Raises:
        ConfigError: an option that is not the user's to give; a folder with spaces.
    """
    check_batch(batch)
    folder = out.absolute() / FOLDER
    if re.search(r"\s", str(folder)):
        raise ConfigError(f"Slurm's options cannot hold the spaces of {folder}: another --out")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    plain = [{**dataclasses.asdict(job), "folder": str(job.folder)} for job in jobs]
    write_atomically(folder / JOBS, json.dumps(plain, indent=1) + "\n")
    found = arrays(jobs, states, out.absolute())
    for array in found:
        write_atomically(array.script.with_suffix(".txt"), "".join(f"{n}\n" for n in array.names))
        text = script(array, out.absolute(), batch=batch, at_once=at_once, retries=retries)
        write_atomically(array.script, text)
        array.script.chmod(0o755)
    return found


def script(array: Array, out: Path, *, batch: Batch, at_once: int | None, retries: int) -> str:
    """The batch script of one stage.

    Slurm's warning goes to the script, which ends the job as the harness would; a job that ended
    with 75 is saved, and its task is put back into the queue.

    Args:
        array: the stage.
        out: absolute folder of the study.
        batch: what is asked for each task; GPUs and nodes for trainings, one GPU for predictions.
        at_once: tasks that run at the same time, at most.
        retries: as of ``write``.
    """
    trains, ranks = array.verb in TRAINS, batch.nodes * batch.gpus_per_node
    lines = [f"--job-name={out.name}-{array.verb}", f"--array=0-{len(array.names) - 1}"]
    lines[1] += f"%{at_once}" if at_once else ""
    if trains:
        lines += [f"--nodes={batch.nodes}", f"--ntasks-per-node={batch.gpus_per_node}"]
        lines += [f"--gpus-per-node={batch.gpus_per_node}"]
    else:
        lines += ["--nodes=1", "--ntasks=1"]
        lines += ["--gpus-per-node=1"] if array.verb in DEVICE else []
    lines += [f"--signal=B:USR2@{WARNING}", "--requeue", "--open-mode=append"]
    lines += [f"--output={out / FOLDER / 'logs'}/{array.verb}-%A_%a.log", *batch.options]
    head = "".join(f"#SBATCH {line}\n" for line in lines)
    spread = f" --ranks {ranks}" if trains and ranks > 1 else ""
    return f"""#!/bin/bash
{head}
cd {shlex.quote(os.getcwd())} || exit 3
table={shlex.quote(str(array.script.with_suffix(".txt")))}
name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$table")

{shlex.quote(sys.executable)} -u -m {PACKAGE} scaling job {shlex.quote(str(out))} \\
  --name "$name" --retries {retries}{spread} &
child=$!
trap 'kill -TERM $child' USR2 TERM
wait $child
code=$?
while kill -0 $child 2> /dev/null; do # a signal ends the waiting, not the job
  wait $child
  code=$?
done
if [ $code = {STOPPED} ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit $code
"""


def submit(found: Sequence[Array]) -> dict[str, str]:
    """Give the scripts to sbatch, each with what it waits for; returns job ids by stage.

    Raises:
        HostError: there is no sbatch, or it refuses; what it says, and what is in the queue then.
    """
    if not shutil.which("sbatch"):
        raise HostError("no sbatch here: submit from a login node, or give --dry-run to write only")
    ids: dict[str, str] = {}
    for array in found:
        waits = [f"aftercorr:{ids[verb]}" for verb in array.one_by_one]
        waits += [f"afterany:{ids[verb]}" for verb in array.after]
        words = ["sbatch", "--parsable"]
        if waits:
            words += [f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"]
        done = subprocess.run([*words, str(array.script)], capture_output=True, text=True)
        number = done.stdout.strip().partition(";")[0]
        if done.returncode or not number:
            queued = ", ".join(ids.values())
            raise HostError(
                f"{shlex.join(words)} {array.script}: {' '.join(done.stderr.split())}"
                + (f"; in the queue already: scancel {queued}" if queued else "")
            )
        ids[array.verb] = number
    return ids
