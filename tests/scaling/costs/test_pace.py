import pytest
import torch

from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.costs.pace import (
    CPU_FLOPS,
    START,
    Pace,
    Sample,
    assumed_flops,
    makespan,
)
from tokenunify_scale.scaling.grid.plan import Job


def training(work, steps=100):
    return Cost(kind="finetune", steps=steps, work=work)


def sample(work, seconds, fixed=0.0, kind="finetune"):
    return Sample(kind=kind, work=work, seconds=seconds, fixed=fixed)


def test_a_training_takes_its_steps_and_what_does_not_grow_with_them():
    pace = Pace([sample(1e9, 0.2, 10.0)], 1e9)
    assert pace.seconds(training(1e9)) == pytest.approx(30)
    assert pace.seconds(training(1e9, steps=300)) == pytest.approx(70)


def test_between_measured_sizes_time_follows_a_power_and_beyond_them_the_nearest_speed():
    pace = Pace([sample(1e9, 0.1, 4.0), sample(16e9, 0.4, 8.0)], 1e9)
    assert pace.seconds(training(4e9)) == pytest.approx(100 * 0.2 + 4.8)  # sqrt(1e9 * 16e9)
    assert pace.seconds(training(32e9)) == pytest.approx(100 * 0.8 + 8)
    assert pace.seconds(training(0.5e9)) == pytest.approx(100 * 0.05 + 4)


def test_runs_of_the_same_work_are_averaged():
    pace = Pace([sample(1e9, 0.1), sample(1e9, 0.3)], 1e9)
    assert pace.seconds(training(1e9)) == pytest.approx(20)


def test_a_small_network_that_was_slower_than_a_larger_one_counts_as_fast():
    pace = Pace([sample(1e9, 0.5, 15.0), sample(4e9, 0.4, 5.0), sample(9e9, 0.9, 6.0)], 1e9)
    assert pace.seconds(training(1e9)) == pytest.approx(45)
    assert pace.seconds(training(9e9)) == pytest.approx(96)


def test_what_was_never_measured_takes_an_assumed_time_or_is_not_known():
    pace = Pace([], 1e9)
    assert pace.seconds(training(1e9)) == pytest.approx(START + 100)
    assert pace.seconds(Cost(kind="segment", work=1e6)) is None
    assert not pace.is_measured(training(1e9))
    known = Pace([sample(1e6, 3.0, kind="segment")], 1e9)
    assert known.seconds(Cost(kind="segment", work=2e6)) == pytest.approx(6)
    assert known.seconds(Cost(kind="segment")) == pytest.approx(3)


def test_an_assumed_speed_says_of_what_it_is():
    flops, words = assumed_flops(threads=3)
    if not torch.cuda.is_available():
        assert flops == 3 * CPU_FLOPS and "3 a job" in words


@pytest.mark.parametrize("slots, seconds", [(1, 10), (2, 6), (3, 5)])
def test_a_study_ends_when_its_last_job_does_started_as_the_pool_would(tmp_path, slots, seconds):
    needs = {"a": [], "b": ["a"], "c": [], "d": []}
    jobs = [
        Job(name=n, verb="v", arguments={}, needs=tuple(w), folder=tmp_path / n, request="")
        for n, w in needs.items()
    ]
    # Two slots: a 0-2, c 0-3, b 2-5, d 3-5... and three: b is the last, 2-5.
    taken = {"a": 2.0, "b": 3.0, "c": 3.0, "d": 2.0}
    assert makespan(jobs, taken, slots=slots) == {1: 10, 2: 5, 3: 5}[slots] <= seconds


def test_times_of_other_devices_are_reckoned_from_the_peak_that_is_told():
    flops, words = assumed_flops(threads=1, world=4, tflops=312)
    assert flops == pytest.approx(4 * 0.3 * 312e12) and "312 TFLOP/s a device" in words
