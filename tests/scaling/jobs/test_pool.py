import json
import sys

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.scaling.jobs.run import run_jobs
from tokenunify_scale.scaling.jobs.states import lock_of, states

# Ends as the next of its codes says; "crash" leaves a result and fails after it.
WORKER = """
import json, sys, time
from pathlib import Path
folder, starts = Path(sys.argv[1]), json.loads(sys.argv[2])
number = len((folder / "starts").read_text()) if (folder / "starts").exists() else 0
(folder / "starts").write_text("x" * (number + 1))
act = starts[min(number, len(starts) - 1)]
print("start", number, act)
if act in (0, "crash"):
    (folder / "result.json").write_text(json.dumps({"verb": "v", "metrics": {"loss": 0.25}}))
if act == "overlap":
    (folder.parent / "busy").mkdir()
    time.sleep(0.3)
    (folder.parent / "busy").rmdir()
    (folder / "result.json").write_text("{}")
sys.exit(act if isinstance(act, int) else 1 if act == "crash" else 0)
"""


def jobs_of(out, needs):
    return [
        Job(name=name, verb=name.split("/")[0], arguments={}, needs=tuple(some),
            folder=out / name, request="r")
        for name, some in needs.items()
    ]  # fmt: skip


def run(out, needs, acts=None, **options):
    def command(job):
        starts = json.dumps((acts or {}).get(job.name, [0]))
        return [sys.executable, "-S", "-c", WORKER, str(job.folder), starts]

    jobs = jobs_of(out, needs)
    return run_jobs(jobs, out, command=command, grace=2, **options), states(jobs)


A, B, C = "finetune/a", "predict/a", "finetune/b"
GRAPH = {A: [], B: [A], C: []}


def endings(out, name):
    return [(one.ending, one.code) for one in attempts(out / name)]


def test_a_job_that_failed_is_started_again_and_both_starts_are_noted(tmp_path, capsys):
    code, found = run(tmp_path, GRAPH, {A: [1, 0]})
    assert code == 0 and set(found.values()) == {"finished"}
    assert endings(tmp_path, A) == [("failed", 1), ("finished", 0)]
    assert "start 2 of 2 follows" in capsys.readouterr().out


def test_a_job_that_keeps_failing_is_given_up_and_listed_at_the_end(tmp_path, capsys):
    code, found = run(tmp_path, GRAPH, {A: [7]}, retries=2)
    said = capsys.readouterr().out
    assert code == 1 and found == {A: "failed", B: "blocked", C: "finished"}
    assert endings(tmp_path, A) == [("failed", 7)] * 3
    assert said.count("start 2 7\n") == 1  # the end of its log, once
    assert f"failed: {A}, exit code 7 after 3 starts" in said


@pytest.mark.parametrize("code", [2, 4])
def test_what_would_fail_again_is_not_started_again(tmp_path, code):
    assert run(tmp_path, GRAPH, {A: [code]}, retries=5)[0] == code
    assert len(endings(tmp_path, A)) == 1


def test_a_job_that_was_stopped_is_no_failure_and_goes_on_in_the_next_run(tmp_path, capsys):
    code, found = run(tmp_path, GRAPH, {A: [75, 0]})
    assert code == 75 and found == {A: "queued", B: "queued", C: "finished"}
    assert "run it again" in capsys.readouterr().out
    assert run(tmp_path, GRAPH, {A: [75, 0]})[0] == 0
    assert endings(tmp_path, A) == [("stopped", 75), ("finished", 0)]


def test_a_result_counts_though_its_process_crashed_after_it(tmp_path):
    code, found = run(tmp_path, GRAPH, {A: ["crash"]})
    assert code == 0 and endings(tmp_path, A) == [("finished", 1)] and found[B] == "finished"


def test_verbs_that_take_all_hosts_run_one_at_a_time(tmp_path):
    needs = {f"finetune/{n}": [] for n in "abc"}
    acts = dict.fromkeys(needs, ["overlap"])
    assert run(tmp_path, needs, acts, slots=3, alone=("finetune",), retries=0)[0] == 0


def test_one_job_alone_runs_beside_others_and_waits_for_nothing(tmp_path):
    with process.hold(tmp_path, patience=0, sharing="together"):
        assert run(tmp_path, GRAPH, only=B)[0] == 4
        assert run(tmp_path, GRAPH, only=A) == (0, {A: "finished", B: "queued", C: "queued"})
        assert run(tmp_path, GRAPH, only=B)[1][B] == "finished"
        assert run(tmp_path, GRAPH, only=A)[0] == 0 and len(endings(tmp_path, A)) == 1


def test_a_job_that_another_process_runs_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenunify_scale.scaling.jobs.pool.PATIENCE", 0.1)
    (tmp_path / "finetune").mkdir()
    with process.take(lock_of(jobs_of(tmp_path, GRAPH)[0]), patience=0):
        with pytest.raises(HostError, match="finetune/a is being run"):
            run(tmp_path, GRAPH, only=A)
