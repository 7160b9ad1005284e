import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.inference.predictor import Predictor, predict_array
from tokenunify_scale.models.tiling import windows
from tokenunify_scale.volumes.geometry import Box

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


class Global(Local):
    """What it predicts depends on all that it sees, as instance norm makes it."""

    def forward(self, crops):
        return super().forward(crops - crops.mean(dim=(2, 3, 4), keepdim=True))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def predicted(model, raw, *, tile, overlap, batch=2, inside=None, context=(0, 0, 0), tta="none"):
    look = windows(model, tile=tile, overlap=overlap, shape=raw.shape, context=context)
    return predict_array(
        model, raw, look=look, batch=batch, device=CPU, inside=inside, tta=tta, offsets=NEAREST
    )


def test_tiling_does_not_change_a_pointwise_prediction():
    raw, model = noise(9, 40, 50), Local(reach=0, padding=0)
    tiled = predicted(model, raw, tile=(4, 16, 16), overlap=(2, 4, 4))
    whole = predicted(model, raw, tile=(9, 40, 50), overlap=(2, 4, 4))
    assert tiled.shape == (3, 9, 40, 50) and tiled.dtype == np.float32
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_tile_borders_blend_where_the_network_looks_around():
    raw, model = noise(8, 48, 48), Local()
    tiled = predicted(model, raw, tile=(8, 24, 24), overlap=(0, 12, 12), batch=3)
    whole = predicted(model, raw, tile=(8, 48, 48), overlap=(0, 0, 0))
    # A voxel in the middle of a tile weighs far more than one at a tile's border.
    assert np.abs(tiled - whole).max() < 0.1 * np.abs(whole - 0.5).max() + 0.05
    np.testing.assert_allclose(tiled[:, 2:6, 5:7, 5:7], whole[:, 2:6, 5:7, 5:7], atol=1e-6)


def test_a_network_that_predicts_less_than_it_sees_sees_the_neighbours_of_its_tile():
    raw, model = noise(8, 30, 34), Local(reach=2, padding=0)
    tiled = predicted(model, raw, tile=(9, 14, 13), overlap=None)
    mirrored = torch.from_numpy(np.pad(raw, 2, mode="reflect"))[None, None].float() / 255
    with torch.inference_mode():
        whole = model(mirrored)[0].numpy()
    assert tiled.shape == (3, 8, 30, 34)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


@pytest.mark.parametrize("model", [Global(), Local(reach=2, padding=0)])
@pytest.mark.parametrize("inside", [Box((4, 0, 5), (8, 30, 30)), Box((0, 7, 0), (23, 31, 37))])
def test_a_part_is_predicted_bit_by_bit_as_within_the_whole(model, inside):
    raw, tiles = noise(23, 31, 37), {"tile": (9, 14, 13), "overlap": (2, 3, 3), "batch": 1}
    whole = predicted(model, raw, **tiles)
    part = predicted(model, raw, inside=inside, **tiles)
    assert np.array_equal(part, whole[(slice(None), *inside.slices)])


def test_where_the_context_holds_the_receptive_field_the_lattice_leaves_no_trace():
    raw, model = noise(20, 40, 40), Local(reach=2, padding=2)
    whole = predicted(model, raw, tile=raw.shape, overlap=(0, 0, 0))
    lattices = [((9, 16, 16), (4, 4, 4)), ((11, 17, 13), (5, 6, 4)), ((9, 24, 19), None)]
    for tile, overlap in lattices:
        free = predicted(model, raw, tile=tile, overlap=overlap, context=(2, 2, 2))
        np.testing.assert_allclose(free, whole, atol=1e-6)
        bound = predicted(model, raw, tile=tile, overlap=overlap)
        assert np.abs(bound - whole).max() > 1e-3
    # The same lattice over a volume that begins two voxels later is another one.
    context = {"tile": (9, 16, 16), "overlap": (4, 4, 4), "context": (2, 2, 2)}
    shifted = predicted(model, raw[2:, 2:, 2:], **context)
    np.testing.assert_allclose(shifted[:, 2:, 2:, 2:], whole[:, 4:, 4:, 4:], atol=1e-4)


def test_columns_release_blocks_as_tiles_leave_them_and_hold_few():
    raw, model = noise(64, 20, 20), Local()
    look = windows(model, tile=(8, 12, 12), overlap=(2, 4, 4), shape=raw.shape)
    reads = []

    def read(box):
        reads.append(box)
        return raw[box.slices]

    predictor = Predictor(model, read, shape=raw.shape, look=look, batch=3, device=CPU)
    column = Box((0, 0, 0), (64, 20, 12))
    found = list(predictor.column(column))
    assert len(found) == predictor.batches(column) == 2 * len(reads)
    places = [box for parts in found for box, _ in parts]
    cuts = [box.start[0] for box in places] + [64]
    assert cuts == sorted(set(cuts)) and all(b - a == 8 for a, b in itertools.pairwise(cuts))
    assert max(box.shape[0] for box in reads) == 8  # never more than a row of tiles
    assert all(len(parts) <= 2 for parts in found)


def test_views_are_averaged_in_the_tile_and_then_blended():
    raw = noise(8, 24, 24)
    plain = predicted(Local(), raw, tile=(8, 24, 24), overlap=(0, 0, 0))
    turned = predicted(Local(), raw, tile=(8, 24, 24), overlap=(0, 0, 0), tta="flips")
    flipped = predicted(Local(), raw[::-1], tile=(8, 24, 24), overlap=(0, 0, 0), tta="flips")
    assert np.abs(plain - turned).max() > 1e-2
    np.testing.assert_allclose(flipped[1, ::-1], turned[1], atol=1e-6)
    np.testing.assert_allclose(flipped[0, :0:-1], turned[0, 1:], atol=1e-6)  # edges, not voxels
