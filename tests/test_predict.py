import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.cli import main
from tokenunify_scale.predict import blending_window, predict_array
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.hdf5 import read_hdf5

CPU = torch.device("cpu")


class Local(nn.Module):
    """Looks at one voxel and its neighbours, so that tiles agree away from their borders."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, crops):
        return torch.sigmoid(self.conv(crops))


def test_tiling_does_not_change_a_pointwise_prediction():
    raw = np.random.default_rng(0).integers(0, 255, (9, 40, 50), dtype=np.uint8)
    model = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Sigmoid())
    settings = {"overlap": (2, 4, 4), "batch": 2, "device": CPU}
    tiled = predict_array(model, raw, tile=(4, 16, 16), **settings)
    whole = predict_array(model, raw, tile=(9, 40, 50), **settings)
    assert tiled.shape == (3, 9, 40, 50) and tiled.dtype == np.float32
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_tile_borders_blend_where_the_network_looks_around():
    raw = np.random.default_rng(0).integers(0, 255, (8, 48, 48), dtype=np.uint8)
    torch.manual_seed(0)
    model, settings = Local(), {"batch": 3, "device": CPU}
    tiled = predict_array(model, raw, tile=(8, 24, 24), overlap=(0, 12, 12), **settings)
    whole = predict_array(model, raw, tile=(8, 48, 48), overlap=(0, 0, 0), **settings)
    # A voxel in the middle of a tile weighs far more than one at a tile's border.
    assert np.abs(tiled - whole).max() < 0.1 * np.abs(whole - 0.5).max() + 0.05
    np.testing.assert_allclose(tiled[:, 2:6, 5:7, 5:7], whole[:, 2:6, 5:7, 5:7], atol=1e-6)


def test_the_window_is_highest_in_the_middle_and_nowhere_zero():
    window = blending_window((4, 9, 9))
    assert window.shape == (4, 9, 9) and window.min() > 0
    assert window[:, 4, 4].min() == window.max(axis=(1, 2)).min()


def test_affinities_carry_their_convention(finetuned, demo, tmp_path):
    volume = f"{demo / 'volume' / 'synthetic.h5'}:raw"
    words = ["--model", finetuned, "--volume", volume, "--sections", "4:12", "--out", tmp_path]
    words += ["--tile", "8,32,32", "--overlap", "0,8,8"]
    assert main("predict", [str(word) for word in words]) == 0
    affinities, attributes = read_hdf5(tmp_path / "affinities.h5", "affinities")
    assert affinities.shape == (3, 8, 64, 64) and affinities.dtype == np.float32
    assert np.array_equal(attributes["offsets"], np.eye(3)) and attributes["axes"] == "czyx"
    assert list(attributes["offset"]) == [4, 0, 0] and list(attributes["voxel_size"]) == [35, 8, 8]
    assert read_result(tmp_path)["voxels"] == [8, 64, 64]


@pytest.mark.parametrize(
    "words, hint",
    [
        (["--overlap", "16,0,0"], "overlap (16, 0, 0)"),
        (["--sections", "4:99"], "99"),
    ],
)
def test_what_cannot_be_predicted_is_refused(words, hint, finetuned, demo, tmp_path, capsys):
    base = ["--model", finetuned, "--volume", f"{demo / 'volume' / 'synthetic.h5'}:raw"]
    code = main("predict", [str(w) for w in [*base, *words, "--out", tmp_path]])
    assert code in (2, 4) and hint in capsys.readouterr().err


def test_a_pretraining_run_predicts_no_affinities(pretrained, tmp_path, capsys):
    words = ["--model", str(pretrained), "--volume", "synthetic:shape=16x64x64"]
    assert main("predict", [*words, "--out", str(tmp_path)]) == 2
    assert "fine-tune it first" in capsys.readouterr().err
