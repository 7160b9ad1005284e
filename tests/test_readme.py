"""The README's commands are ones that the parser takes and the verbs can do."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tokenunify_scale import open_volume
from tokenunify_scale.cli import main
from tokenunify_scale.models.official import to_official
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.volumes.hdf5 import write_hdf5

ROOT = Path(__file__).resolve().parents[1]
FENCES = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
LINES = [line for fence in FENCES for line in fence.splitlines() if line.strip()]
COMMANDS = [line for line in LINES if re.match(r"tokenunify |(deepspeed|mpirun) .*scripts/", line)]


def words_of(line):
    """The words after the program's name, whoever launches it."""
    words = shlex.split(line, comments=True)
    if words[0] == "tokenunify":
        return words[1:]
    script = next(i for i, word in enumerate(words) if word.startswith("scripts/"))
    return [Path(words[script]).stem, *words[script + 1 :]]


@pytest.fixture(scope="module")
def desk(demo, pretrained, finetuned, tokenunify, tmp_path_factory):
    """A folder with everything that the README's commands name."""
    folder = tmp_path_factory.mktemp("desk")
    raw = open_volume("synthetic:seed=9,shape=250x32x32").read()
    labels = open_volume("synthetic:seed=9,shape=250x32x32,dataset=labels").read()
    write_hdf5(folder / "cube.h5", {"raw": raw, "labels": labels}, attributes=None)
    tifffile.imwrite(folder / "stack.tif", open_volume("synthetic:shape=20x170x170").read())
    shutil.copytree(demo / "shards", folder / "shards")
    (folder / "runs").mkdir()
    (folder / "photos").mkdir()
    Image.fromarray(np.zeros((170, 170, 3), np.uint8)).save(folder / "photos" / "1.png")
    for name in ("pretrained", "mae"):
        shutil.copytree(pretrained, folder / "runs" / name)
    shutil.copytree(finetuned, folder / "runs" / "tuned")
    shutil.copytree(finetuned, folder / "quickstart" / "model")
    weights, _ = read_weights(finetuned)
    torch.save({"model": to_official(weights)}, folder / "checkpoint.pth")
    (folder / "hosts").write_text("localhost slots=2\n")
    (folder / "neurons").mkdir()
    for words in (
        ["predict", "--model", "runs/tuned", "--volume", "cube.h5:raw", "--sections", "150:250",
         "--tile", "16,32,32", "--overlap", "0,0,0", "--out", "runs/affinities"],
        ["segment", "--affinities", "runs/affinities", "--out", "runs/neurons"],
        ["segment", "--model", "runs/tuned", "--volume", "stack.tif", "--out", "neurons"],
        ["evaluate", "--segmentation", "runs/neurons", "--labels", "cube.h5:labels",
         "--out", "runs/scores"],
    ):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(words=words) == 0, words
    return folder


def test_the_two_commands_come_first():
    assert LINES[0].startswith("bash scripts/quickstart.sh")
    assert LINES[1].startswith("bash scripts/test.sh")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_can_be_done(line, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    words = words_of(line)
    if words[:2] == ["scaling", "power"]:
        monkeypatch.setattr("tokenunify_scale.scaling.laws.power.SIMULATIONS", 5)
        assert main(words=words) == 0
        return
    if words[0] == "scaling" and words[1] in ("fit", "verdict"):
        (desk / "study").mkdir(exist_ok=True)
        (desk / "study" / "table.csv").write_text("init,parameters,voi\na,1e6,2\na,2e6,1.5\n")
        assert main(words=words) == 0
        return
    # The shards and the cube here are small: what does not fit them is said by the flags.
    small = {
        "prepare": [] if "--verify" in words else ["--crops", "2"],
        "pretrain": ["--set", "objective.patch=[4,8,8]"],
        "finetune": ["--crop", "31,241,241" if "mala" in words else "8,16,16"],
    }.get(words[0], [])
    if "--dataset" in words:  # it is far away
        small += ["--source", "stack.tif"]
    end = words.index("--") if "--" in words else len(words)  # behind it: another command's words
    asked = [*words[:end], *small, "--dry-run", *words[end:]]
    assert main(words=asked) == 0, capsys.readouterr().err
