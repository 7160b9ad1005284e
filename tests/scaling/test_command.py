import argparse
import json

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling import command
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.jobs.states import fingerprint, open_folder

RECIPE = """
name: tiny_study
sizes: [atto]
inits: [random]
finetune:
  volume: "synthetic:shape=16x64x64"
  labels: "synthetic:shape=16x64x64"
  crop: [16, 32, 32]
predict: {volume: "synthetic:shape=16x64x64"}
evaluate: {labels: "synthetic:shape=16x64x64"}
"""


def fake_run(study, out, jobs, **_):
    """Leave what the runs of a finished study leave."""
    planned = plan(study, out)
    folders = {job.name: job.folder for job in planned}
    for job in planned:
        open_folder(job, {need: fingerprint(folders[need]) for need in job.needs})
        scores = dict.fromkeys(("voi_split", "voi_merge", "voi", "arand", "loss"), 0.5)
        result = {"verb": job.verb, "seconds": 1, "metrics": scores, "seed": 0, "init": "random"}
        result["model"] = {"name": "emmamba_atto", "parameters": 100}
        (job.folder / "result.json").write_text(json.dumps(result))
    return 0


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "tiny_study.yaml"
    file.write_text(RECIPE)
    return str(file)


def call(words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(words))


def test_run_ends_with_tables_fit_and_figure(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "run_study", fake_run)
    assert call(["run", recipe, "--out", str(tmp_path / "out")]) == 0
    written = {file.name for file in (tmp_path / "out").iterdir() if file.is_file()}
    tables = {"table.csv", "table.md", "table.json"}
    assert written >= tables | {"fit.json", "scaling.png", "scaling.svg"}
    said = capsys.readouterr().out
    assert "not identified: 1 size, 3 parameters" in said and "scaling.png" in said


def test_run_ends_with_a_ranking_a_verdict_and_a_report(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "run_study", fake_run)
    words = ["run", recipe, "--set", "axes={finetune.steps: [1, 2]}", "--set", "seeds=[0]"]
    assert call([*words, "--out", str(tmp_path / "out")]) == 0
    report = (tmp_path / "out/report.html").read_text()
    assert "tokenunify scaling run" in report and "finetune.steps" in report
    assert "random 1 and random 2" in capsys.readouterr().out  # a curve for each value of the axis
    assert json.loads((tmp_path / "out/verdict.json").read_text())["comparisons"]


def test_a_dry_run_prints_the_plan_and_starts_nothing(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(["run", recipe, "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "finetune/atto-random-s0" in said and "477,851" in said and not out.exists()
    assert call(["plan", recipe, "--out", str(out), "--rate", "2.5", "--currency", "EUR"]) == 0
    assert "cost, EUR" in capsys.readouterr().out and not out.exists()


def test_what_cannot_fit_is_refused_before_anything_starts(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run_study", pytest.fail)
    with pytest.raises(ConfigError, match="finetune/atto-random-s0 needs .* GiB of memory a rank"):
        call(["run", recipe, "--out", str(tmp_path / "out"), "--device-memory", "0.01"])
    assert not (tmp_path / "out").exists()


def test_cells_that_would_take_too_long_are_left_out_and_told(recipe, tmp_path, capsys):
    words = ["plan", recipe, "--out", str(tmp_path / "out"), "--max-hours", "1e-6"]
    assert call(words) == 0
    said = capsys.readouterr().out
    assert "left out: finetune/atto-random-s0, about" in said and "0 jobs" in said


def test_slurm_scripts_are_written_and_not_submitted_by_a_dry_run(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", recipe, "--out", str(out), "--slurm", "--dry-run"]
    assert call([*words, "--slurm-option=--partition=a100"]) == 0
    scripts = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".sbatch")]
    assert len(scripts) == 4  # fine-tuning, prediction, segmentation, scores
    assert "#SBATCH --partition=a100" in open(scripts[0]).read()
    with pytest.raises(ConfigError, match="sbatch takes options"):
        call([*words, "--slurm-option=partition"])


def test_status_tells_every_job(recipe, tmp_path, capsys):
    assert call(["status", recipe, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "finetune/atto-random-s0" in said and "4 jobs: 4 queued" in said


def test_verdict_takes_any_table(tmp_path, capsys):
    table = tmp_path / "points.csv"
    table.write_text("init,N,loss\na,10,2\na,100,1\nb,10,2.5\nb,100,1.5\n")
    words = [str(table), "--x", "N", "--y", "loss", "--out", str(tmp_path / "out")]
    assert call(["verdict", *words, "--noise", "0.1"]) == 0
    assert "a is better than b" in capsys.readouterr().out


def test_power_needs_a_noise_and_prints_a_line_for_each_number_of_seeds(capsys, monkeypatch):
    monkeypatch.setattr(command.power, "SIMULATIONS", 5)
    assert call(["power", "--sizes", "3", "--seeds", "1..2", "--noise", "0.05"]) == 0
    assert "0.05" in capsys.readouterr().out
    for wrong in (["power"], ["power", "--noise", "0.1", "--seeds", "x"]):
        with pytest.raises(ConfigError):
            call(wrong)


def test_a_law_of_two_variables_tells_where_compute_is_best_spent(tmp_path, capsys):
    table, lines = tmp_path / "points.csv", ["N,C,loss"]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9, 3e9):
        for d in (1e8, 3e8, 1e9, 3e9, 1e10, 3e10):
            loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.37
            lines.append(f"{n:g},{6 * n * d:g},{loss}")
    table.write_text("\n".join(lines))
    words = [str(table), "--x", "N", "--flops", "C", "--y", "loss", "--out", str(tmp_path)]
    assert call(["fit", *words]) == 0
    said = capsys.readouterr().out
    assert "alpha 0.35" in said.replace("= ", "") or "N^-0.35" in said
    assert "N* ~ C^0.51" in said


def test_the_paper_s_figure_alone_needs_no_source(tmp_path, capsys):
    assert call(["plot", "--paper", "mamba", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "figure6_mamba.pdf").exists()
    assert "tokenunify is better than mae on average" in capsys.readouterr().out


def test_fit_and_plot_take_any_table(tmp_path, capsys):
    table = tmp_path / "points.csv"
    table.write_text("N,loss\n10,2\n100,1\n")
    words = [str(table), "--x", "N", "--y", "loss", "--group", "", "--out", str(tmp_path / "out")]
    assert call(["fit", *words]) == 0
    assert "not identified" in json.loads((tmp_path / "out/fit.json").read_text())[""]["verdict"]
    assert not (tmp_path / "out/scaling.png").exists()
    assert call(["plot", *words]) == 0
    assert (tmp_path / "out/scaling.png").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (["run", "points.csv"], "needs a recipe"),
        (["run", "cpu_demo", "--jobs", "0"], "--jobs must be at least 1"),
        (["plan", "cpu_demo", "--set", "finetoon.steps=3"], "did you mean 'finetune'"),
        (["plan", "cpu_demo", "--max-hours", "0"], "--max-hours must be > 0, got 0"),
        (["fit"], "fit needs a study, as cpu_demo, or a FILE.csv"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(words, told):
    with pytest.raises(ConfigError, match=told):
        call(words)
