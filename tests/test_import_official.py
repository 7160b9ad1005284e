import argparse
import io
import json
import os
import pickle
import zipfile

import pytest
import torch

from tests.models.released import network
from tokenunify_scale import load_model
from tokenunify_scale.cli import main
from tokenunify_scale.import_official import load, read
from tokenunify_scale.models.official import to_official
from tokenunify_scale.train.checkpoint import read_description, read_weights
from tokenunify_scale.train.runlog import RunFolder, read_result
from tokenunify_scale.train.sealed import file_sha256
from tokenunify_scale.volumes.hdf5 import read_hdf5

SIDES = (16, 16, 80)  # the smallest that five chunks divide at every stage
ARGS = argparse.Namespace(lr=1e-4, model="emmamba", amp=True, crop=[16, 160, 160], init=None)


class Malicious:
    """Unpickled without care, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def save(path, weights, *, old=False, **more):
    """A checkpoint as the release has them."""
    contents = {"model": weights, "epoch": 7, "scaler": {"scale": 1.0}, "args": ARGS}
    contents["optimizer"] = {"state": {0: {"exp_avg": torch.ones(100)}}, "param_groups": []}
    torch.save({**contents, **more}, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.fixture(scope="module")
def released():
    """A fine-tuned network of the release."""
    return network()


@pytest.fixture(scope="module")
def checkpoint(released, tmp_path_factory):
    return save(tmp_path_factory.mktemp("released") / "checkpoint-7.pth", released.state_dict())


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    """The run folder of ``checkpoint``."""
    out = tmp_path_factory.mktemp("imported")
    assert main("import-official", [str(checkpoint), "--out", str(out)]) == 0
    return out


@pytest.fixture
def refused(tmp_path, capsys):
    """Import a file that is not to be taken; the exit code and what is said."""

    def call(path):
        capsys.readouterr()
        code = main("import-official", [str(path), "--out", str(tmp_path / "out")])
        captured = capsys.readouterr()
        assert not captured.out and not (tmp_path / "out").exists()
        assert captured.err.count("\n") == 1 and captured.err.startswith(f"error: {path}")
        return code, captured.err.removeprefix(f"error: {path}").strip(": \n")

    return call


@torch.inference_mode()
def test_the_run_computes_what_the_released_network_does(imported, released):
    crop = torch.rand(1, 1, *SIDES, generator=torch.Generator().manual_seed(1))
    ours, theirs = load_model(imported).double()(crop.double()), network().double()(crop.double())
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)
    # In float32 both are off by rounding, which norms over five voxels amplify.
    torch.testing.assert_close(load_model(imported)(crop), released(crop), atol=5e-5, rtol=0)


def test_the_run_says_what_it_is_and_where_it_is_from(imported, checkpoint):
    result = read_result(imported)
    assert result["verb"] == "import_official" and result["objective"] == "affinity"
    assert result["model"] == {"name": "emmamba_atto", "parameters": 477_851}
    assert result["file"] == str(checkpoint) and result["sha256"] == file_sha256(checkpoint)
    assert (result["depth"], result["skip_kernel"], result["epoch"]) == (2, 5, 7)
    assert result["args"] == {"lr": 1e-4, "model": "emmamba", "amp": True}
    assert result["dropped"] == {} and len(read_weights(imported)[0]) == 179
    assert read_description(imported).model["preset"] == "official"


@pytest.mark.parametrize("old", [False, True])
@torch.inference_mode()
def test_weights_handed_back_and_imported_again_keep_every_bit(imported, tmp_path, old):
    weights = read_weights(imported)[0]
    path = save(tmp_path / "back.pth", to_official(weights), old=old)
    assert main("import-official", [str(path), "--out", str(tmp_path / "out")]) == 0
    again = read_weights(tmp_path / "out")[0]
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    crop = torch.rand(1, 1, *SIDES)
    assert torch.equal(load_model(tmp_path / "out")(crop), load_model(imported)(crop))


@torch.inference_mode()
def test_the_autoregressive_release_with_its_head_and_prefixes_is_taken(tmp_path):
    theirs = network(depth=3, kernel=3, outputs=1)
    weights = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    weights |= {"module.total_ops": torch.zeros(1, dtype=torch.float64)}
    weights |= {f"module.preciever.{i}.weight": torch.zeros(3) for i in range(4)}
    path = save(tmp_path / "checkpoint.pth", weights)
    assert main("import-official", [str(path), "--out", str(tmp_path / "run")]) == 0
    result = read_result(tmp_path / "run")
    assert (result["objective"], result["depth"], result["skip_kernel"]) == ("official", 3, 3)
    assert result["dropped"] == {"total_ops": 1, "preciever": 4}
    crop = torch.rand(1, 1, *SIDES).double()
    ours = load_model(tmp_path / "run").double()(crop)
    torch.testing.assert_close(ours, theirs.double()(crop), atol=1e-7, rtol=0)


@pytest.mark.parametrize("key", ["state_dict", None])
def test_weights_are_found_under_another_name_or_alone(released, imported, tmp_path, key):
    weights = released.state_dict()
    torch.save({key: weights} if key else weights, tmp_path / "weights.pth")
    contents = read(tmp_path / "weights.pth")
    assert len(contents.weights) == 291 and "epoch" not in contents.facts


def test_a_dry_run_says_what_would_be_imported_and_writes_nothing(checkpoint, tmp_path, capsys):
    words = [str(checkpoint), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main("import-official", words) == 0
    out = capsys.readouterr().out
    for line in ("model: emmamba_atto", "depth: 2", "tensors: 291", "477,851", "out_channels: 3"):
        assert line in out
    assert not (tmp_path / "out").exists()


def test_the_optimizer_is_not_read(released, tmp_path):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    size = 1 << 27
    optimizer = {"exp_avg": torch.zeros(size, dtype=torch.uint8)}
    path = save(tmp_path / "large.pth", released.state_dict(), optimizer=optimizer)
    del optimizer
    assert path.stat().st_size > size
    before = resident()
    assert len(read(path).weights) == 291
    assert resident() - before < size / 4


def test_what_would_run_is_named_and_does_not_run(released, refused, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    for old in (False, True):
        save(path, released.state_dict(), old=old, extra=Malicious(marker))
        said = "would run posix.system: refused, nothing was executed"
        assert refused(path) == (4, said) and not marker.exists()
    for protocol in (0, 2, 4, 5):
        path.write_bytes(pickle.dumps(Malicious(marker), protocol=protocol))
        assert refused(path)[0] == 4 and not marker.exists()
    os.system(f"touch {marker}")  # what it would have done
    assert marker.exists()


@pytest.mark.parametrize(
    "value, name",
    [
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (io.StringIO, "_io.StringIO"),
        (eval, "eval"),
        (zipfile.ZipFile, "zipfile.ZipFile"),
    ],
    ids=str,
)
def test_any_name_outside_the_list_is_refused(value, name, refused, tmp_path):
    path = save(tmp_path / "other.pth", {}, extra=value)
    assert refused(path) == (4, f"would run {name}: refused, nothing was executed")


def test_the_list_is_as_it_was_afterwards(checkpoint):
    before = set(torch.serialization.get_safe_globals())
    load(checkpoint)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 3, 4, 10, 100, 5000, 0.5, 0.99, -200, -30, -22, -1])
def test_a_file_that_is_cut_short_is_one_line(keep, old, released, refused, tmp_path):
    path = save(tmp_path / "cut.pth", released.state_dict(), old=old)
    content = path.read_bytes()
    end = int(len(content) * keep) if isinstance(keep, float) else keep
    path.write_bytes(content[:end])
    code, line = refused(path)
    assert code == 4 and ("cut short" in line or line == "is empty")
    assert "weights_only" not in line, "torch's advice is to trust the file"


@pytest.mark.parametrize("old", [False, True])
def test_a_file_with_holes_is_one_line_or_is_taken(old, released, refused, tmp_path):
    """No place of the program part may end in a traceback."""
    path = save(tmp_path / "holes.pth", released.state_dict(), old=old)
    content = path.read_bytes()
    start = content.index(b"model")
    for place in range(start, start + 3000, 151):
        path.write_bytes(content[:place] + b"\x80\xff\x00" + content[place + 3 :])
        assert refused(path)[0] == 4


@pytest.mark.parametrize(
    "text", [b"<html>not found</html>", b"version https://git-lfs", b"PK\x03\x04"]
)
def test_what_is_no_checkpoint_is_one_line(text, refused, tmp_path):
    (tmp_path / "page.pth").write_bytes(text * 3)
    assert refused(tmp_path / "page.pth")[0] == 4


def test_other_archives_are_one_line(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"script/{name}", "3")  # what TorchScript writes
    for name in ("a.zip", "script.pt"):
        code, line = refused(tmp_path / name)
        assert code == 4 and line.startswith("damaged, cut short or not a PyTorch checkpoint")


def test_a_missing_file_and_a_folder_are_one_line(refused, tmp_path):
    assert refused(tmp_path / "none.pth") == (4, "no such file")
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder") == (4, "a folder, not a file")


@pytest.mark.parametrize(
    "contents, said",
    [
        ({"epoch": 3, "optimizer": {}}, "no 'model' in it and no tensors; found 'epoch'"),
        ({"model": 3}, "model is of type int, expected named tensors"),
        ({"model": {"a": 3}}, "'a' is of type int, expected a tensor"),
        ([torch.zeros(3)], "it is of type list, expected named tensors"),
        ({}, "no 'model' in it and no tensors; found nothing"),
        ({"model": {}}, "vit.downsample_layers.0.0.weight is missing"),
    ],
    ids=str,
)
def test_a_file_without_weights_is_one_line(contents, said, refused, tmp_path):
    torch.save(contents, tmp_path / "other.pth")
    code, line = refused(tmp_path / "other.pth")
    assert code == 4 and line.startswith(said)


@pytest.mark.parametrize(
    "change, code, said",
    [
        (
            {"vit.stages.3.1.norm.weight": None},
            4,
            "vit.stages.3.1.norm.weight is missing, expected",
        ),
        ({"out.conv.conv.bias": torch.zeros(4)}, 4, "out.conv.conv.bias has shape (4,), expected"),
        ({"fc.weight": torch.zeros(4)}, 4, "1 tensors of another network: 'fc.weight'"),
        ({"vit.stages.0.0.norm.bias": torch.zeros(4).int()}, 4, "'vit.stages.0.0.norm.bias' is no"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_one_line(change, code, said, released, refused, tmp_path):
    weights = {**released.state_dict(), **change}
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    found, line = refused(save(tmp_path / "changed.pth", weights))
    assert found == code and line.startswith(said)


def test_another_depth_or_width_is_one_line(refused, tmp_path):
    weights = network(depth=3).state_dict()
    weights = {k: v for k, v in weights.items() if not k.startswith("vit.stages.1.2.")}
    code, line = refused(save(tmp_path / "deep.pth", weights))
    assert code == 4 and line.startswith("vit.stages.1.2.norm.weight is missing, expected shape (8")
    other = network((4, 8, 16, 24), 64).state_dict()
    code, line = refused(save(tmp_path / "wide.pth", other))
    assert code == 2 and line.startswith("no size has features (4, 8, 16, 24) and hidden 64: atto")
    two = network(inputs=2).state_dict()
    code, line = refused(save(tmp_path / "two.pth", two))
    assert code == 2 and line == "a network of 2 input channels, not 1"


def test_a_few_bytes_that_pose_as_a_large_tensor_are_refused(released, refused, tmp_path):
    wide = torch.zeros(1).expand(10**12, 4, 1, 1, 1)
    weights = {**released.state_dict(), "out.conv.conv.weight": wide}
    code, line = refused(save(tmp_path / "bomb.pth", weights))
    assert (code, line) == (4, "its tensors are larger than the file")


def test_another_run_is_not_written_over(checkpoint, tmp_path, capsys):
    RunFolder.create(tmp_path, verb="pretrain", config={})
    assert main("import-official", [str(checkpoint), "--out", str(tmp_path)]) == 2
    assert "is a run of pretrain" in capsys.readouterr().err


def test_fine_tuning_starts_from_all_but_the_head_of_a_pretraining(tokenunify, tmp_path):
    path = save(tmp_path / "checkpoint.pth", network(outputs=1).state_dict())
    assert main("import-official", [str(path), "--out", str(tmp_path / "run")]) == 0
    spec = "synthetic:seed=5,shape=16x32x96"
    volume = tmp_path / "volume" / "synthetic.h5"
    words = ["--volumes", spec, "--out", str(volume.parent), "--write", "hdf5"]
    assert main("prepare", words) == 0
    done = tokenunify(
        "finetune", "--init", tmp_path / "run", "--volume", f"{volume}:raw",
        "--labels", f"{volume}:labels", "--crop", "16,16,80", "--steps", 2,
        "--global-batch", 1, "--out", tmp_path / "tuned",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "tuned")
    assert result["init"] == "official" and result["loaded"] == 177
    assert [line.partition(":")[0] for line in result["refused"]] == ["out.bias", "out.weight"]
    assert load_model(tmp_path / "tuned").config.preset == "official"


def test_a_fine_tuned_release_predicts_affinities(imported, tmp_path):
    spec = "synthetic:seed=5,shape=16x32x80"
    words = ["--model", str(imported), "--volume", spec, "--tile", "16,16,80"]
    assert main("predict", [*words, "--overlap", "0,4,0", "--out", str(tmp_path)]) == 0
    affinities, attributes = read_hdf5(tmp_path / "affinities.h5", "affinities")
    assert affinities.shape == (3, 16, 32, 80) and attributes["axes"] == "czyx"


def test_a_pretrained_release_predicts_none(tmp_path, capsys):
    path = save(tmp_path / "checkpoint.pth", network(outputs=1).state_dict())
    assert main("import-official", [str(path), "--out", str(tmp_path / "run")]) == 0
    words = ["--model", str(tmp_path / "run"), "--volume", "synthetic:shape=16x32x80"]
    assert main("predict", [*words, "--out", str(tmp_path / "out")]) == 2
    assert "was trained by 'official' and predicts no affinities" in capsys.readouterr().err


@torch.inference_mode()
def test_an_export_is_the_same_network(imported, checkpoint, tmp_path):
    assert main("export", ["--run", str(imported), "--out", str(tmp_path / "hub")]) == 0
    crop = torch.rand(1, 1, *SIDES)
    assert torch.equal(load_model(tmp_path / "hub")(crop), load_model(imported)(crop))
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["model"]["preset"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "Trained elsewhere; read from" in card and read_result(imported)["sha256"] in card
    assert "Not known: the weights come from" in card
