import numpy as np
import pytest
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.augment import generator
from tokenunify_scale.data.changes.warp import (
    FOLD,
    Elastic,
    Misalignment,
    Rescale,
    Warp,
    elastic_field,
    orient,
    rotation,
    shift_offsets,
    slip_offsets,
    zoom,
)

NOISE = np.random.default_rng(0).integers(0, 256, (3, 20, 24)).astype(np.uint8)
IDS = NOISE.astype(np.uint64) + 2**60
STILL, SAME = np.zeros((3, 2)), np.eye(2)


def warp(matrix=SAME, offsets=STILL, field=None, crop=NOISE, labels=IDS):
    return Warp(np.asarray(matrix, float), np.asarray(offsets, float), field).apply(crop, labels)


def blobs(shape, *, spacing):
    """Labels 0 to 7 in columns of ``spacing`` voxels."""
    y, x = np.indices(shape[1:]) // spacing
    return np.broadcast_to((3 * y + x) % 8, shape).astype(np.int64)


def test_a_crop_is_mirrored_then_transposed_then_turned():
    crop = NOISE[:, :20, :20]
    assert np.array_equal(
        orient(crop, flips=(0, 2), transpose=False, quarters=0), crop[::-1, :, ::-1]
    )
    turned = orient(crop, flips=(1,), transpose=True, quarters=1)
    assert np.array_equal(turned, np.rot90(crop[:, ::-1].transpose(0, 2, 1), axes=(1, 2)))
    assert turned.flags.c_contiguous
    assert np.shares_memory(orient(NOISE, flips=(), transpose=False, quarters=0), NOISE)


def test_a_warp_that_moves_nothing_changes_nothing():
    crop, labels = warp()
    assert np.array_equal(crop, NOISE) and np.array_equal(labels, IDS)
    assert labels.dtype == np.uint64 and warp(labels=None)[1] is None


@pytest.mark.parametrize("degrees, quarters", [(90, 1), (180, 2), (-90, 3)])
def test_a_rotation_by_a_right_angle_is_a_quarter_turn(degrees, quarters):
    square = NOISE[:, :20, :20]
    crop, labels = warp(rotation(degrees, voxel_size=None), crop=square, labels=IDS[:, :20, :20])
    expected = np.rot90(square, quarters, axes=(1, 2))
    assert np.array_equal(crop, expected)
    assert np.array_equal(labels - 2**60, expected)


def test_a_rotation_is_one_in_nanometres():
    # Voxels of 8x4 nm: 4 voxels along y are as long as 8 along x.
    crop = np.zeros((1, 21, 41), np.uint8)
    crop[0, 14, 20] = 255
    matrix = rotation(90, voxel_size=(40, 8, 4))
    turned, _ = warp(matrix, np.zeros((1, 2)), crop=crop, labels=None)
    assert np.argwhere(turned[0] > 200).tolist() == [[10, 28]]


def test_zoom_enlarges_about_the_middle():
    crop = np.zeros((1, 41, 41), np.uint8)
    crop[0, 16:25, 16:25] = 200  # 9 voxels
    twice, _ = warp(SAME / 2, np.zeros((1, 2)), crop=crop, labels=None)
    inside = np.argwhere(twice[0] >= 100)
    assert inside.min(0).tolist() == [11, 11] and inside.max(0).tolist() == [29, 29]
    factors = [zoom(Rescale(), rng=generator(seed)) for seed in range(300)]
    assert 0.8 <= min(factors) < 0.82 and 1.22 < max(factors) <= 1.25
    assert np.mean(np.array(factors) < 1) == pytest.approx(0.5, abs=0.1)


def test_resampling_is_scipys_linear_and_nearest_with_mirrored_borders():
    matrix = rotation(25, voxel_size=None) / 0.7
    field = elastic_field(Elastic(spacing=10, amplitude=1), (20, 24), rng=generator(3))
    offsets = np.array([[0, 0], [5.25, -30.5], [0, 0]])
    crop, labels = warp(matrix, offsets, field)
    middle = np.array([9.5, 11.5])[:, None, None]
    for z, offset in enumerate(offsets):
        centred = np.indices((20, 24)) - middle - offset[:, None, None]
        places = np.einsum("ij,jyx->iyx", matrix, centred) + middle + field
        linear = map_coordinates(NOISE[z].astype(float), places, order=1, mode="mirror")
        assert np.abs(crop[z] - linear).max() < 0.51
        nearest = map_coordinates(NOISE[z], places, order=0, mode="mirror")
        assert np.array_equal(labels[z] - 2**60, nearest)


