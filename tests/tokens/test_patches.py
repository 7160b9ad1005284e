import numpy as np
import pytest
import torch

from tokenunify_scale.tokens.patches import expand_patches, patch_grid, patchify, unpatchify


def test_a_small_crop_is_cut_in_raster_order_x_fastest():
    crop = torch.arange(16).reshape(1, 1, 2, 2, 4)
    patches = patchify(crop, patch=(1, 2, 2))
    assert patches.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_patches_agree_with_slices_for_several_crops_and_channels():
    crops, patch = torch.rand(2, 3, 4, 6, 8), (2, 3, 4)
    patches = patchify(crops, patch=patch)
    assert patches.shape == (2, 8, 3 * 24)
    for k, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        part = crops[:, :, 2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 4 * x : 4 * x + 4]
        assert torch.equal(patches[:, k], part.reshape(2, -1))


@pytest.mark.parametrize("patch", [(1, 1, 1), (2, 3, 4), (4, 6, 8), (1, 6, 2)])
def test_unpatchify_undoes_patchify(patch):
    crops = torch.rand(2, 3, 4, 6, 8)
    back = unpatchify(patchify(crops, patch=patch), crop=(4, 6, 8), patch=patch)
    assert torch.equal(back, crops)


def test_the_papers_crop_has_400_patches():
    assert patch_grid((16, 160, 160), patch=(4, 16, 16)) == (4, 10, 10)
    assert patchify(torch.zeros(1, 1, 16, 160, 160), patch=(4, 16, 16)).shape == (1, 400, 1024)


def test_every_voxel_gets_the_value_of_its_patch():
    crops, patch = torch.rand(2, 1, 4, 6, 8), (2, 3, 4)
    values = torch.arange(16.0).reshape(2, 8)
    voxels = expand_patches(values, crop=(4, 6, 8), patch=patch)
    assert voxels.shape == crops.shape
    assert torch.equal(patchify(voxels, patch=patch), values[..., None].expand(-1, -1, 24))


@pytest.mark.parametrize("crop", [(5, 6, 8), (4, 7, 8), (4, 6, 9)])
def test_a_crop_that_is_no_multiple_of_the_patch_is_refused(crop):
    message = rf"crop \({crop[0]}, {crop[1]}, {crop[2]}\) is not a multiple of patch \(2, 3, 4\)"
    with pytest.raises(ValueError, match=message):
        patchify(torch.zeros(1, 1, *crop), patch=(2, 3, 4))
    with pytest.raises(ValueError, match=message):
        expand_patches(torch.zeros(1, 8), crop=crop, patch=(2, 3, 4))


def test_too_few_patches_do_not_fill_a_crop():
    with pytest.raises(ValueError, match="7 patches do not fill crop"):
        unpatchify(torch.zeros(1, 7, 24), crop=(4, 6, 8), patch=(2, 3, 4))
