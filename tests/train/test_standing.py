import math
import time

import pytest

from tokenunify_scale.train.standing import block, duration, sparkline, table
from tokenunify_scale.train.state import RunState

NOON = time.mktime((2027, 5, 4, 12, 0, 0, 0, 0, -1))
RATES = {
    "crops_per_s": 12.34, "tokens_per_s": 4936.0, "tflop_per_s": 1.234, "mfu": 0.123,
    "peak_tflops": 312.0, "data_wait": 0.021, "communication": 0.05, "peak_rss_gib": 3.4,
    "peak_gpu_gib": 12.0, "weight_random": 0.73, "weight_next": 0.27, "steps_skipped": 3,
}  # fmt: skip
LIVE = {
    "run": "runs/a", "state": "running", "verb": "pretrain", "model": "emmamba_tiny",
    "objective": "tokenunify", "world": 8, "began": NOON - 3600, "heard": NOON - 4, "step": 1230,
    "steps": 5000, "seconds_left": 4320.0, "losses": [0.4, 0.3, 0.2, 0.1],
    "first": {"step": 10, "loss": 0.4}, "last": {"step": 1230, "loss": 0.1},
    "held_out_first": {"step": 0, "held_out_loss": 0.5},
    "held_out": {"step": 1200, "held_out_loss": 0.2}, "rates": RATES,
    "checkpoint": "step-00001000", "saved": NOON - 200,
}  # fmt: skip


def said(**changes):
    head, *lines = block(RunState(**LIVE | changes), now=NOON)
    assert all(len(line) <= 100 and line.isascii() for line in lines)
    return dict(line.strip().split(": ", 1) for line in lines) | {"": head}


def test_a_live_run_in_full():
    assert said() == {
        "": "runs/a",
        "state": "running since 11:00, last heard of 4 s ago",
        "step": "1,230 of 5,000 (24.6%), 1 h 12 min left, ends about 13:12",
        "run": "pretrain emmamba_tiny tokenunify, 8 ranks",
        "loss": "0.1 now, 0.4 at step 10  @*=.",
        "held out": "0.2 at step 1,200, 0.5 at step 0",
        "weights": "random 0.73, next 0.27",
        "rate": "12.3 crops/s, 4,936 tokens/s, 1.23 TFLOP/s, MFU 12.3% of 312 TFLOP/s a device",
        "waiting": "2.1% for data, 5.0% for other ranks",
        "memory": "3.40 GiB of main memory, 12.00 GiB of GPU memory, "
        "at the peak of the fullest rank",
        "skipped": "3 steps",
        "checkpoint": "step-00001000, 3 min old",
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"state": "silent", "reason": "it hangs", "heard": NOON - 7500},
         "silent for 2 h 05 min: it hangs; can go on from step 1,000"),
        ({"state": "stopped", "reason": "SIGTERM (exit code 75)"},
         "stopped: SIGTERM (exit code 75); can go on from step 1,000"),
        ({"state": "failed", "reason": "disk full (exit code 3)", "checkpoint": None},
         "failed: disk full (exit code 3); nothing is saved"),
        ({"state": "finished", "finished": NOON - 86400}, "finished 2027-05-03 12:00"),
        ({"state": "unreadable", "reason": "config.yaml: not YAML"},
         "unreadable: config.yaml: not YAML"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_run_says_why_and_where_it_would_go_on(changes, words):
    assert said(seconds_left=None, **changes)["state"] == words


def test_what_was_not_measured_is_said_where_it_would_matter():
    rates = {"crops_per_s": 2.0, "data_wait": 0.0}
    assert said(rates=rates)["waiting"] == "0.0% for data, for other ranks: not measured"
    assert said(rates=rates, world=1)["waiting"] == "0.0% for data"


def test_of_a_verb_that_does_not_train_the_result_is_shown():
    state = RunState(run="a", state="finished", verb="evaluate", metrics={"voi": 1.25, "n": "x"})
    lines = [line.strip() for line in block(state, now=NOON)]
    assert lines == ["a", "state: finished", "run: evaluate", "result: voi 1.25"]


def test_several_runs_are_a_table_of_100_columns():
    name = "runs/pretrain/" + "deep/" * 20 + "down"
    states = [
        RunState(**LIVE),
        RunState(run=name, state="failed", step=7, steps=100, losses=[math.nan]),
        RunState(run="runs/b", state="failed"),
    ]
    lines = table(states, now=NOON)
    assert lines[0] == "runs:" and all(len(line) <= 100 for line in lines)
    assert lines[1].split() == [
        "run", "state", "step", "left", "loss", "held", "out", "crops/s", "saved",
    ]  # fmt: skip
    assert lines[2].split() == [
        "a", "running", "1,230", "25%", "1", "h", "12", "min", "0.1", "0.2", "12.3", "3", "min",
    ]  # fmt: skip
    assert lines[3].startswith("...") and "down  failed" in lines[3] and "nan" in lines[3]
    assert lines[-1] == "3 runs: 1 running, 2 failed"


def test_a_curve_goes_from_its_highest_to_its_lowest():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1, 0]) == "@%#*+=-:."
    assert sparkline(range(1000), width=9) == ".:-=+*#%@"
    assert sparkline([2.0, 2.0]) == ".." and sparkline([]) == ""
    assert sparkline([1.0, math.nan, 0.0]) == "@!."


@pytest.mark.parametrize(
    "seconds, text",
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"),
     (86400 * 2 + 3700, "2 d 1 h")],
)  # fmt: skip
def test_a_time_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text