def test_labels_agree_with_an_image_made_of_them():
    labels = blobs((2, 96, 96), spacing=12)
    matrix = rotation(33, voxel_size=None) * 0.9
    field = elastic_field(Elastic(spacing=30, amplitude=3), (96, 96), rng=generator(0))
    crop, moved = warp(
        matrix, [[0, 0], [6, -3]], field, crop=(labels * 32).astype(np.uint8), labels=labels
    )
    assert moved.dtype == labels.dtype and set(np.unique(moved)) == set(range(8))
    window = (1, 3, 3)
    inside = maximum_filter(moved, window) == minimum_filter(moved, window)
    assert inside.mean() > 0.6
    assert (np.rint(crop[inside] / 32) == moved[inside]).mean() > 0.999


def test_no_black_appears_at_the_borders():
    bright = np.full((2, 30, 40), 200, np.uint8)
    matrix = rotation(45, voxel_size=None) / 0.5
    crop, _ = warp(matrix, [[0, 0], [100, -70]], crop=bright, labels=None)
    assert (crop == 200).all()


def test_a_section_of_one_row_can_be_moved():
    thin = NOISE[:, :1]
    crop, labels = warp(offsets=[[3, 0], [0, 0], [0, 1]], crop=thin, labels=thin)
    assert np.array_equal(crop[:2], thin[:2]) and np.array_equal(crop, labels)
    assert np.array_equal(crop[2, 0, 1:], thin[2, 0, :-1])


def test_an_elastic_field_has_the_strength_asked_for_and_is_smooth():
    config = Elastic(spacing=20, amplitude=2)
    fields = np.stack([elastic_field(config, (61, 81), rng=generator(s)) for s in range(200)])
    assert fields.shape == (200, 2, 61, 81) and fields.dtype == np.float32
    assert fields[:, :, ::20, ::20].std() == pytest.approx(2, rel=0.05)  # at control points
    assert abs(fields.mean()) < 0.1
    assert np.abs(np.diff(fields, axis=-1)).max() < 1


def test_the_strongest_elastic_field_does_not_fold():
    for seed in range(40):
        y, x = elastic_field(Elastic(spacing=24, amplitude=3), (97, 97), rng=generator(seed))
        area = (1 + np.gradient(y, axis=0)) * (1 + np.gradient(x, axis=1))
        assert (area - np.gradient(y, axis=1) * np.gradient(x, axis=0)).min() > 0
    with pytest.raises(ConfigError, match=f"amplitude is at most 1/{FOLD} of spacing 24"):
        Elastic(spacing=24, amplitude=3.1)


def test_a_slip_displaces_one_section_and_a_shift_all_from_one_on():
    slipped, shifted, lengths = set(), set(), []
    for seed in range(200):
        offsets = slip_offsets(Misalignment(displacement=5), 4, rng=generator(seed))
        (section,) = np.flatnonzero(offsets.any(axis=1))
        slipped.add(section)
        lengths.append(np.abs(offsets[section]).max())
        offsets = shift_offsets(Misalignment(displacement=5), 4, rng=generator(seed))
        moved = offsets.any(axis=1)
        first = int(moved.argmax())
        shifted.add(first)
        assert moved[first:].all() and not moved[:first].any()
        assert len(np.unique(offsets[first:], axis=0)) == 1 and (offsets % 1 == 0).all()
    assert slipped == {0, 1, 2, 3} and shifted == {1, 2, 3}
    assert min(lengths) == 1 and max(lengths) == 5


def test_a_single_section_has_nothing_to_be_misaligned_with():
    assert not slip_offsets(Misalignment(), 1, rng=generator(0)).any()
    assert not shift_offsets(Misalignment(), 1, rng=generator(0)).any()


def test_a_displaced_section_holds_the_same_voxels_elsewhere():
    crop, labels = warp(offsets=[[0, 0], [2, -3], [0, 0]])
    assert np.array_equal(crop[::2], NOISE[::2]) and np.array_equal(labels[::2], IDS[::2])
    assert np.array_equal(crop[1, 2:, :-3], NOISE[1, :-2, 3:])
    assert np.array_equal(crop[1, :2, :-3], NOISE[1, 2:0:-1, 3:])  # mirrored
    assert np.array_equal(labels - 2**60, crop)
