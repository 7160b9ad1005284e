"""Which patches of a crop are hidden: at random, or all behind a prefix of a path."""

import numpy as np
import torch
from torch import Generator, Tensor

from tokenunify_scale.config import ConfigError
from tokenunify_scale.tokens.patches import expand_patches, patchify


def random_mask(count: int, *, ratio: float, generator: Generator) -> Tensor:
    """Hide a fixed share of patches, chosen uniformly.

    Args:
        count: number of patches K.
        ratio: share to hide, in (0, 1); at least one patch is hidden and one stays visible.
        generator: source of randomness, on the CPU.

    Returns:
        bool [K], True where hidden.

    Raises:
        ValueError: the ratio is outside (0, 1) or there are fewer than two patches.

    Source: Eq. 3, the random set M.
    """
    if not 0 < ratio < 1 or count < 2:
        raise ValueError(f"cannot hide a share of {ratio} of {count} patches: need (0, 1) and >= 2")
    hidden = min(max(round(count * ratio), 1), count - 1)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=generator)[:hidden]] = True
    return mask


def prefix_length(count: int, *, generator: Generator) -> int:
    """Draw how many patches of a path are visible, uniformly from 1..K-1.

    Raises:
        ValueError: there are fewer than two patches.

    Source: Eq. 4 and 5, whose sums over positions it samples.
    """
    if count < 2:
        raise ValueError(f"{count} patch has no prefix with something behind it: need 2 or more")
    return int(torch.randint(1, count, (), generator=generator))


def prefix_lengths(count: int, *, prefixes: int, generator: Generator) -> list[int]:
    """Draw how many patches each of several prefixes of one path shows.

    The first is uniform in 1..K-1; the others follow at equal distances, going round the end, so
    each is uniform too, and together they cover short and long ones (systematic sampling).

    Args:
        count: number of patches K.
        prefixes: how many to draw, 1..K-1; no two are equal.
        generator: source of randomness, on the CPU; one number is drawn.

    Raises:
        ConfigError: there are fewer than two patches, or not so many prefixes.
    """
    first = prefix_length(count, generator=generator)
    if not 1 <= prefixes < count:
        raise ConfigError(f"{prefixes} prefixes of {count} patches: valid are 1..{count - 1}")
    return [1 + (first - 1 + i * (count - 1) // prefixes) % (count - 1) for i in range(prefixes)]


def prefix_masks(order: Tensor, *, visible: int) -> tuple[Tensor, Tensor]:
    """What is hidden behind a prefix of ``visible`` patches, and which hidden patch comes next.

    Args:
        order: int64 [K], raster indices in visiting order.
        visible: length of the prefix, 1..K-1.

    Returns:
        (hidden, next), both bool [K] in raster order; ``next`` marks one patch.

    Raises:
        ValueError: the prefix leaves nothing visible or nothing hidden.
    """
    if not 1 <= visible < len(order):
        raise ValueError(f"a prefix of {visible} patches is outside 1..{len(order) - 1}")
    hidden, following = torch.zeros(2, len(order), dtype=torch.bool)
    hidden[order[visible:]] = True
    following[order[visible]] = True
    return hidden, following


def sample_generator(seed: int, position: int, *, stream: int = 0) -> Generator:
    """The source of randomness of one sample: a function of the run's seed and its position.

    Whichever rank draws the sample, at whatever world size, the draws are the same.

    Args:
        seed: of the run.
        position: of the sample in the stream of data.
        stream: what is drawn, where one sample needs independent sources.
    """
    key = (stream,) if stream else ()
    sequence = np.random.SeedSequence([seed, position], spawn_key=key)
    mixed = sequence.generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def hide(crops: Tensor, hidden: Tensor, fill: Tensor, *, patch: tuple[int, int, int]) -> Tensor:
    """Replace hidden patches by something that knows nothing of them.

    Args:
        crops: [B, C, D, H, W], float.
        hidden: bool [B, K], raster order.
        fill: what is put in their place, of a shape that broadcasts to ``crops``.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).

    Returns:
        Like ``crops``.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    voxels = expand_patches(hidden, crop=tuple(crops.shape[2:]), patch=patch)
    return torch.where(voxels, fill, crops)


def visible_mean(crops: Tensor, hidden: Tensor, *, patch: tuple[int, int, int]) -> Tensor:
    """Mean of the visible voxels of each crop and channel.

    Args:
        crops: [B, C, D, H, W], float.
        hidden: bool [B, K], raster order; leaves a patch of each crop visible.
        patch: patch size (z, y, x) in voxels; divides (D, H, W).

    Returns:
        [B, C, 1, 1, 1], float32.

    Raises:
        ValueError: the patch does not divide the crop.
    """
    planes = crops.float().flatten(0, 1).unsqueeze(1)
    means = patchify(planes, patch=patch).mean(-1).unflatten(0, crops.shape[:2])
    seen = (~hidden).unsqueeze(1).to(means)
    return ((means * seen).sum(-1) / seen.sum(-1))[..., None, None, None]
