"""Cut a batch of crops into patches, the tokens of the paper, and put them back."""

from torch import Tensor

Size3 = tuple[int, int, int]


def patch_grid(crop: Size3, *, patch: Size3) -> Size3:
    """How many patches lie along each axis.

    Args:
        crop: size (z, y, x) in voxels.
        patch: size (z, y, x) in voxels.

    Raises:
        ValueError: a side of the crop is not a multiple of the patch's.
    """
    if any(side % p for side, p in zip(crop, patch, strict=True)):
        raise ValueError(
            f"crop {tuple(crop)} is not a multiple of patch {tuple(patch)} (zyx voxels)"
        )
    return tuple(side // p for side, p in zip(crop, patch, strict=True))


def patchify(crops: Tensor, *, patch: Size3) -> Tensor:
    """Flatten non-overlapping patches in raster order, z slowest.

    Args:
        crops: [B, C, D, H, W], any dtype.
        patch: patch size (z, y, x) in voxels; must divide (D, H, W).

    Returns:
        [B, K, C*P], with K = D*H*W / P and P = z*y*x. A view is not promised.

    Raises:
        ValueError: a side of the crop is not a multiple of the patch's.

    Source: Sec. 9 (crops of 16x160x160, patches of 4x16x16, so K = 400).
    """
    b, c, *sides = crops.shape
    (d, h, w), (z, y, x) = patch_grid(tuple(sides), patch=patch), patch
    grid = crops.reshape(b, c, d, z, h, y, w, x)
    return grid.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, d * h * w, c * z * y * x)


def unpatchify(patches: Tensor, *, crop: Size3, patch: Size3) -> Tensor:
    """The inverse of ``patchify``.

    Args:
        patches: [B, K, C*P] in raster order.
        crop: size (D, H, W) in voxels.
        patch: patch size (z, y, x) in voxels.

    Returns:
        [B, C, D, H, W].

    Raises:
        ValueError: the crop is not a multiple of the patch, or the count of patches is another.
    """
    (d, h, w), (z, y, x) = patch_grid(crop, patch=patch), patch
    b, k, _ = patches.shape
    if k != d * h * w:
        raise ValueError(f"{k} patches do not fill crop {crop}: {d * h * w} of {patch} do")
    grid = patches.reshape(b, d, h, w, -1, z, y, x)
    return grid.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, -1, d * z, h * y, w * x)


def expand_patches(values: Tensor, *, crop: Size3, patch: Size3) -> Tensor:
    """Give every voxel the value of its patch.

    Args:
        values: [B, K], one value a patch, raster order.
        crop: size (D, H, W) in voxels.
        patch: patch size (z, y, x) in voxels.

    Returns:
        [B, 1, D, H, W].

    Raises:
        ValueError: as ``patch_grid``.
    """
    grid = values.reshape(-1, 1, *patch_grid(crop, patch=patch))
    for axis, size in enumerate(patch, start=2):
        grid = grid.repeat_interleave(size, dim=axis)
    return grid
