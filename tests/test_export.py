import json
import os
import subprocess
import sys

import pytest
import torch

from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.train.checkpoint import read_weights
from tokenunify_scale.train.sealed import SUMS, verify

UNCHECKED = ["--set", "check=false"]


def export(*words):
    return main("export", [str(word) for word in words])


def complaint(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


@pytest.fixture(scope="module")
def exported(finetuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert export("--run", finetuned, "--out", out) == 0
    return out


@pytest.fixture
def sharded(finetuned, tmp_path):
    """An export in several files, to be spoilt."""
    out = tmp_path / "sharded"
    assert export("--run", finetuned, "--out", out, "--set", "shard_GB=0.0005", *UNCHECKED) == 0
    return out


@pytest.fixture(scope="module")
def auto(tmp_path_factory):
    """transformers' loader, with a cache of its own."""
    transformers = pytest.importorskip("transformers")

    def load(folder, **words):
        return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, **words)

    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        yield load


def test_the_folder_has_what_the_hub_expects(exported):
    names = {path.name for path in exported.iterdir()}
    assert names >= {
        "config.json", "configuration_tokenunify.py", "modeling_tokenunify.py",
        "model.safetensors", "preprocessor_config.json", "README.md", SUMS,
    }  # fmt: skip
    config = json.loads((exported / "config.json").read_text())
    assert config["model"]["name"] == "emmamba_atto" and config["out_channels"] == 3
    assert config["output"]["offsets"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert config["auto_map"]["AutoModel"] == "modeling_tokenunify.TokenUnifyModel"
    assert config["margin"] == [0, 0, 0] and config["dtype"] == "float32"
    verify(exported)


def test_it_was_checked_in_fresh_processes_without_this_package(exported):
    metrics = json.loads((exported / "result.json").read_text())["metrics"]
    assert metrics["largest_difference"] <= 1e-5 and metrics["features_apart"] <= 1e-5
    assert metrics["maps"] == 5
    assert metrics["parameters"] == 477_851 and metrics["rounding"] == 0


def test_it_loads_back_identically(exported, finetuned):
    crops = torch.rand(1, 1, 8, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(exported)(crops), load_model(finetuned)(crops))


def test_transformers_loads_it_beside_this_package_and_saves_it_again(
    exported, finetuned, auto, tmp_path
):
    model, info = auto(str(exported), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    crops = torch.randint(0, 256, (1, 1, 16, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        found = model(crops)
        expected = load_model(finetuned)(crops / 255)
    assert (found.affinities - expected).abs().max() < 1e-5
    assert found[0] is found.prediction and len(found.hidden_states) == 4
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_tokenunify.py").is_file()
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "again")(crops / 255), expected)
        assert torch.equal(auto(str(tmp_path / "again"))(crops).prediction, found.prediction)


def test_a_pretrained_network_gives_features_and_no_affinities(pretrained, tmp_path, auto):
    assert export("--run", pretrained, "--out", tmp_path / "out", *UNCHECKED) == 0
    found = auto(str(tmp_path / "out"))(torch.rand(1, 1, 16, 32, 32))
    assert found.affinities is None and found.prediction.shape == (1, 1, 16, 32, 32)
    assert [tuple(each.shape[1:3]) for each in found.hidden_states] == [
        (4, 8), (8, 4), (16, 2), (32, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [torch.rand(1, 2, 8, 32, 32), torch.rand(8, 32, 32)])
def test_crops_of_another_shape_are_refused(exported, auto, wrong):
    with pytest.raises(ValueError, match=r"pixel_values must be \[B, 1, D, H, W\], got \["):
        auto(str(exported))(wrong)


def test_it_starts_fine_tuning_pretraining_and_prediction(exported, demo, tmp_path):
    volume = demo / "volume" / "synthetic.h5"
    words = ["--init", exported, "--volume", f"{volume}:raw", "--labels", f"{volume}:labels"]
    words += ["--crop", "8,32,32", "--dry-run"]
    assert main("finetune", [str(word) for word in words]) == 0
    words = ["--init", exported, "--size", "atto", "--shards", demo / "shards", "--dry-run"]
    words += ["--set", "objective.patch=[4,8,8]"]
    assert main("pretrain", [str(word) for word in words]) == 0
    words = ["--model", exported, "--volume", f"{volume}:raw", "--dry-run"]
    assert main("predict", [str(word) for word in words]) == 0


def test_an_export_can_be_exported(sharded, tmp_path, exported):
    assert export("--run", sharded, "--out", tmp_path / "again", *UNCHECKED) == 0
    one, about = read_weights(tmp_path / "again")
    other, same = read_weights(exported)
    assert about == same and all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(finetuned, tmp_path, auto, dtype):
    out = tmp_path / "half"
    assert export("--run", finetuned, "--out", out, "--dtype", dtype, *UNCHECKED) == 0
    model = auto(str(out))
    assert model.dtype == getattr(torch, dtype)
    whole, _ = read_weights(finetuned)
    for name, tensor in read_weights(out)[0].items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, whole[name].to(model.dtype).float())


def test_fresh_weights_of_a_size_are_exported(tmp_path, auto):
    out = tmp_path / "fresh"
    assert export("--size", "atto", "--seed", 3, "--out", out, *UNCHECKED) == 0
    assert sum(p.numel() for p in auto(str(out)).parameters()) == 477_851


def test_a_checkpoint_of_a_run_that_did_not_finish(pretrained, tmp_path, capsys):
    tags = sorted(path.name for path in (pretrained / "checkpoints").glob("step-*"))
    out = tmp_path / "out"
    words = ["--run", pretrained, "--out", out, *UNCHECKED]
    assert export(*words, "--checkpoint", tags[-1]) == 0
    one, about = read_weights(out)
    other, same = read_weights(pretrained)
    assert about == same and all(torch.equal(one[name], other[name]) for name in other)
    assert json.loads((out / "result.json").read_text())["checkpoint"] == tags[-1]
    assert export(*words, "--checkpoint", "step-7") == 4
    assert f"no checkpoint 'step-7'; there: {', '.join(tags)}" in complaint(capsys)


def spoil_byte(folder):
    with next(folder.glob("model-00002*.safetensors")).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    return "model-00002-of-00004.safetensors is not the file that was exported (sha256 differs"


def lose_shard(folder):
    next(folder.glob("model-00003*.safetensors")).unlink()
    return "model-00003-of-00004.safetensors is missing"


def other_size(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model"] |= {"name": "emmamba_femto", "features": [8, 16, 32, 64], "hidden": 128}
    path.write_text(json.dumps(config))
    return "emmamba_femto"


def cut_short(folder):
    path = next(folder.glob("model-00001*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1000])
    (folder / SUMS).unlink()
    return "damaged"


@pytest.mark.parametrize("spoil", [spoil_byte, lose_shard, other_size, cut_short])
def test_what_was_spoilt_is_told_in_one_line(sharded, spoil, auto, demo, tmp_path, capsys):
    capsys.readouterr()
    told = spoil(sharded)
    volume = demo / "volume" / "synthetic.h5"
    words = ["--init", sharded, "--volume", f"{volume}:raw", "--labels", f"{volume}:labels"]
    assert main("finetune", [*map(str, words), "--out", str(tmp_path / "run")]) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line and str(sharded) in line
    if spoil is cut_short:
        return  # safetensors' own error
    with pytest.raises(ValueError) as error:
        auto(str(sharded))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_compute_the_same_fails_and_is_kept(finetuned, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("tokenunify_scale.hub.probe.TOLERANCE", -1.0)
    assert export("--run", finetuned, "--out", out) == 4
    assert "differ on one input: predictions by" in complaint(capsys)
    assert (out / "model.safetensors").is_file() and not (out / "result.json").exists()


BARE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tokenunify_scale":
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(tuple(model(torch.rand(1, 1, 8, 32, 32)).affinities.shape))
"""


def test_it_loads_where_this_package_is_not(exported, tmp_path):
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-c", BARE, exported], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout == "(1, 3, 8, 32, 32)\n", done.stderr


def test_the_card_says_not_measured_where_nothing_was(exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\n") and "not measured" in card and "477,851" in card


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "name what is exported: --run FOLDER, or --size for fresh weights"),
        (["--run", "a", "--size", "atto"], "name what is exported"),
        (["--run", "a", "--set", "shard_GB=0"], "shard_GB must be > 0, got 0"),
        (["--run", "a", "--push", "name"], "push must be OWNER/NAME, got 'name'"),
    ],
)
def test_wrong_requests(words, told, capsys, tmp_path):
    assert export(*words, "--out", tmp_path / "out") == 2
    assert told in complaint(capsys) and not (tmp_path / "out").exists()


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
    assert export("--run", finetuned, "--evaluation", found, "--out", out, *dry) == 2
    line = complaint(capsys)
    assert told in line and "evaluate --segmentation ... --labels ..." in line
    assert not out.exists()


def test_scores_go_into_the_card(finetuned, tmp_path):
    scores = {"voi_split": 0.5, "voi_merge": 0.25, "voi": 0.75, "arand": 0.125, "segments": 3}
    result = {"verb": "evaluate", "metrics": scores, "labels": "cube.h5:labels"}
    (tmp_path / "result.json").write_text(json.dumps(result))
    out = tmp_path / "out"
    assert export("--run", finetuned, "--evaluation", tmp_path, "--out", out, *UNCHECKED) == 0
    assert "0.75" in (out / "README.md").read_text()


def test_an_evaluation_that_has_not_finished_is_named(finetuned, tmp_path, capsys):
    assert export("--run", finetuned, "--evaluation", tmp_path, "--out", tmp_path / "o") == 4
    assert f"{tmp_path} is not a finished evaluation" in complaint(capsys)


def test_a_folder_without_weights_is_named(tmp_path, capsys):
    assert export("--run", tmp_path / "none", "--out", tmp_path / "o", *UNCHECKED) == 4
    assert "no such folder" in complaint(capsys)
