"""What only prints."""

import json

import pytest

from tokenunify_scale.cli import main
from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import list_models
from tokenunify_scale.models.published import PUBLISHED
from tokenunify_scale.show import status
from tokenunify_scale.train.runlog import RunFolder


def lines(capsys, *words):
    assert main("models", [str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_network_is_listed_with_its_cost_and_the_papers_figures_beside_it(capsys):
    table = {line.split()[0]: line.split() for line in lines(capsys)[1:]}
    for name in list_models():
        _, parameters, printed, crop, gmac, paper, activations, unit, *source = table[name]
        assert int(parameters.replace(",", "")) > 100_000 and float(activations) > 0
        assert unit == "GiB" and source and float(gmac.replace(",", "")) > 0
        facts = PUBLISHED.get(name)
        assert printed == (facts.parameters if facts else "-")
        assert paper == (f"{facts.gmac:,.0f}" if facts and facts.gmac else "-")
        assert crop == "x".join(map(str, facts.crop if facts else (16, 160, 160)))
    assert table["emmamba_huge"][1:4] == ["1,008,908,931", "1008", "16x160x160"]


def test_what_the_release_of_unetr_counts_is_said_below_the_table(capsys):
    assert any("129,071,547" in line for line in lines(capsys, "unetr"))


def test_a_crop_of_ones_own_is_costed_without_the_papers_figure(capsys):
    row = lines(capsys, "emmamba_small", "--crop", "16,64,64")[1].split()
    assert row[3] == "16x64x64" and row[5] == "-"


@pytest.mark.parametrize(
    "words, hint",
    [
        (["emmamba_tny"], "did you mean 'emmamba_tiny'"),
        (["mala", "--crop", "16,64,64"], "mala: "),
        (["--crop", "16,64"], "expected 3"),
    ],
)
def test_a_wrong_request_is_one_line(capsys, words, hint):
    assert main("models", words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and hint in captured.err


def trained(path, *, steps=4):
    """A run that is half done."""
    run = RunFolder.create(path, verb="pretrain", config={"steps": steps, "model": {"name": "m"}})
    run.log(step=1, loss=0.5)
    run.log(step=2, loss=0.25)
    return run


def test_status_tells_how_a_run_stands(capsys, tmp_path):
    trained(tmp_path / "run")
    assert status(tmp_path / "run") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == str(tmp_path / "run") and "step: 2 of 4 (50.0%)" in lines
    assert "loss: 0.25 now, 0.5 at step 1  @." in lines


def test_status_of_a_folder_of_runs_and_of_several_is_a_table(capsys, tmp_path):
    trained(tmp_path / "study" / "one")
    trained(tmp_path / "study" / "two").finish()
    trained(tmp_path / "other")
    status(tmp_path / "study", tmp_path / "other")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "3 runs: 2 running, 1 finished"
    assert "study/one" in out and "other" in out


def test_status_as_json_is_one_object(capsys, tmp_path):
    trained(tmp_path / "run").log(step=3, loss=float("nan"))
    status(tmp_path / "run", form="json")
    (run,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"]
    assert run["state"] == "running" and run["step"] == 3 and run["steps"] == 4
    assert run["losses"] == [0.5, 0.25, None], "JSON has no word for what is no number"


def test_status_of_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no config.yaml"):
        status(tmp_path)
