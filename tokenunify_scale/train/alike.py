"""What must be the same on all hosts: Python, packages, code, variables."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from tokenunify_scale.train.finding import Job, Patient, Remark, some

OURS = "tokenunify-scale"
PACKAGES = (OURS, "torch", "deepspeed", "numpy")
GPU_PACKAGES = ("mamba-ssm", "causal-conv1d")
VARIABLES = (
    r"PATH|LD_LIBRARY_PATH|(OMP|MKL|NCCL|GLOO|UCX|MALLOC|TORCH|TOKENUNIFY)_\w+|DS_ACCELERATOR"
    r"|CUDA_HOME|TMPDIR"
)
LISTS = ("PATH", "LD_LIBRARY_PATH")


def python(patient: Patient, job: Job) -> Iterator[Remark]:
    """The launcher starts this machine's Python, by its path, on each host."""
    facts, here = patient.facts, job.here
    root = Path(here["executable"]).parents[1]
    remedy = f"rsync -a {root}/ {patient.name}:{root}/"
    if facts["executable"] != here["executable"]:
        found = f"no {here['executable']} (python3 is {facts['executable']}, {facts['python']})"
        yield "error", found, "the same path as here: the launcher starts it on each host", remedy
    elif facts["python"] != here["python"]:
        yield "error", f"Python {facts['python']}", f"{here['python']}, as here", remedy


def packages(patient: Patient, job: Job) -> Iterator[Remark]:
    """Versions as here; those of the kernels as on the first host with GPUs."""
    for name in PACKAGES:
        wanted = job.here["packages"].get(name)
        found = patient.facts["packages"].get(name)
        if wanted and found != wanted:
            yield _install(patient, job, name, found, wanted, f"{wanted}, as here")
    if not patient.facts["gpus"]:
        return
    for name in GPU_PACKAGES:
        wanted = job.gpu["packages"].get(name) if job.gpu else None
        found = patient.facts["packages"].get(name)
        if not found or wanted and found != wanted:
            why = f"{wanted}, as on {job.gpu['name']}" if job.gpu and wanted else "the GPU's kernel"
            yield _install(patient, job, name, found, wanted, why)


def _install(
    patient: Patient, job: Job, name: str, found: str | None, wanted: str | None, why: str
) -> Remark:
    words = f"{name}=={wanted}" if wanted else name
    if name == OURS:
        words = f"-e {shlex.quote(job.here['folder'])}"
    elif wanted and "+" in wanted:  # such builds are not on the common index
        words += " --index-url THE_INDEX_IT_CAME_FROM_HERE"
    command = patient.on(f"{job.here['executable']} -m pip install {words}")
    return "error", f"{name} {found or 'is not installed'}", why, command


def code(patient: Patient, job: Job) -> Iterator[Remark]:
    """The same files of the package, in the folder in which the launcher starts the ranks."""
    facts, folder = patient.facts, job.here["folder"]
    remedy = f"rsync -a --delete {folder}/ {patient.name}:{folder}/"
    if facts["folder"] != folder:
        wanted = "the folder of the same path as here: the launcher starts the ranks in it"
        yield "error", f"no folder {folder}", wanted, remedy
    if facts["code"] is None:
        yield "error", "no package tokenunify_scale", "the same code as here", remedy
        return
    here, there = job.here["code"] or {}, facts["code"]
    files = sorted(name for name in {**here, **there} if here.get(name) != there.get(name))
    if files:
        count = "1 file differs" if len(files) == 1 else f"{len(files)} files differ"
        yield "error", f"{count}: {some(files)}", "the same code as here", remedy


def variables(patient: Patient, job: Job) -> Iterator[Remark]:
    """What is set here and is not there; here, the files that say what is to travel."""
    if patient.name is None:
        for mistake in job.mistakes:
            path, line, what = mistake.split(":", maxsplit=2)
            remedy = f"vi +{line} {path}"
            yield "error", f"{path}:{line}:{what}", "lines KEY=VALUE and no others", remedy
        return
    there = patient.facts["environment"]
    for name, value in sorted(job.here["environment"].items()):
        if name in LISTS:
            folders = set(there.get(name, "").split(os.pathsep))
            lost = [f for f in value.split(os.pathsep) if f not in folders and os.path.isdir(f)]
            found = f"{name} lacks {some(lost)}" if lost else ""
        else:
            said = f"is {there[name]}" if name in there else "is not set"
            found = f"{name} {said}" if there.get(name) != value else ""
        if found:
            wanted = "as here" if name in LISTS else f"{value}, as here"
            line = shlex.quote(f"{name}={value}") if name not in LISTS else f'"{name}=${name}"'
            yield "warning", found, wanted, f"echo {line} >> {job.travel_file}"
