import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scaling.jobs.kill_harness import torment
from tokenunify_scale.config import ConfigError, HostError, build
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.run import STOPPED, hosts_command, run_study, verb_command
from tokenunify_scale.scaling.jobs.states import states

# A verb of a few lines: notes that it ran, then does what the environment says for its job.
WORKER = """
import json, os, subprocess, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
with open(os.environ["RAN"], "a") as file:
    file.write(name + "\\n")
request = json.loads((folder / "request.json").read_text())
act = json.loads(os.environ.get("ACTS", "{}")).get(name, "")
for number in range(20 if act == "fail" else 0):
    print("line", number)
if act == "fail":
    sys.exit(4)
if act == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "pids.txt").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
if act != "silent":
    result = {"verb": name, "stamp": time.time_ns(), "threads": os.environ.get("OMP_NUM_THREADS")}
    (folder / "result.json").write_text(json.dumps(result))
"""
HARNESS = """
import sys
from tests_run import command
from tokenunify_scale.config import build
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs.run import run_study
import json
sys.exit(run_study(build(Study, json.loads(sys.argv[1])), sys.argv[2], 2, command=command))
"""
RECIPE = {"name": "s", "sizes": ["atto"], "inits": ["mae", "random"], "prepare": {"data": {}}}
RECIPE |= {"pretrain": {"shards": ["{data}"]}, "finetune": {"volume": "{data}/raw"}}
JOBS = 1 + 5 + 4


def command(job):
    return [sys.executable, "-S", "-c", WORKER, str(job.folder), job.name]


def study(**changes):
    return build(Study, {**RECIPE, **changes})


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The names of the jobs that were started, in order."""
    log = tmp_path / "ran.txt"
    monkeypatch.setenv("RAN", str(log))

    def read():
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    return read


def act(monkeypatch, **acts):
    monkeypatch.setenv("ACTS", json.dumps({n.replace("__", "/", 1): a for n, a in acts.items()}))


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_all_jobs_run_after_what_they_need_and_none_twice(tmp_path, ran):
    out = tmp_path / "out"
    assert run_study(study(), out, 2, command=command) == 0
    names = ran()
    assert len(names) == len(set(names)) == JOBS
    for job in plan(study(), out):
        assert all(names.index(need) < names.index(job.name) for need in job.needs)
    assert set(states(plan(study(), out)).values()) == {"finished"}
    assert run_study(study(), out, 2, command=command) == 0
    assert ran() == []


def test_a_changed_setting_reruns_its_stage_and_what_follows_in_an_empty_folder(tmp_path, ran):
    out = tmp_path / "out"
    run_study(study(), out, 2, command=command)
    ran()
    (out / "segment/atto-mae-s0/old.txt").touch()
    changed = study(segment={"min_size": 3})
    state = states(plan(changed, out))
    assert state["segment/atto-mae-s0"] == "changed" and state["predict/atto-mae-s0"] == "finished"
    assert run_study(changed, out, 2, command=command) == 0
    assert {name.split("/")[0] for name in ran()} == {"segment", "evaluate"}
    assert not (out / "segment/atto-mae-s0/old.txt").exists()


def test_a_lost_result_is_made_again_with_all_that_was_made_from_it(tmp_path, ran):
    out = tmp_path / "out"
    run_study(study(), out, 2, command=command)
    ran()
    (out / "finetune/atto-random-s0/result.json").unlink()
    assert run_study(study(), out, 2, command=command) == 0
    assert ran() == [f"{s}/atto-random-s0" for s in ("finetune", "predict", "segment", "evaluate")]


def test_a_failed_job_shows_the_end_of_its_log_and_the_others_go_on(
    tmp_path, ran, monkeypatch, capsys
):
    act(monkeypatch, **{"finetune__atto-mae-s0": "fail"})
    assert run_study(study(), tmp_path / "out", 2, command=command) == 4
    names, said = ran(), capsys.readouterr().out
    assert "predict/atto-mae-s0" not in names and "evaluate/atto-random-s0" in names
    assert "exit code 4" in said and "line 19" in said and "line 5" in said
    assert "line 4\n" not in said
    assert "not run, for finetune/atto-mae-s0 failed: predict/atto-mae-s0, segment" in said
    act(monkeypatch)
    assert run_study(study(), tmp_path / "out", 2, command=command) == 0
    stages = ("finetune", "predict", "segment", "evaluate")
    assert ran() == [f"{stage}/atto-mae-s0" for stage in stages]


def test_a_job_that_leaves_no_result_has_failed(tmp_path, ran, monkeypatch, capsys):
    act(monkeypatch, prepare__data="silent")
    assert run_study(study(), tmp_path / "out", 2, command=command) == 1
    assert ran() == 2 * ["prepare/data"] and "no result.json" in capsys.readouterr().out


@pytest.mark.parametrize("slots, threads", [(1, "7"), (2, "1")])
def test_jobs_side_by_side_get_the_studys_threads(tmp_path, ran, monkeypatch, slots, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_study(study(inits=["random"]), tmp_path / "out", slots, command=command)
    result = json.loads((tmp_path / "out/prepare/data/result.json").read_text())
    assert result["threads"] == threads


def start_harness(tmp_path, out):
    (tmp_path / "tests_run.py").write_text(Path(__file__).read_text())
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join([str(tmp_path), root])
    words = [sys.executable, "-c", HARNESS, json.dumps(RECIPE), str(out)]
    env = {**os.environ, "PYTHONPATH": path}

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job would ignore it

    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=heed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killing_the_harness_ends_its_jobs_and_a_rerun_repeats_no_finished_one(
    tmp_path, ran, monkeypatch, number
):
    out = tmp_path / "out"
    act(monkeypatch, **{"predict__atto-mae-s0": "hang"})
    harness = start_harness(tmp_path, out)
    last = [
        out / name / "result.json" for name in ("finetune/atto-mae-s0", "evaluate/atto-random-s0")
    ]
    hanging = out / "predict/atto-mae-s0/pids.txt"
    wait_for(lambda: hanging.exists() and all(file.exists() for file in last))
    wait_for(lambda: len(hanging.read_text().split()) == 2)
    leader, child = map(int, hanging.read_text().split())
    harness.send_signal(number)
    said, _ = harness.communicate(timeout=20)
    wait_for(lambda: not alive(leader))
    if number == signal.SIGKILL:
        os.kill(child, signal.SIGKILL)  # no one was left to end the job's whole group
    else:
        assert harness.returncode == STOPPED and "run it again" in said
    wait_for(lambda: not alive(child))
    before = set(ran())
    act(monkeypatch)
    assert run_study(study(), out, 2, command=command) == 0
    stages = ("predict", "segment", "evaluate")
    assert ran() == [f"{stage}/atto-mae-s0" for stage in stages]
    assert len(before) == JOBS - 2


def test_two_harnesses_do_not_share_a_folder(tmp_path):
    with process.hold(tmp_path, patience=1.0):
        with pytest.raises(HostError, match="another run"):
            run_study(study(), tmp_path, command=command, grace=0.2)


def test_a_job_is_run_as_its_verb_with_its_request_as_recipe(tmp_path):
    job = plan(study(), tmp_path)[1]
    assert verb_command(job)[1:4] == ["-m", "tokenunify_scale", "pretrain"]
    assert verb_command(job)[5] == f"{job.folder}/request.json"
    assert verb_command(job)[7] == str(job.folder)


def test_an_error_of_the_harness_itself_ends_its_jobs(tmp_path, ran, monkeypatch):
    act(monkeypatch, prepare__data="hang")
    pids = tmp_path / "out/prepare/data/pids.txt"

    def broken(job):
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        raise OSError("no space left")

    def words(job):
        return command(job) if job.verb == "prepare" else broken(job)

    alone = study(pretrain={})
    with pytest.raises(OSError, match="no space left"):
        run_study(alone, tmp_path / "out", 2, command=words, grace=5)
    # A killed process is gone a moment after the signal.
    wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_trainings_are_launched_over_the_hosts_and_the_rest_runs_here(tmp_path):
    _, training, *_, scoring = [j for j in plan(study(), tmp_path) if "random" not in j.name]
    words = hosts_command(training, hostfile=Path("hosts"))
    assert words[1:7] == ["-m", "tokenunify_scale", "launch", "--hostfile", "hosts", "--"]
    assert words[7:] == verb_command(training)[3:]
    assert hosts_command(scoring, hostfile=Path("hosts")) == verb_command(scoring)


def test_a_hostfile_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="hostfile"):
        run_study(study(), tmp_path / "out", hostfile=tmp_path / "hosts", command=command)
    assert not (tmp_path / "out").exists()


# A job of a moment that notes its start and its end; some finish though they are asked to stop.
MOMENT = """
import json, os, random, signal, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
if len(name) % 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(os.environ["RAN"], "a") as file:
    file.write(f"start:{name}\\n")
