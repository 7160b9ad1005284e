import json
import sys

import pytest

from tokenunify_scale.config import ConfigError, DataError, build
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs import slurm, task
from tokenunify_scale.scaling.jobs.states import states
from tokenunify_scale.train.sbatch import Batch

RECIPE = {"name": "s", "sizes": ["atto"], "inits": ["random"], "prepare": {"data": {}}}
RECIPE |= {"finetune": {"volume": "{data}/raw"}}


@pytest.fixture
def jobs(tmp_path):
    planned = plan(build(Study, RECIPE), tmp_path)
    slurm.write(planned, states(planned), tmp_path, batch=Batch())
    return planned


def command(job):
    result = json.dumps({"verb": job.verb})
    return [sys.executable, "-S", "-c", f"open('{job.folder}/result.json', 'w').write('{result}')"]


def test_the_plan_comes_back_as_it_was_written(jobs, tmp_path):
    assert task.read_jobs(tmp_path) == jobs


def test_a_task_does_its_own_job_once_and_only_when_its_needs_are_met(jobs, tmp_path):
    assert task.run_task(tmp_path, "finetune/atto-random-s0", command=command) == 4
    assert task.run_task(tmp_path, "prepare/data", command=command) == 0
    before = (tmp_path / "prepare/data/result.json").stat().st_mtime_ns
    assert task.run_task(tmp_path, "prepare/data", command=command) == 0
    assert (tmp_path / "prepare/data/result.json").stat().st_mtime_ns == before
    assert task.run_task(tmp_path, "finetune/atto-random-s0", command=command) == 0
    assert list(states(jobs).values())[:3] == ["finished", "finished", "queued"]


def test_many_ranks_are_started_by_srun(jobs):
    words = task.srun_command(8)(jobs[1])
    assert words[:3] == ["env", "TOKENUNIFY_EXPECT_WORLD=8", "srun"] and "finetune" in words
    assert "srun" not in task.srun_command(8)(jobs[0])


def test_a_name_or_a_folder_that_is_none_is_refused(jobs, tmp_path):
    with pytest.raises(ConfigError, match="no job 'finetune/nano'"):
        task.run_task(tmp_path, "finetune/nano")
    with pytest.raises(DataError, match="no plan of a study"):
        task.run_task(tmp_path / "elsewhere", "prepare/data")
