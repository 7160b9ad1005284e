import json

from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.retry import note_end, note_start
from tokenunify_scale.scaling.jobs.states import fingerprint, lock_of, open_folder, states


def chain(out, *, request="r"):
    """Three jobs, each made from the one before."""
    names = ("prepare/data", "finetune/a", "predict/a")
    return [
        Job(
            name=name,
            verb=name.split("/")[0],
            arguments={"steps": 3},
            needs=names[max(0, i - 1) : i],
            folder=out / name,
            request=f"{request}{i}",
        )
        for i, name in enumerate(names)
    ]


def begin(jobs, number):
    job = jobs[number]
    return open_folder(job, {need: fingerprint(jobs[number - 1].folder) for need in job.needs})


def finish(jobs, number, result=None):
    begin(jobs, number)
    (jobs[number].folder / "result.json").write_text(json.dumps(result or {"of": number}))


def fail(jobs, number):
    begin(jobs, number)
    note_start(jobs[number].folder)
    note_end(jobs[number].folder, ending="failed", code=1)


def of(jobs, **options):
    return list(states(jobs, **options).values())


def test_a_job_is_finished_when_its_result_is_of_this_request_and_these_inputs(tmp_path):
    jobs = chain(tmp_path)
    assert of(jobs) == ["queued"] * 3
    finish(jobs, 0)
    finish(jobs, 1)
    assert of(jobs) == ["finished", "finished", "queued"]
    (jobs[0].folder / "result.json").write_text('{"of": "another"}')
    assert of(jobs) == ["finished", "queued", "queued"]
    assert of(chain(tmp_path, request="other")) == ["changed", "changed", "queued"]


def test_what_needs_a_failed_job_is_blocked_until_it_is_to_be_started_again(tmp_path):
    jobs = chain(tmp_path)
    finish(jobs, 0)
    fail(jobs, 1)
    assert of(jobs) == ["finished", "failed", "blocked"]
    assert of(jobs, since=1e12) == ["finished", "queued", "queued"]
    begin(jobs, 1)
    note_start(jobs[1].folder)
    assert of(jobs) == ["finished", "queued", "queued"]


def test_a_job_is_running_as_long_as_its_lock_is_held(tmp_path):
    jobs = chain(tmp_path)
    begin(jobs, 0)
    with process.take(lock_of(jobs[0]), patience=0):
        assert of(jobs) == ["running", "queued", "queued"]
    assert of(jobs) == ["queued"] * 3


def test_files_that_were_cut_short_are_as_none(tmp_path):
    jobs = chain(tmp_path)
    finish(jobs, 0)
    (jobs[0].folder / "result.json").write_text('{"of"')
    assert of(jobs) == ["queued"] * 3
    finish(jobs, 0)
    (jobs[0].folder / "job.json").write_text("")
    assert of(jobs) == ["changed", "queued", "queued"]
    (jobs[0].folder / "checkpoints").mkdir()
    begin(jobs, 0)  # of whatever request these checkpoints are
    assert not (jobs[0].folder / "checkpoints").exists()


def test_a_folder_keeps_its_checkpoints_for_the_same_request_and_loses_them_for_another(tmp_path):
    jobs = chain(tmp_path)
    (begin(jobs, 0).parent / "checkpoints").mkdir()
    begin(jobs, 0)
    assert (jobs[0].folder / "checkpoints").is_dir()
    (tmp_path / "prepare/.data.old/left by a kill").mkdir(parents=True)
    begin(chain(tmp_path, request="other"), 0)
    assert not (jobs[0].folder / "checkpoints").exists()
    assert not (tmp_path / "prepare/.data.old").exists()
    assert json.loads((jobs[0].folder / "request.json").read_text()) == {"steps": 3}
