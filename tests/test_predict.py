import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.cli import main
from tokenunify_scale.models.tiling import windows
from tokenunify_scale.predict import predict_array
from tokenunify_scale.train.runlog import read_result
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import read_hdf5

CPU = torch.device("cpu")


class Local(nn.Module):
    """Looks at ``reach`` voxels around each; pads with zeros, or predicts that much less."""

    def __init__(self, reach=1, padding=1):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, 3, 1 + 2 * reach, padding=padding)
        self.margin = (reach - padding,) * 3

    def legal(self, sides):
        return tuple(sides)

    def forward(self, crops):
        return torch.sigmoid(self.conv(crops))


def predicted(model, raw, *, tile, overlap, batch=2, inside=None):
    inside = inside or Box.of(raw.shape)
    look = windows(model, tile=tile, overlap=overlap, shape=inside.shape)
    return predict_array(model, raw, inside=inside, look=look, batch=batch, device=CPU)


def test_tiling_does_not_change_a_pointwise_prediction():
    raw = np.random.default_rng(0).integers(0, 255, (9, 40, 50), dtype=np.uint8)
    model = Local(reach=0, padding=0)
    tiled = predicted(model, raw, tile=(4, 16, 16), overlap=(2, 4, 4))
    whole = predicted(model, raw, tile=(9, 40, 50), overlap=(2, 4, 4))
    assert tiled.shape == (3, 9, 40, 50) and tiled.dtype == np.float32
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_tile_borders_blend_where_the_network_looks_around():
    raw = np.random.default_rng(0).integers(0, 255, (8, 48, 48), dtype=np.uint8)
    model = Local()
    tiled = predicted(model, raw, tile=(8, 24, 24), overlap=(0, 12, 12), batch=3)
    whole = predicted(model, raw, tile=(8, 48, 48), overlap=(0, 0, 0))
    # A voxel in the middle of a tile weighs far more than one at a tile's border.
    assert np.abs(tiled - whole).max() < 0.1 * np.abs(whole - 0.5).max() + 0.05
    np.testing.assert_allclose(tiled[:, 2:6, 5:7, 5:7], whole[:, 2:6, 5:7, 5:7], atol=1e-6)


def test_a_network_that_predicts_less_than_it_sees_sees_the_neighbours_of_its_tile():
    raw = np.random.default_rng(0).integers(0, 255, (8, 30, 34), dtype=np.uint8)
    model = Local(reach=2, padding=0)
    tiled = predicted(model, raw, tile=(9, 14, 13), overlap=None)
    mirrored = torch.from_numpy(np.pad(raw, 2, mode="reflect"))[None, None].float() / 255
    with torch.inference_mode():
        whole = model(mirrored)[0].numpy()
    assert tiled.shape == (3, 8, 30, 34)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_a_part_of_an_array_is_predicted_with_what_lies_around_it():
    raw = np.random.default_rng(0).integers(0, 255, (12, 30, 34), dtype=np.uint8)
    model, inside = Local(reach=2, padding=0), Box((4, 0, 5), (8, 30, 30))
    whole = predicted(model, raw, tile=(9, 14, 13), overlap=None)
    part = predicted(model, raw, tile=(9, 14, 13), overlap=None, inside=inside)
    np.testing.assert_allclose(part, whole[(slice(None), *inside.slices)], atol=1e-6)


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
