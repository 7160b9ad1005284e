import argparse
import json

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling import command

RECIPE = """
name: tiny_study
sizes: [atto]
inits: [random]
"""


def fake_run(study, out, jobs):
    """Leave what the runs of a finished study leave."""
    from tokenunify_scale.scaling.plan import plan
    from tokenunify_scale.scaling.run import _fingerprint, _open_folder

    planned = plan(study, out)
    folders = {job.name: job.folder for job in planned}
    for job in planned:
        _open_folder(job, {need: _fingerprint(folders[need]) for need in job.needs})
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
    monkeypatch.setattr(command, "check", lambda jobs: None)
    assert call(["run", recipe, "--out", str(tmp_path / "out")]) == 0
    written = {file.name for file in (tmp_path / "out").iterdir() if file.is_file()}
    tables = {"table.csv", "table.md", "table.json"}
    assert written >= tables | {"fit.json", "scaling.png", "scaling.svg"}
    said = capsys.readouterr().out
    assert "not identified: 1 size, 3 parameters" in said and "scaling.png" in said


def test_a_dry_run_prints_the_plan_and_starts_nothing(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "check", lambda jobs: None)
    out = tmp_path / "out"
    assert call(["run", recipe, "--out", str(out), "--dry-run"]) == 0
    assert "finetune/atto-random-s0" in capsys.readouterr().out and not out.exists()


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
    ],
)
def test_a_wrong_request_is_told_in_one_line(words, told):
    with pytest.raises(ConfigError, match=told):
        call(words)
