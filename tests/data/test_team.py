import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.data.team import SIZES, Team, assemble, exit_code

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpi = pytest.mark.skipif(not MPIRUN.exists(), reason="needs Open MPI's wheel and mpi4py")
# What the command line does with an error.
MEMBER = """
import sys, time
from pathlib import Path
from tokenunify_scale.config import DataError
from tokenunify_scale.data.team import assemble

team, out = assemble(), Path(sys.argv[1])

def say(*words):
    (out / f"said-{team.rank}").open("a").write(" ".join(map(str, words)) + chr(10))

def main():
    SCENE

try:
    with team:
        main()
except DataError as error:
    print("error:", error, file=sys.stderr, flush=True)
    raise SystemExit(4)
"""


def mpirun(out, *, ranks, scene):
    """Run a scene on some ranks: what each of them said by ``say``, and the finished process."""
    out.mkdir(exist_ok=True)
    script = out / "member.py"
    script.write_text(MEMBER.replace("SCENE", scene.strip().replace("\n", "\n    ")))
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [MPIRUN, "--oversubscribe", "-n", str(ranks), sys.executable, script, out],
        env={**os.environ, **allowed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [out / f"said-{rank}" for rank in range(ranks)]
    return [file.read_text().splitlines() if file.exists() else [] for file in said], done


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_a_process_alone_is_a_team_of_one():
    team = assemble({})
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.deal([1, 2, 3], lambda n: n * n) == [1, 4, 9]
    assert team.ask(lambda: "x") == "x"
    with pytest.raises(DataError, match="bad"), team.together():
        raise DataError("bad")


def test_progress_is_shown_where_there_is_a_total(capsys, monkeypatch):
    monkeypatch.setattr("tokenunify_scale.train.runlog.LINE_SECONDS", -1)
    team = Team()
    with team.progress(3, description="shards", unit="crop"):
        team.deal(range(3), lambda n: team.done())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["shards: 1/3", "shards: 2/3"]
    assert "crop/s" in lines[0] and "s left" in lines[0]
    team.done()  # outside of it, nothing is counted
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", SIZES)
def test_a_launcher_needs_mpi4py_and_the_error_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert assemble({name: "1"}).size == 1
    with pytest.raises(HostError, match=r"one of 8 .*pip install 'tokenunify-scale\[mpi\]'"):
        assemble({name: "8"})


def test_a_batch_script_of_slurm_is_one_process():
    assert assemble({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}).size == 1


def test_the_launcher_of_another_mpi_is_found_out(monkeypatch):
    world = SimpleNamespace(Get_size=lambda: 1, Get_rank=lambda: 0)
    fake = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world))
    monkeypatch.setitem(sys.modules, "mpi4py", fake)
    with pytest.raises(HostError, match="one of 4 .*mpi4py sees 1"):
        assemble({"PMI_SIZE": "4"})


def test_errors_have_the_exit_code_of_the_command_line():
    assert [exit_code(e) for e in (DataError(), HostError(), OSError(), KeyError())] == [4, 3, 4, 1]
    assert exit_code(KeyboardInterrupt()) == 130


@needs_mpi
def test_items_are_dealt_out_and_all_ranks_learn_all_results(tmp_path):
    said, done = mpirun(
        tmp_path,
        ranks=3,
        scene="""
say(team.rank, team.size, team.leads)
with team.progress(7, description="items", unit="item"):
    say(*team.deal(range(7), lambda n: (team.done(), f"{n}@{team.rank}")[1]))
say(team.ask(lambda: f"asked of {team.rank}"))
say(*team.deal([], str), "none")
""",
    )
    assert done.returncode == 0, done.stderr
    dealt = "0@0 1@1 2@2 3@0 4@1 5@2 6@0"
    for rank in range(3):
        place = f"{rank} 3 {rank == 0}"
        assert said[rank] == [place, dealt, "asked of 0", "none"]


@needs_mpi
def test_an_error_on_one_rank_is_one_line_and_ends_all_at_once(tmp_path):
    start = time.monotonic()
    said, done = mpirun(
        tmp_path,
        ranks=3,
        scene="""
def work(n):
    for step in range(100_000):
        time.sleep(0.001)
        if n == 1 and step == 50:
            raise DataError("item 1 is bad")
        team.done()

with team.together():  # where one fails, the sections around it fail with it
    pass
with team.progress(300_000, description="items", unit="item"):
    team.deal(range(3), work)
say("never")
""",
    )
    assert done.returncode == 4 and errors(done) == ["error: item 1 is bad"]
    assert said == [[], [], []] and time.monotonic() - start < 50


@needs_mpi
def test_of_errors_on_all_ranks_the_first_ones_is_told(tmp_path):
    _, done = mpirun(
        tmp_path,
        ranks=2,
        scene="""
with team.together():
    if team.leads:
        time.sleep(0.5)
    raise DataError(f"from {team.rank}")
""",
    )
    assert done.returncode == 4 and errors(done) == ["error: from 0"]


@needs_mpi
@pytest.mark.parametrize("what, code", [("KeyError('bug')", 1), ("KeyboardInterrupt", 130)])
def test_what_nobody_agreed_on_ends_all_ranks_too(tmp_path, what, code):
    said, done = mpirun(
        tmp_path,
        ranks=2,
        scene=f"""
if not team.leads:
    raise {what}
team.ask(lambda: 1)
say("never")
""",
    )
    assert done.returncode == code and what.partition("(")[0] in done.stderr
    assert said == [[], []]
