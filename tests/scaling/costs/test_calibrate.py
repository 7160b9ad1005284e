import dataclasses
import json

import pytest

from tokenunify_scale.config import build
from tokenunify_scale.scaling.costs.calibrate import (
    STEPS,
    calibrate,
    read_rates,
    samples,
    short_jobs,
)
from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs.retry import attempts, note_end, note_start
from tokenunify_scale.scaling.jobs.states import fingerprint, open_folder, states

RECIPE = {
    "name": "s",
    "sizes": ["pico", "femto", "atto"],
    "inits": ["mae", "byol", "random"],
    "seeds": [0, 1],
    "prepare": {"data": {}, "unused": {}},
    "pretrain": {"shards": ["{data}"], "steps": 500, "global_batch": 4},
    "finetune": {"volume": "{data}/v.h5:raw", "steps": 900, "global_batch": 2},
}
SIZES = {"atto": 1, "femto": 4, "pico": 9}


def study(tmp_path, **changes):
    """Jobs, and costs that are made up."""
    jobs = plan(build(Study, {**RECIPE, **changes}), tmp_path)
    found = {}
    for job in jobs:
        size = SIZES.get(job.axes.get("size"), 0)
        kind = f"pretrain {job.axes['init']}" if job.verb == "pretrain" else job.verb
        steps = job.arguments.get("steps")
        found[job.name] = Cost(kind=kind, parameters=size, steps=steps, work=1e9 * size or None)
    return jobs, found


def do(job, folders, *, seconds, step):
    """Leave what a finished run leaves."""
    open_folder(job, {need: fingerprint(folders[need]) for need in job.needs})
    note_start(job.folder)
    lines = [{"step": n, "crops_per_s": job.arguments["global_batch"] / (step if n > 2 else 9)}
             for n in (2, 4, 6)] if "steps" in job.arguments else []  # fmt: skip
    (job.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (job.folder / "result.json").write_text(json.dumps({"verb": job.verb, "seconds": seconds}))
    note_end(job.folder, ending="finished", code=0)
    file = job.folder / "attempts.json"
    (only,) = attempts(job.folder)
    record = dataclasses.replace(only, ended=only.began + seconds)
    file.write_text(json.dumps([dataclasses.asdict(record)]))


def test_each_kind_is_run_at_the_smallest_and_the_largest_size_with_few_steps(tmp_path):
    jobs, found = study(tmp_path)
    chosen = {job.name: job for job in short_jobs(jobs, found, tmp_path)}
    stages = ("finetune", "predict", "segment", "evaluate")
    assert set(chosen) == {
        "prepare/data",
        *(f"calibration/pretrain/{s}-{i}-s0" for s in ("atto", "pico") for i in ("mae", "byol")),
        *(f"calibration/{stage}/{s}-random-s0" for s in ("atto", "pico") for stage in stages),
    }
    tuned = chosen["calibration/finetune/pico-random-s0"]
    assert tuned.arguments["steps"] == STEPS and tuned.arguments["init"] == "random"
    assert tuned.arguments["volume"] == f"{tmp_path}/prepare/data/v.h5:raw"
    predicted = chosen["calibration/predict/pico-random-s0"]
    assert predicted.arguments["model"] == str(tuned.folder) and tuned.name in predicted.needs
    assert tuned.folder == tmp_path / "calibration/finetune/pico-random-s0"
    before = set()
    for job in chosen.values():
        assert before.issuperset(job.needs)
        before.add(job.name)
    short = {job.request for name, job in chosen.items() if name.startswith("calibration/")}
    assert short.isdisjoint(job.request for job in jobs) and len(short) == len(chosen) - 1


def test_without_random_a_fine_tuning_is_measured_from_random_weights_all_the_same(tmp_path):
    jobs, found = study(tmp_path, inits=["mae"])
    chosen = {job.name: job for job in short_jobs(jobs, found, tmp_path)}
    tuned = chosen["calibration/finetune/atto-mae-s0"]
    pretrained = str(tmp_path / "calibration/pretrain/atto-mae-s0")
    assert tuned.arguments["init"] == pretrained and pretrained.endswith(tuned.needs[1][12:])


def test_rates_are_what_short_runs_took_steps_apart_from_the_rest(tmp_path):
    jobs, found = study(tmp_path)

    def run(chosen):
        folders = {job.name: job.folder for job in chosen}
        for job in chosen:
            do(job, folders, seconds=20.0, step=0.5 if "atto" in job.name else 1.5)
        return 0

    assert read_rates(tmp_path) == ([], "")
    assert calibrate(jobs, found, tmp_path, run=run) == 0
    rates, place = read_rates(tmp_path)
    by = {(one.kind, one.work): one for one in rates}
    assert by["finetune", 1e9].seconds == pytest.approx(0.5)
    assert by["finetune", 1e9].fixed == pytest.approx(20 - STEPS * 0.5)
    assert by["pretrain byol", 9e9].seconds == pytest.approx(1.5)
    assert by["predict", 9e9].seconds == pytest.approx(20) and " of " in place
    assert states(jobs)["prepare/data"] == "finished"


def test_a_run_that_was_started_twice_tells_no_time(tmp_path):
    jobs, found = study(tmp_path, inits=["random"], sizes=["atto"], seeds=[0])
    folders = {job.name: job.folder for job in jobs}
    for job in jobs:
        do(job, folders, seconds=60.0, step=0.05)
    learned = samples(jobs, found, states(jobs))
    assert {one.kind for one in learned} == {"finetune", "predict", "segment", "evaluate"}
    tuned = next(job for job in jobs if job.verb == "finetune")
    note_start(tuned.folder)
    note_end(tuned.folder, ending="finished", code=0)
    assert "finetune" not in {one.kind for one in samples(jobs, found, states(jobs))}
    (tuned.folder / "attempts.json").unlink()  # of a run that did not note its starts
    (one,) = [s for s in samples(jobs, found, states(jobs)) if s.kind == "finetune"]
    assert one.seconds == pytest.approx(0.05) and one.fixed == pytest.approx(60 - 900 * 0.05)