time.sleep(random.uniform(0.05, 0.4))
(folder / ".tmp").write_text(json.dumps({"verb": name, "stamp": time.time_ns()}))
(folder / ".tmp").replace(folder / "result.json")
with open(os.environ["RAN"], "a") as file:
    file.write(f"end:{name}\\n")
"""
KILLED = """
import json, sys
from tokenunify_scale.config import build
from tokenunify_scale.scaling.jobs.run import run_study
from tokenunify_scale.scaling.grid.study import Study
def command(job):
    return [sys.executable, "-S", "-c", sys.argv[3], str(job.folder), job.name]
study = build(Study, json.loads(sys.argv[1]))
sys.exit(run_study(study, sys.argv[2], 3, command=command, grace=2))
"""


@pytest.mark.slow
def test_ten_deaths_at_random_moments_lose_no_finished_run_and_repeat_none(tmp_path):
    out, trace = tmp_path / "out", tmp_path / "trace"
    grid = {
        "sizes": ["atto", "femto", "pico"],
        "seeds": [0, 1, 2],
        "inits": ["mae", "byol", "random"],
    }
    recipe = {**RECIPE, **grid}
    root = str(Path(__file__).resolve().parents[3])
    env = {**os.environ, "RAN": str(trace), "PYTHONPATH": root}
    words = [sys.executable, "-c", KILLED, json.dumps(recipe), str(out), MOMENT]
    told = torment(words, out, kills=10, longest=2.5, seed=4, env=env)
    jobs = plan(build(Study, recipe), out)
    assert len(told) == 11 and sum("SIGKILL" in line for line in told) >= 3, told
    assert set(states(jobs).values()) == {"finished"}
    lines = trace.read_text().splitlines()
    for job in jobs:
        assert lines.count(f"end:{job.name}") <= 1  # a kill may come between a result and its note
        if f"end:{job.name}" in lines:
            assert f"start:{job.name}" not in lines[lines.index(f"end:{job.name}") :]
    assert sum(line.startswith("start:") for line in lines) > len(jobs)  # some were cut short
