"""Every family of networks learns one small labelled crop by heart, by finetune, and predicts it.

Where a network of the paper is too slow for a test, a narrower one of its class stands for it;
docs/networks.md has the same of the whole ones.
"""

import h5py
import pytest
import torch

from tokenunify_scale.cli import main
from tokenunify_scale.data.affinities import affinities_from_labels, widen_borders
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.train.runlog import read_metrics, read_result
from tokenunify_scale.volumes.hdf5 import read_hdf5

STILL = ["augment.p=0"]
SMALL = (8, 48, 48)
# Model, crop, steps, learning rate, options of the model.
FAMILIES = {
    "emmamba": ("emmamba_atto", SMALL, 100, 1e-2, []),
    "emmamba, official": ("emmamba_atto", (16, 16, 80), 120, 2e-2, ["preset=official"]),
    "emmamba, as the release's autoregressive one": (
        "emmamba_atto", SMALL, 150, 1e-2, ["depths=[3,3,3,3]", "skip_kernel=3"],
    ),
    "superhuman": ("superhuman", SMALL, 60, 1e-2, []),
    "pea": ("pea", SMALL, 80, 1e-2, []),
    "mala": ("mala", (30, 241, 241), 80, 3e-3, ["widths=[8,16,32,64]"]),
    "unetr": ("unetr", SMALL, 100, 5e-3, ["hidden=192", "layers=4", "mlp=512"]),
    "unetr, ladder": (
        "unetr_100m", SMALL, 60, 2e-3,
        ["hidden=192", "heads=3", "layers=4", "mlp=768", "features=32"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tokenunify):
    """Synthetic EM of 16x80x80, and a part of it of each size that is asked for."""
    folder = tmp_path_factory.mktemp("families")
    volume = "synthetic:seed=5,shape=16x80x80"
    done = tokenunify("prepare", "--volumes", volume, "--out", folder, "--write", "hdf5")
    assert done.returncode == 0, done.stderr

    def cut(sides):
        path = folder / f"{'x'.join(map(str, sides))}.h5"
        with h5py.File(folder / "synthetic.h5") as whole, h5py.File(path, "w") as part:
            for name in ("raw", "labels"):
                part[name] = whole[name][: sides[0], : sides[1], : sides[2]]
        return path

    return cut


@pytest.mark.parametrize("family", FAMILIES)
def test_one_crop_is_learned_by_heart(family, labelled, tmp_path, tokenunify):
    name, crop, steps, rate, options = FAMILIES[family]
    # MALA sees 14, 106, 106 voxels more on either side: here the mirror image of what it predicts.
    path = labelled((2, 29, 29) if name == "mala" else crop)
    settings = [*STILL, f"optim.lr={rate}", *(f"model.{option}" for option in options)]
    done = tokenunify(
        "finetune", "--model", name, "--volume", f"{path}:raw", "--labels", f"{path}:labels",
        "--crop", ",".join(map(str, crop)), "--steps", steps, "--global-batch", 1,
        "--log-every", 1, "--out", tmp_path / "run",
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [record["loss"] for record in read_metrics(tmp_path / "run")]
    assert losses[-1] < losses[0] / 10, (losses[0], losses[-1])
    assert read_result(tmp_path / "run")["model"]["name"] == name

    done = tokenunify(
        "predict", "--model", tmp_path / "run", "--volume", f"{path}:raw", "--tile",
        ",".join(map(str, crop)), "--out", tmp_path / "affinities",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predicted, _ = read_hdf5(tmp_path / "affinities" / "affinities.h5", "affinities")
    with h5py.File(path) as file:
        labels = torch.from_numpy(file["labels"][:].astype("int64"))
    truth, edges = affinities_from_labels(widen_borders(labels, voxels=1))
    right = ((torch.from_numpy(predicted) > 0.5) == (truth > 0.5))[edges > 0]
    assert predicted.shape == truth.shape and right.float().mean() > 0.9


def test_running_statistics_of_a_batch_norm_go_on_from_a_checkpoint(labelled, tmp_path, tokenunify):
    path, run = labelled(SMALL), tmp_path / "run"
    words = ["--model", "superhuman", "--volume", f"{path}:raw", "--labels", f"{path}:labels"]
    words += ["--crop", "8,48,48", "--steps", 4, "--save-every", 2, "--global-batch", 1]
    done = tokenunify("finetune", *words, "--out", run)
    assert done.returncode == 0, done.stderr
    whole, _ = read_weights(run)
    assert whole["trunk.encoder.0.norm1.num_batches_tracked"] == 4
    assert read_result(run)["model"]["parameters"] == 1_477_659
    (run / "latest").write_text("step-00000002\n")
    for name in ("model.safetensors", "result.json"):
        (run / name).unlink()
    done = tokenunify("finetune", *words, "--out", run)
    assert done.returncode == 0, done.stderr
    again, _ = read_weights(run)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_pea_starts_from_a_pretrained_superhuman(demo, labelled, tmp_path, tokenunify):
    done = tokenunify(
        "pretrain", "--model", "superhuman", "--shards", demo / "shards", "--steps", 2,
        "--global-batch", 2, "--set", "objective.patch=[4,8,8]", "--out", tmp_path / "pretrained",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = labelled(SMALL)
    words = ["--init", tmp_path / "pretrained", "--model", "pea", "--volume", f"{path}:raw"]
    words += ["--labels", f"{path}:labels", "--crop", "8,48,48", "--steps", 1, "--global-batch", 1]
    done = tokenunify("finetune", *words, "--out", tmp_path / "tuned")
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "tuned")
    assert result["init"] == "tokenunify" and result["loaded"] > 100
    assert [name.partition(":")[0] for name in result["refused"]] == ["out.bias", "out.weight"]
    assert {name.partition(".")[0] for name in result["new"]} == {"deep"}


@pytest.mark.parametrize(
    "name, reason",
    [
        ("mala", "predicts (14, 106, 106) voxels less than it sees on either side"),
        ("pea", "pretrain superhuman and start from its weights"),
    ],
)
def test_what_has_no_image_to_put_out_is_not_pretrained(name, reason, demo, capsys):
    assert main("pretrain", ["--model", name, "--shards", str(demo / "shards"), "--dry-run"]) == 2
    assert reason in capsys.readouterr().err


def test_a_crop_that_a_network_cannot_take_is_refused_before_training(labelled, tmp_path, capsys):
    path = labelled(SMALL)
    words = ["--model", "mala", "--volume", f"{path}:raw", "--labels", f"{path}:labels"]
    words += ["--crop", "30,215,214", "--out", str(tmp_path / "run")]
    assert main("finetune", words) == 2
    assert "(30, 241, 214) with an output of (2, 29, 2)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
