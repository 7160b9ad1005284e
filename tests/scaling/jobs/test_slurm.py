import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tokenunify_scale.config import ConfigError, HostError, build
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs import slurm
from tokenunify_scale.scaling.jobs.states import states
from tokenunify_scale.train.sbatch import Batch

RECIPE = {
    "name": "s",
    "sizes": ["atto", "femto"],
    "inits": ["mae", "random"],
    "prepare": {"data": {}},
    "pretrain": {"shards": ["{data}"]},
    "finetune": {"volume": "{data}/raw"},
}
# What `sbatch --test-only` looks at: options of the head and of the command line, by Slurm 23.
LONG = {"job-name", "array", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "signal",
        "requeue", "open-mode", "output", "partition", "time", "account", "mem", "parsable",
        "dependency", "kill-on-invalid-dep"}  # fmt: skip
TIME = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"
VALUES = {
    "array": r"\d+-\d+(%\d+)?",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "signal": r"(B:)?USR[12]@\d+",
    "open-mode": "append|truncate",
    "time": TIME,
    "dependency": r"(after(corr|any|ok):\d+)(,after(corr|any|ok):\d+)*",
    "kill-on-invalid-dep": "yes|no",
}


def test_only(script, *words):
    """Refuse what sbatch would refuse before it queues a job; returns all options."""
    script = Path(script)
    lines = script.read_text().splitlines()
    assert lines[0].startswith("#!") and os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], timeout=60).returncode == 0
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    head = [line for line in lines if line.startswith("#SBATCH")]
    assert head == [line for line in lines[:first] if line.startswith("#SBATCH")], "after a command"
    asked = {}
    for option in [*(line.removeprefix("#SBATCH ") for line in head), *words]:
        name, _, value = option.removeprefix("--").partition("=")
        assert option.startswith("--") and name in LONG, option
        assert re.fullmatch(VALUES.get(name, ".*"), value, re.ASCII), option
        asked[name] = value
    assert Path(asked["output"]).parent.is_dir(), "Slurm makes no folder for logs"
    assert int(re.split("[-%]", asked["array"])[1]) < 1001, "MaxArraySize"
    return asked


def written(tmp_path, *, done=(), recipe=RECIPE, **options):
    jobs = plan(build(Study, recipe), tmp_path / "out")
    found = {job.name: "finished" if job.name in done else "queued" for job in jobs}
    batch = options.pop("batch", Batch(options=("--partition=a100", "--time=1-00:00:00")))
    return slurm.write(jobs, found, tmp_path / "out", batch=batch, **options)


def test_each_stage_is_an_array_that_sbatch_would_take(tmp_path):
    arrays = written(tmp_path, at_once=3)
    verbs = ["prepare", "pretrain", "finetune", "predict", "segment", "evaluate"]
    assert [array.verb for array in arrays] == verbs
    for array in arrays:
        asked = test_only(array.script)
        assert asked["array"] == f"0-{len(array.names) - 1}%3" and asked["partition"] == "a100"
        assert array.script.with_suffix(".txt").read_text().split() == list(array.names)
        assert ("gpus-per-node" in asked) == (array.verb in ("pretrain", "finetune", "predict"))


def test_tasks_wait_one_by_one_where_jobs_do_and_for_the_whole_stage_elsewhere(tmp_path):
    arrays = {array.verb: array for array in written(tmp_path)}
    waits = {verb: (array.one_by_one, array.after) for verb, array in arrays.items()}
    assert waits == {
        "prepare": ((), ()),
        "pretrain": ((), ("prepare",)),
        "finetune": ((), ("prepare", "pretrain")),  # two share none, two have no pretraining
        "predict": (("finetune",), ()),
        "segment": (("predict",), ()),
        "evaluate": (("segment", "predict"), ()),
    }


def test_what_is_finished_is_not_submitted_and_numbers_that_part_are_not_trusted(tmp_path):
    done = ("prepare/data", "finetune/atto-mae-s0", "pretrain/atto-mae-s0")
    arrays = {array.verb: array for array in written(tmp_path, done=done)}
    assert "prepare" not in arrays and len(arrays["finetune"].names) == 3
    assert arrays["predict"].one_by_one == () and arrays["predict"].after == ("finetune",)
    assert arrays["segment"].one_by_one == ("predict",)


def test_a_training_on_many_ranks_asks_for_them_and_what_is_not_its_own_is_refused(tmp_path):
    arrays = written(tmp_path, batch=Batch(nodes=2, gpus_per_node=4))
    asked = {array.verb: test_only(array.script) for array in arrays}
    assert asked["pretrain"]["nodes"] == "2" and asked["pretrain"]["ntasks-per-node"] == "4"
    assert asked["evaluate"]["nodes"] == "1"
    assert "--ranks 8" in arrays[1].script.read_text()
    assert "--ranks" not in arrays[3].script.read_text()
    with pytest.raises(ConfigError, match="--array is decided by the study"):
        written(tmp_path, batch=Batch(options=("--array=0-3",)))
    with pytest.raises(ConfigError, match="spaces"):
        written(tmp_path / "my study")


