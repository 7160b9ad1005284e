import os
import subprocess
from pathlib import Path

import pytest

from tokenunify_scale.train.sbatch import Batch, sbatch_text

# Plays srun: notes its words and the promise, and ends as the next line of "codes" says.
SRUN = """#!/bin/sh
echo "$TOKENUNIFY_EXPECT_WORLD $*" >> "$PLAY/calls"
code=$(head -n 1 "$PLAY/codes"); sed -i 1d "$PLAY/codes"
exit $code
"""
SCONTROL = '#!/bin/sh\necho "$*" >> "$PLAY/requeued"\n'
WORDS = ["pretrain", "--size", "huge", "--set", "objective.patch=[4, 8, 8]"]


@pytest.fixture
def script(tmp_path):
    text = sbatch_text(
        Batch(nodes=2, gpus_per_node=4, options=("--partition=a100",)),
        WORDS,
        name="huge",
        out=Path("runs/huge"),
    )
    path = tmp_path / "job.sbatch"
    path.write_text(text)
    return path


@pytest.fixture
def play(script, tmp_path):
    """Run the script where each srun ends with the next of some codes."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*codes):
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        for name in ("calls", "requeued"):
            (tmp_path / name).write_text("")
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PLAY": str(tmp_path), "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash", script], env=environment, cwd=tmp_path, timeout=60)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def test_slurm_is_asked_for_what_the_job_needs_and_for_a_warning(script):
    assert subprocess.run(["bash", "-n", script], timeout=60).returncode == 0
    asked = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    for option in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--signal=USR2@300", "--requeue",
        "--open-mode=append", "--partition=a100", "--job-name=huge",
    ):  # fmt: skip
        assert f"#SBATCH {option}" in asked


def test_each_node_is_looked_at_and_then_all_ranks_get_the_command(play):
    code, calls = play(0, 0)
    assert code == 0 and len(calls) == 2
    assert "--ntasks=2 --ntasks-per-node=1" in calls[0] and calls[0].endswith("--out runs/huge")
    assert calls[1].startswith("8 ") and calls[1].endswith(" ".join(WORDS))


def test_a_job_that_was_stopped_is_put_back_into_the_queue(play, tmp_path):
    code, calls = play(0, 75)
    assert code == 0 and len(calls) == 2
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    "codes, end, starts",
    [([3], 3, 1), ([0, 5], 5, 2), ([0, 137, 0], 0, 3), ([0, 1, 1, 1, 1, 1], 1, 5)],
)
def test_a_crash_is_answered_by_another_start_and_a_refusal_by_the_end(
    codes, end, starts, play, tmp_path
):
    code, calls = play(*codes)
    assert (code, len(calls)) == (end, starts) and (tmp_path / "requeued").read_text() == ""


def test_what_sbatch_would_not_take_is_refused():
    with pytest.raises(ValueError, match="nodes must be >= 1, got 0"):
        Batch(nodes=0)
    with pytest.raises(ValueError, match="not 'partition'"):
        Batch(options=("partition",))
    with pytest.raises(ValueError, match="sbatch takes options"):
        Batch(options=("--a\nrm -r x",))
