import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.config import build_named
from tokenunify_scale.data.crops import LabelledCrops
from tokenunify_scale.models.load import build_chosen, describe
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import (
    read_description,
    read_measured,
    read_weights,
    save_weights,
)
from tokenunify_scale.train.runlog import read_metrics, read_result
from tokenunify_scale.volumes.hdf5 import read_hdf5, write_hdf5
from tokenunify_scale.volumes.volume import open_volume


def words_of(demo, out, *more, labels=None):
    """A short run on the demo's volume, of which sections 0 to 8 are trained on."""
    volume = demo / "volume" / "synthetic.h5"
    words = ["--volume", f"{volume}:raw", "--labels", labels or f"{volume}:labels", "--out", out]
    words += ["--sections", "0:8", "--crop", "8,32,32", "--steps", 4, "--global-batch", 2]
    return [str(word) for word in [*words, "--log-every", 1, *more]]


def refused(capsys, words, code=2):
    """The one line by which a command line is refused."""
    assert main("finetune", [str(word) for word in words]) == code
    err = capsys.readouterr().err
    assert err.count("error: ") == 1, err
    return err.partition("error: ")[2]


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


def test_offsets_stand_in_the_header(finetuned, pretrained):
    assert read_description(finetuned).offsets == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert read_description(pretrained).offsets is None


