import pytest
import torch

from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.hdf5 import write_hdf5


def test_all_but_the_head_comes_from_pretraining(finetuned):
    result = read_result(finetuned)
    assert result["init"] == "tokenunify" and result["objective"] == "affinity"
    assert result["loaded"] == 177 and len(result["refused"]) == 2
    assert all(name.startswith("out.") for name in result["refused"])


def test_three_channels_come_out(finetuned):
    assert load_model(finetuned)(torch.rand(1, 1, 8, 32, 32)).shape == (1, 3, 8, 32, 32)


def test_weights_of_another_size_are_refused_by_name(finetuned, demo, tmp_path, capsys):
    volume = demo / "volume" / "synthetic.h5"
    words = ["--init", finetuned, "--size", "femto", "--volume", f"{volume}:raw"]
    words += ["--labels", f"{volume}:labels", "--crop", "8,32,32", "--steps", 1]
    words += ["--out", tmp_path / "run"]
    code = main("finetune", [str(word) for word in words])
    err = capsys.readouterr().err
    assert code == 2 and err.count("error: ") == 1 and "another architecture or size" in err


@pytest.mark.parametrize("mistake", ["shape", "crop", "no size"])
def test_data_that_does_not_fit_is_refused_before_training(mistake, demo, tmp_path, capsys):
    volume = demo / "volume" / "synthetic.h5"
    labels, crop, size = f"{volume}:labels", "8,32,32", ["--size", "atto"]
    if mistake == "shape":
        zeros = torch.zeros(8, 64, 64, dtype=torch.int32).numpy()
        write_hdf5(tmp_path / "short.h5", {"labels": zeros}, attributes=None)
        labels = f"{tmp_path / 'short.h5'}:labels"
    words = ["--volume", f"{volume}:raw", "--labels", labels, "--out", str(tmp_path / "run")]
    if mistake == "crop":
        crop = "8,128,128"
    if mistake == "no size":
        size = []
    code = main("finetune", [*words, *size, "--crop", crop])
    err = capsys.readouterr().err
    assert code == (2 if mistake == "no size" else 4) and err.count("error: ") == 1
    expected = {"shape": "(8, 64, 64)", "crop": "(8, 128, 128)", "no size": "--size"}[mistake]
    assert expected in err and not (tmp_path / "run").exists()


def test_training_moves_the_weights(finetuned, pretrained):
    before, after = read_weights(pretrained)[0], read_weights(finetuned)[0]
    assert any(not torch.equal(before[name], after[name]) for name in before if "out." not in name)


def test_an_objective_without_labels_is_sent_to_pretraining(demo, capsys):
    volume = demo / "volume" / "synthetic.h5"
    words = ["--size", "atto", "--volume", f"{volume}:raw", "--labels", f"{volume}:labels"]
    assert main("finetune", [*words, "--objective", "mae", "--dry-run"]) == 2
    assert "'mae' needs no labels: use pretrain" in capsys.readouterr().err
