import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.hub.source import Origin, open_source, tag_of_export
from tokenunify_scale.train.checkpoint import read_weights


def all_of(origin):
    with open_source(origin) as source:
        weights = {name: source.read(name) for name in source.like}
        for name, tensor in weights.items():
            like = source.like[name]
            assert (tensor.shape, tensor.dtype) == (like.shape, like.dtype)
        return weights, source.description


def newest(run):
    return Origin(run=str(run), tag=tag_of_export(run, "latest"))


def check_newest(run):
    """What the newest checkpoint holds is what the run ended with."""
    found, about = all_of(newest(run))
    weights, same = read_weights(run)
    assert about == same and found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor), name


def test_a_finished_run_is_read_as_it_is(finetuned):
    assert tag_of_export(finetuned, None) is None
    found, about = all_of(Origin(run=str(finetuned)))
    weights, same = read_weights(finetuned)
    assert about == same and all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("run", ["pretrained", "finetuned"])
def test_of_a_checkpoint_the_network_alone_is_read(run, request):
    check_newest(request.getfixturevalue(run))


def test_an_unfinished_run_gives_its_newest_checkpoint(pretrained, tmp_path):
    for name in ("config.yaml", "environment.json", "latest", "checkpoints"):
        (tmp_path / name).symlink_to(pretrained / name)
    tag = tag_of_export(tmp_path, None)
    assert tag == (pretrained / "latest").read_text().strip()
    found, _ = all_of(Origin(run=str(tmp_path), tag=tag))
    assert found.keys() == read_weights(pretrained)[0].keys()


def test_a_run_of_an_earlier_version_is_told_what_to_do(pretrained, tmp_path):
    for name in ("config.yaml", "latest", "checkpoints"):
        (tmp_path / name).symlink_to(pretrained / name)
    origin = newest(tmp_path)
    with pytest.raises(DataError, match="environment.json is missing"):
        all_of(origin)
    (tmp_path / "environment.json").write_text(json.dumps({"verb": "pretrain"}))
    with pytest.raises(DataError, match="start the run again, which goes on where it stands"):
        all_of(origin)


def test_a_folder_without_checkpoints_has_none_to_name(tmp_path):
    assert tag_of_export(tmp_path, None) is None
    with pytest.raises(DataError, match="no checkpoints in it"):
        tag_of_export(tmp_path, "latest")
    with pytest.raises(DataError, match="no checkpoint 'step-3'; there: none"):
        tag_of_export(tmp_path, "step-3")


def test_a_damaged_checkpoint_is_not_exported(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    tag = tag_of_export(tmp_path / "run", "latest")
    assert tag_of_export(tmp_path / "run", tag) == tag
    next((tmp_path / "run" / "checkpoints" / tag).glob("*.pt")).write_bytes(b"short")
    with pytest.raises(DataError, match=f"checkpoint {tag} is not whole: .*pt"):
        tag_of_export(tmp_path / "run", tag)


def test_fresh_weights_are_those_of_the_seed():
    model = {"name": "emmamba_atto"}
    one, _ = all_of(Origin(model=model, seed=1))
    again, _ = all_of(Origin(model=model, seed=1))
    other, about = all_of(Origin(model=model, seed=2))
    assert about.out_channels == 3 and about.objective == "none"
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


@pytest.mark.slow
def test_thin_matrices_are_added_to_the_wide_ones(pretrained, demo, tmp_path, tokenunify):
    volume = demo / "volume" / "synthetic.h5"
    done = tokenunify(
        "finetune", "--init", pretrained, "--volume", f"{volume}:raw",
        "--labels", f"{volume}:labels", "--crop", "8,32,32", "--out", tmp_path / "run",
        "--steps", 2, "--global-batch", 1, "--set", "lora.rank=2", "--set", "optim.warmup=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_newest(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("strategy, port", [("small", 29761), ("middle", 29762), ("huge_cpu", 0)])
def test_shards_of_two_ranks_are_put_together(demo, tmp_path, strategy, port):
    """Stage 2 and 3 on two ranks; stage 3 with weights kept in bf16 on one."""
    words = [
        "pretrain", "--size", "atto", "--strategy", strategy, "--shards", demo / "shards",
        "--steps", 2, "--global-batch", 2, "--out", tmp_path / "run", "--log-every", 1,
        "--set", "objective.patch=[4,8,8]", "--set", "optim.warmup=0",
    ]  # fmt: skip
    seats = [{}]
    if port:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        seats = [{**place, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tokenunify_scale", *map(str, words)],
            env={**os.environ, **seat}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for seat in seats
    ]  # fmt: skip
    try:
        told = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(rank.returncode for rank in ranks), told
    check_newest(tmp_path / "run")