def test_two_trainings_one_after_the_other_in_a_process_learn_the_same(demo, tmp_path, tokenunify):
    code = (
        "import sys; from tokenunify_scale.cli import main\n"
        "for out in sys.argv[1:3]: assert main('finetune', [*sys.argv[3:], '--out', out]) == 0"
    )
    outs = [str(tmp_path / name) for name in "ab"]
    words = words_of(demo, tmp_path, "--size", "atto", "--steps", 2)
    command = [sys.executable, "-c", code, *outs, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (read_result(out)["metrics"]["loss"] for out in outs)
    assert first == second


def test_several_volumes_train_together(demo, tmp_path):
    volume = demo / "volume" / "synthetic.h5"
    more = "synthetic:seed=9,shape=12x48x48"
    words = words_of(demo, tmp_path / "run", "--size", "atto")
    words += ["--volume", more, "--labels", f"{more},dataset=labels", "--steps", 2]
    assert main("finetune", [str(word) for word in words]) == 0
    result = read_result(tmp_path / "run")
    assert result["volume"] == [f"{volume}:raw", more] and len(result["labels"]) == 2


@pytest.mark.parametrize(
    "more, message",
    [
        (["--size", "atto", "--volume", "synthetic:seed=9"], "2 volumes and 1 of labels"),
        (["--load", "mamba", "encoders"], "load: no group 'encoders'.*encoder"),
        (["--train", "mamba", "heads"], "train: no group 'heads'.*head"),
        (["--size", "atto", "--set", "lora.rank=-1"], "rank must be >= 0"),
        (["--size", "atto", "--set", "lora.rank=4"], "init random: nothing to adapt"),
        (["--set", "model=superhuman", "--train", "mamba"], "no parameters in mamba"),
        (["--size", "atto", "--validate", "6:12"], "must not overlap: give --sections 0:6"),
        (["--size", "atto", "--validate", "12:12"], "not empty"),
        (["--size", "atto", "--sections", "5:5"], "not empty"),
        (["--size", "atto", "--set", "objective.offsets=[[0,0,1]]"], "first three must be"),
        (
            ["--size", "atto", "--set", "objective.offsets=long_range_isotropic"],
            r"9, 0, 0\) is l",
        ),
        (["--size", "atto", "--set", "objective.loss=hinge"], "objective.loss is 'hinge'"),
        (["--set", "model=pea", "--set", "objective.offsets=long_range"], "out_channels must be 3"),
        (["--set", "model=pea", "--set", "objective.loss=bce"], "objective.head=direct"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(more, message, demo, tmp_path, capsys):
    line = refused(capsys, [*words_of(demo, tmp_path / "run"), *more, "--dry-run"])
    assert re.search(message, line), line


def test_thin_matrices_need_layers_that_take_them(demo, tmp_path, capsys):
    folder = tmp_path / "superhuman"
    folder.mkdir()
    choice = build_named("superhuman", MODELS, where="a test")
    network = build_chosen(choice, in_channels=1, out_channels=3)
    about = describe(choice, in_channels=1, out_channels=3, objective="affinity")
    save_weights(folder, dict(network.state_dict()), about)
    words = words_of(demo, tmp_path / "run", "--init", folder, "--dry-run")
    assert "has no layers of" in refused(capsys, [*words, "--set", "lora.rank=4"])
    assert main("finetune", [*words, "--train", "head"]) == 0
    out = capsys.readouterr().out
    assert "87 of 1,477,659 parameters (0.01%)" in out


@pytest.mark.parametrize("where", ["nowhere", "of another kind", "another network"])
def test_an_init_that_cannot_be_is_one_line(where, demo, pretrained, tmp_path, capsys):
    folder, code, more = tmp_path / "init", 4, []
    if where == "of another kind":
        shutil.copytree(demo / "shards", folder)
    if where == "another network":
        folder, code, more = pretrained, 2, ["--set", "model=superhuman"]
    line = refused(capsys, words_of(demo, tmp_path / "run", "--init", folder, *more), code)
    expected = {"nowhere": "no such folder", "of another kind": "leaves none",
                "another network": "0 of the network's"}[where]  # fmt: skip
    assert expected in line and not (tmp_path / "run").exists()
    if where == "another network":
        assert re.search(r"out\.\w+ is \(\d.* there, \(\d.* here", line), line


@pytest.mark.parametrize("wrong", ["one voxel off", "float", "background", "negative"])
def test_labels_that_cannot_be_are_one_line_before_training(wrong, demo, tmp_path, capsys):
    labels, _ = read_hdf5(demo / "volume" / "synthetic.h5", "labels")
    labels = {
        "one voxel off": labels[:, :-1],
        "float": labels.astype(np.float32),
        "background": np.zeros_like(labels),
        "negative": labels.astype(np.int64) - labels.max() - 1,
    }[wrong]
    write_hdf5(tmp_path / "labels.h5", {"labels": labels}, attributes=None)
    words = words_of(demo, tmp_path / "run", "--size", "atto",
                     labels=f"{tmp_path / 'labels.h5'}:labels")  # fmt: skip
    expected = {"one voxel off": "(16, 63, 64)", "float": "not float32",
                "background": "all 0", "negative": "is negative"}[wrong]  # fmt: skip
    assert expected in refused(capsys, words, 4) and not (tmp_path / "run").exists()


def test_ids_above_what_a_float_tells_apart_train_as_small_ones_do(demo, tmp_path):
    volume = demo / "volume" / "synthetic.h5"
    labels, _ = read_hdf5(volume, "labels")
    large = np.where(labels, labels.astype(np.uint64) + np.uint64(2**63), np.uint64(0))
    assert np.unique(large.astype(np.float64)).size < np.unique(labels).size
    write_hdf5(tmp_path / "large.h5", {"labels": large}, attributes=None)
    batches = []
    for spec in (f"{volume}:labels", f"{tmp_path / 'large.h5'}:labels"):
        crops = LabelledCrops(
            open_volume(f"{volume}:raw"), open_volume(spec), crop=(8, 32, 32), seed=0
        )
        batches.append(crops.batch(0, 3))
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


@pytest.fixture(scope="module")
def validated(demo, pretrained, tokenunify):
    """A run with thin matrices that is validated at each step, and stopped on the way."""
    out = demo / "validated"
    more = ["--init", pretrained, "--validate", "8:16", "--set", "validation.every=1"]
    more += ["--set", "lora.rank=2", "--set", "optim.lr=1e-2", "--save-every", 3]
    words = words_of(demo, out, *more)
    done = tokenunify("finetune", *words)
    assert done.returncode == 0, done.stderr
    return out, words, done.stderr


def test_what_was_loaded_is_a_table_and_what_is_trained_is_said(validated):
    out, _, said = validated
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split() == [
        "mamba", "encoder", "decoder", "all",
    ])  # fmt: skip
    assert lines[at + 1].split() == ["loaded", "88", "56", "33", "177"]
    assert lines[at + 3].split()[:5] == ["refused", "0", "0", "2", "2"]
    assert "out.bias: (1,), (3,)" in lines[at + 3]
    result = read_result(out)
    share = result["trained_parameters"] / (477_851 + result["trained_parameters"] - 15)
    assert result["trained_share"] == pytest.approx(share) and share < 0.02
    assert f"trained: {result['trained_parameters']:,} of " in said


def test_the_lowest_variation_of_information_is_the_runs(validated):
    out, _, _ = validated
    lines = [line for line in read_metrics(out) if "held_out_voi" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    best = min(lines, key=lambda line: line["held_out_voi"])
    found = read_result(out)["best"]
    assert found["step"] == best["step"] and found["held_out_voi"] == best["held_out_voi"]
    assert {*found} == {"step"} | {name for name in best if name.startswith("held_out_")}
    assert found == read_measured(out) == read_measured(out / "best")
    own, kept = read_weights(out)[0], read_weights(out / "best")[0]
    assert all(torch.equal(own[name], kept[name]) for name in own)


def test_weights_are_written_as_a_plain_network_has_them(validated, pretrained):
    out, _, _ = validated
    before, after = read_weights(pretrained)[0], read_weights(out)[0]
    assert before.keys() == after.keys() == load_model(out / "best").state_dict().keys()
    moved = {n for n in before if before[n].shape != after[n].shape
             or not torch.equal(before[n], after[n])}  # fmt: skip
    kinds = {name.partition("mamba.")[2] or name for name in moved}
    assert kinds == {
        "in_proj.weight", "out_proj.weight", "x_proj", "dt_proj", "out.weight", "out.bias"
    }  # fmt: skip


@pytest.mark.slow
def test_two_ranks_in_parts_that_go_on_end_where_one_rank_does(validated, tmp_path):
    out, words, _ = validated
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    shutil.rmtree(moved / "checkpoints" / "step-00000004")
    (moved / "latest").write_text("step-00000003\n")
    (moved / "result.json").unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tokenunify_scale", "finetune", *words, "--zero", "3"]
    ranks = [
        subprocess.Popen(
            [*command, "--out", str(moved)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    assert "stage 0 -> 3" in errors[0]
    one, two = read_result(out), read_result(moved)
    assert two["best"]["held_out_loss"] == pytest.approx(one["best"]["held_out_loss"], rel=1e-3)
    assert two["trained_parameters"] == one["trained_parameters"]
    mine, theirs = read_weights(out)[0], read_weights(moved)[0]
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-3) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
def test_both_kinds_of_data_train_with_their_recipe(kind, tmp_path, tokenunify):
    height = {"isotropic": "8x8x8", "anisotropic": "40x8x8"}[kind]
    done = tokenunify(
        "prepare", "--volumes", f"synthetic:seed=3,shape=20x96x96,voxel_size={height}",
        "--write", "hdf5", "--out", tmp_path / "volume",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    volume = tmp_path / "volume" / "synthetic.h5"
    done = tokenunify(
        "finetune", "--recipe", f"finetune_{kind}", "--size", "atto", "--volume", f"{volume}:raw",
        "--labels", f"{volume}:labels", "--sections", "0:12", "--validate", "12:20",
        "--crop", "8,48,48", "--steps", 12, "--global-batch", 2, "--out", tmp_path / "run",
        "--log-every", 3, "--set", "optim.lr=1e-2", "--set", "objective.loss=dice_bce",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0] and read_result(tmp_path / "run")["best"]["held_out_voi"] > 0
