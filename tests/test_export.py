import json

import pytest
import torch

from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.config import DataError
from tokenunify_scale.export import compare
from tokenunify_scale.train.checkpoint import read_weights, save_weights


@pytest.fixture(scope="module")
def exported(finetuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert main("export", ["--run", str(finetuned), "--out", str(out)]) == 0
    return out


def test_the_folder_has_what_the_hub_expects(exported):
    assert {"config.json", "model.safetensors", "README.md"} <= {p.name for p in exported.iterdir()}
    config = json.loads((exported / "config.json").read_text())
    assert config["model"]["name"] == "emmamba_atto" and config["out_channels"] == 3
    assert config["output"]["offsets"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert config["architectures"] == ["EMmamba"] and config["margin"] == [0, 0, 0]


def test_it_loads_back_identically(exported, finetuned):
    crops = torch.rand(1, 1, 8, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(exported)(crops), load_model(finetuned)(crops))


def test_fine_tuning_can_start_from_it(exported, demo, tmp_path):
    volume = demo / "volume" / "synthetic.h5"
    words = ["--init", exported, "--volume", f"{volume}:raw", "--labels", f"{volume}:labels"]
    words += ["--crop", "8,32,32", "--dry-run"]
    assert main("finetune", [str(word) for word in words]) == 0


def test_the_card_says_not_measured_where_nothing_was(exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name") and "not measured" in card
    assert "477,851" in card and "{" not in card.replace("{type", "")


def test_a_changed_weight_is_found(exported, finetuned, tmp_path):
    weights, description = read_weights(exported)
    weights["out.bias"] += 1e-3
    save_weights(tmp_path, weights, description)
    assert compare(finetuned, tmp_path) > 0


@pytest.mark.parametrize(
    "verb, metrics, told",
    [
        ("evaluate", {"segments": 5, "background_fraction": 0.1}, "segments, background_fraction "),
        ("evaluate", dict.fromkeys(["psnr_a", "psnr_b", "exponent_a", "exponent_b"], 1.0),
         "evaluate left psnr_a, psnr_b, exponent_a, ... there"),
        ("evaluate", {}, "evaluate left no numbers there"),
        ("segment", {"voi": 1.0}, "segment left voi there"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_evaluation_without_scores_of_a_segmentation_is_refused_before_anything_is_written(
    finetuned, tmp_path, capsys, verb, metrics, told, dry
):
    found = tmp_path / "found"
    found.mkdir()
    (found / "result.json").write_text(json.dumps({"verb": verb, "metrics": metrics}))
    out = tmp_path / "out"
    words = ["--run", str(finetuned), "--evaluation", str(found), "--out", str(out), *dry]
    assert main("export", words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line and "evaluate --segmentation ... --labels ..." in line
    assert not out.exists()


def test_scores_go_into_the_card(finetuned, tmp_path):
    scores = {"voi_split": 0.5, "voi_merge": 0.25, "voi": 0.75, "arand": 0.125, "segments": 3}
    result = {"verb": "evaluate", "metrics": scores, "labels": "cube.h5:labels"}
    (tmp_path / "result.json").write_text(json.dumps(result))
    words = ["--run", str(finetuned), "--evaluation", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main("export", words) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| VOI (bits) | 0.7500 |" in card and "cube.h5:labels" in card


def test_an_evaluation_that_has_not_finished_is_named(finetuned, tmp_path, capsys):
    words = ["--run", str(finetuned), "--evaluation", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main("export", words) == 4
    assert f"{tmp_path} is not a finished evaluation" in capsys.readouterr().err


def test_a_damaged_file_is_named(exported, tmp_path):
    data = (exported / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        load_model(tmp_path)
