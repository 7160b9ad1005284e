"""The loss of pixel embeddings: their cosines at twelve shifts, held against labels' affinities.

Source: Huang et al., AAAI 2022 (PEA), shifts and weights as in the published training of AC3/AC4
(github.com/weih527/Pixel-Embedded-Affinity, scripts_ac3ac4/main.py): the shifts are summed, and so
are the deep terms, each with weight 1.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from tokenunify_scale.data.affinities import NEAREST, Offset, affinities_from_labels
from tokenunify_scale.models.pea import cosines, normalise

Weigh = Callable[[Tensor, Tensor], Tensor]

SHIFTS = ((1, 1, 1), (2, 3, 3), (3, 9, 9), (4, 27, 27))
"""Along z, y and x, near to far. Sections are thicker than voxels of the plane are wide."""

OFFSETS: tuple[Offset, ...] = tuple(
    offset for z, y, x in SHIFTS for offset in ((z, 0, 0), (0, y, 0), (0, 0, x))
)
"""The twelve channels in their published order: z1 y1 x1 z2 y3 x3 z3 y9 x9 z4 y27 x27."""


def cosine_affinities(embedding: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Cosine of the embeddings at the two ends of each edge (p, p - offset).

    Args:
        embedding: [B, E, D, H, W], of any length and floating type.
        offsets: zyx voxel offsets, one a channel; may be negative or long.

    Returns:
        [B, C, D, H, W], float32 in [-1, 1]; 0 where p - offset lies outside, which the mask of
        ``affinities_from_labels`` tells from a cosine.
    """
    return cosines(normalise(embedding), offsets)


def embedding_loss(
    embeddings: tuple[Tensor, ...], labels: Tensor, *, weigh: Weigh
) -> tuple[Tensor, Tensor]:
    """Loss of each sample: a sum of weighted mean squared errors, one a shift and level.

    The finest level has the twelve shifts of ``OFFSETS``, each coarser one the three nearest.
    Cosines are held against affinities as they are: 1 within an object, 0 across a boundary and
    wherever a voxel is background, also between two of background.

    Nothing is averaged over shifts or levels: with four coarser levels the loss has 12 + 4 x 3
    terms. With balanced classes, equal embeddings everywhere cost 0.5 a term, 12 in all.

    Args:
        embeddings: fine to coarse, of any length. The first is [B, E, D, H, W]; in the k-th after
            it, voxel (z, y, x) stands for the labels' (z, 2^k y, 2^k x), which labels it. What it
            has beyond the labels is left out.
        labels: int64 [B, D, H, W], 0 is background, borders widened.
        weigh: weights of the edges from (target, valid), all [B, C, D, H, W] with a channel a
            shift: ``target`` is 0 or 1, ``valid`` is 1 where the edge exists. In each channel
            their sum should be that of ``valid``, by which the weighted errors are divided.

    Returns:
        The loss, [B]; and for the log the plain mean squared error of the three nearest cosines
        at the finest level over all of their edges, [B], without a gradient.

    Raises:
        ValueError: an embedding is smaller than the labels at its level, or of another batch.
    """
    # Paper: the published training adds the same loss between embeddings of two views of a crop.
    finest, *coarser = embeddings
    total, plain = _level(finest, labels, offsets=OFFSETS, weigh=weigh)
    for k, embedding in enumerate(coarser, start=1):
        seen = labels[..., :: 2**k, :: 2**k]
        total = total + _level(embedding, seen, offsets=NEAREST, weigh=weigh)[0]
    return total, plain


def _level(
    embedding: Tensor, labels: Tensor, *, offsets: Sequence[Offset], weigh: Weigh
) -> tuple[Tensor, Tensor]:
    """Sum of the shifts' losses at one level, and the plain error of the nearest, both [B]."""
    d, h, w = labels.shape[1:]
    seen = embedding[..., :d, :h, :w]
    if seen.shape[:1] + seen.shape[2:] != labels.shape:
        raise ValueError(
            f"embedding {tuple(embedding.shape)} does not cover labels {tuple(labels.shape)}"
        )
    target, valid = affinities_from_labels(labels, offsets)
    errors = (cosine_affinities(seen, offsets) - target).square()
    edges = valid.sum((2, 3, 4))
    shifts = (errors * weigh(target, valid)).sum((2, 3, 4)) / edges.clamp(min=1)
    near = slice(len(NEAREST))
    plain = (errors.detach()[:, near] * valid[:, near]).sum((1, 2, 3, 4))
    return shifts.sum(1), plain / edges[:, near].sum(1).clamp(min=1)
