import io
import json

from rich.console import Console

from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs import process
from tokenunify_scale.scaling.jobs.retry import note_end, note_start
from tokenunify_scale.scaling.jobs.states import fingerprint, lock_of, open_folder
from tokenunify_scale.scaling.jobs.status import Line, lines_of, show, to_text, totals, urgent

NEEDS = {
    "finetune/a": [],
    "predict/a": ["finetune/a"],
    "finetune/b": [],
    "predict/b": ["finetune/b"],
}


def study(out):
    return [
        Job(name=n, verb=n.split("/")[0], arguments={"steps": 40} if "fine" in n else {},
            needs=tuple(needs), folder=out / n, request="r")
        for n, needs in NEEDS.items()
    ]  # fmt: skip


def begin(job, jobs):
    folders = {each.name: each.folder for each in jobs}
    open_folder(job, {need: fingerprint(folders[need]) for need in job.needs})
    note_start(job.folder)


def standing(out):
    """a is fine-tuned, and its prediction runs; b failed once and is at it again."""
    jobs = study(out)
    begin(jobs[0], jobs)
    metrics = {"metrics": {"loss": 0.123456, "voi": 1.5}}
    (jobs[0].folder / "result.json").write_text(json.dumps(metrics))
    note_end(jobs[0].folder, ending="finished", code=0)
    begin(jobs[2], jobs)
    note_end(jobs[2].folder, ending="failed", code=1)
    note_start(jobs[2].folder)
    line = {"step": 10, "time": 1000.0, "loss": 0.25, "seconds_left": 90.0}
    (jobs[2].folder / "metrics.jsonl").write_text(f"{json.dumps(line)}\n" + '{"step": 2')
    return jobs


def test_each_job_tells_state_progress_time_left_result_and_attempts(tmp_path):
    jobs = standing(tmp_path)
    with process.take(lock_of(jobs[2]), patience=0):
        lines = lines_of(jobs, tmp_path, now=1030.0)
    assert [line.cells for line in lines] == [
        ("finetune/a", "finished", "40/40", "", "voi 1.5", "1"),
        ("predict/a", "queued", "", "", "", ""),
        ("finetune/b", "running", "10/40", "60 s", "loss 0.25", "2"),
        ("predict/b", "queued", "", "", "", ""),
    ]
    assert totals(lines) == "4 jobs: 1 finished, 1 running, 2 queued"


def test_what_failed_is_queued_again_once_a_harness_has_begun(tmp_path):
    jobs = standing(tmp_path)
    note_end(jobs[2].folder, ending="failed", code=1)
    assert [line.state for line in lines_of(jobs, tmp_path)][2:] == ["failed", "blocked"]
    with process.hold(tmp_path, patience=0):
        assert [line.state for line in lines_of(jobs, tmp_path)][2:] == ["queued", "queued"]


def test_plain_text_goes_where_no_terminal_is(tmp_path):
    jobs, file = standing(tmp_path), io.StringIO()
    show(jobs, tmp_path, console=Console(file=file))
    text = file.getvalue()
    assert "\x1b" not in text and text.splitlines()[0].split()[:2] == ["job", "state"]
    assert text == to_text(lines_of(jobs, tmp_path)) + "\n"


def test_watching_ends_when_nothing_is_left_to_wait_for(tmp_path):
    jobs, file, looks = standing(tmp_path), io.StringIO(), []

    def sleep(seconds):
        looks.append(seconds)
        for job in jobs:
            begin(job, jobs)
            (job.folder / "result.json").write_text("{}")

    console = Console(file=file, force_terminal=True, width=100, height=30)
    lines = show(jobs, tmp_path, every=2.0, console=console, sleep=sleep)
    assert looks == [2.0] and {line.state for line in lines} == {"finished"}
    assert "4 jobs: 4 finished" in file.getvalue()


def test_a_low_screen_shows_what_runs_and_what_failed_first():
    states = ["finished", "running", "queued", "failed", "finished"]
    lines = [Line(job=str(i), state=state) for i, state in enumerate(states)]
    assert [line.job for line in urgent(lines, most=3)] == ["1", "2", "3"]
    assert urgent(lines, most=9) == lines