# A scheduler of one file: sbatch queues a line, "drain" runs tasks whose dependencies are met, each
# a process with Slurm's variables; a task that requeued itself runs again.
SBATCH = """#!/bin/sh
echo "$*" >> "{queue}"
echo "$((99 + $(wc -l < "{queue}")));cluster"
"""
SCONTROL = """#!/bin/sh
[ "$1" = requeue ] && touch "{folder}/requeue.$2"
"""
# A job in place of a verb: notes its start and its end; the first start of one is stopped.
STUB = """
import json, os, sys, types
from pathlib import Path
trace, out, name = Path({trace!r}), Path(sys.argv[1]), sys.argv[2]
from tokenunify_scale.scaling.jobs.task import run_task
CODE = '''
import json, os, sys
from pathlib import Path
trace, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
acts = json.loads(sys.argv[4])
starts = trace.read_text().split().count("start:" + name) if trace.exists() else 0
with trace.open("a") as file: file.write("start:" + name + " ")
codes = acts.get(name, [0])
code = codes[min(starts, len(codes) - 1)]
if code: sys.exit(code)
(folder / "result.json").write_text(json.dumps({{"verb": name}}))
with trace.open("a") as file: file.write("end:" + name + " ")
'''
def command(job):
    return [sys.executable, "-S", "-c", CODE, str(trace), str(job.folder), job.name, {acts!r}]
sys.exit(run_task(out, name, retries=int(sys.argv[3]), command=command))
"""


class Cluster:
    """Slurm's place in a test."""

    def __init__(self, folder, monkeypatch, acts=None):
        self.folder, self.queue = folder, folder / "queue"
        self.trace, self.stub = folder / "trace", folder / "stub.py"
        texts = {
            "sbatch": SBATCH.format(queue=self.queue),
            "scontrol": SCONTROL.format(folder=folder),
        }
        (folder / "bin").mkdir()
        for name, text in texts.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        acts = json.dumps(acts or {})
        self.stub.write_text(STUB.format(trace=str(self.trace), acts=acts))
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        root = str(Path(__file__).resolve().parents[3])
        monkeypatch.setenv("PYTHONPATH", root)

    def drain(self):
        """Run all that can be run; returns the state of each task, by array and number."""
        rows = []
        for number, line in enumerate(self.queue.read_text().splitlines(), start=100):
            *words, script = line.split()
            rows.append({"id": number, "script": script, **test_only(script, *words)})
        tasks = {
            (row["id"], i): "pending"
            for row in rows
            for i in range(int(re.split("[-%]", row["array"])[1]) + 1)
        }
        by_id = {row["id"]: row for row in rows}
        moved = True
        while moved:
            moved = False
            for (number, index), state in list(tasks.items()):
                if state == "pending":
                    met = self._met(by_id[number].get("dependency"), index, tasks)
                    if met == "never":
                        tasks[number, index] = "cancelled"
                    elif met == "now":
                        tasks[number, index] = self._run(by_id[number]["script"], number, index)
                    moved |= met != "later"
        return {(by_id[n]["job-name"], i): state for (n, i), state in tasks.items()}

    def _met(self, dependency, index, tasks):
        for kind, number in re.findall(r"(after\w+):(\d+)", dependency or ""):
            if kind == "aftercorr":
                state = tasks[int(number), index]
                if state in ("failed", "cancelled"):
                    return "never"
                if state != "done":
                    return "later"
            elif any(s == "pending" for (n, _), s in tasks.items() if n == int(number)):
                return "later"
        return "now"

    def _run(self, script, number, index):
        text = Path(script).read_text()
        job = re.sub(r"-u -m tokenunify_scale scaling job (\S+) \\\n  --name (\S+) --retries (\d+)",
                     rf"{self.stub} \1 \2 \3", text)  # fmt: skip
        assert job != text
        (self.folder / "task.sh").write_text(job)
        own = f"{number}{index}"
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": own}
        done = subprocess.run(["bash", self.folder / "task.sh"], env=env, timeout=60,
                              capture_output=True, text=True)  # fmt: skip
        again = self.folder / f"requeue.{own}"
        if again.exists():
            again.unlink()
            return "pending"
        return "failed" if done.returncode else "done"


SMALL = {**RECIPE, "sizes": ["atto"]}


def submit(tmp_path):
    jobs = plan(build(Study, SMALL), tmp_path / "out")
    batch = Batch(options=("--time=30",))
    return slurm.submit(slurm.write(jobs, states(jobs), tmp_path / "out", batch=batch)), jobs


def test_a_stand_in_scheduler_runs_a_study_to_its_end(tmp_path, monkeypatch):
    acts = {"pretrain/atto-mae-s0": [75, 75, 0], "finetune/atto-random-s0": [1, 0]}
    cluster = Cluster(tmp_path, monkeypatch, acts)
    ids, jobs = submit(tmp_path)
    assert ids["prepare"] == "100" and len(ids) == 6
    assert set(cluster.drain().values()) == {"done"}
    assert set(states(jobs).values()) == {"finished"}
    words = cluster.trace.read_text().split()
    ended = [word.removeprefix("end:") for word in words if word.startswith("end:")]
    assert sorted(ended) == sorted(job.name for job in jobs)
    for job in jobs:
        assert all(words.index(f"end:{n}") < words.index(f"start:{job.name}") for n in job.needs)
    assert words.count("start:pretrain/atto-mae-s0") == 3
    assert words.count("start:finetune/atto-random-s0") == 2


def test_what_failed_holds_up_what_needs_it_and_nothing_else(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path, monkeypatch, {"pretrain/atto-mae-s0": [4]})
    _, jobs = submit(tmp_path)
    cluster.drain()
    found = states(jobs)
    assert found["pretrain/atto-mae-s0"] == "failed"
    assert found["evaluate/atto-random-s0"] == "finished"
    blocked = {job.name for job in jobs if found[job.name] == "blocked"}
    assert blocked == {f"{s}/atto-mae-s0" for s in ("finetune", "predict", "segment", "evaluate")}
    assert cluster.trace.read_text().count("start:finetune/atto-mae-s0") == 0


def test_without_slurm_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no sbatch here"):
        slurm.submit(written(tmp_path))


def test_what_sbatch_says_against_a_script_is_told(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(HostError, match="invalid partition"):
        slurm.submit(written(tmp_path))


test_only.__test__ = False
