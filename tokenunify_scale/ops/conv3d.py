"""3-D convolutions with channels last on a CPU, each in the formulation measured to be fastest.

On other devices they are torch's own. On a CPU memory lies with channels last throughout, which is
what oneDNN's kernels, matrix products and the norms want. The choice is a rule of shapes and types
alone, so that a run repeats bit for bit.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Triple = tuple[int, int, int]
Formulation = Literal["pointwise", "sections", "patches", "planes", "volume", "halves"]

POINTWISE: Triple = (1, 1, 1)
UNFOLDS_AT = {True: 3, False: 12}
"""Output channels a position from which ``patches`` wins, for 16-bit types and for others."""
ONEDNN_ABOVE = 20_480
"""B C D H above which torch 2 gives a float32 volume to oneDNN; its own 3-D kernels, below, are
three to five times slower. A batch of two goes there at any size, and so do 16-bit types."""


def formulation(weight: tuple[int, ...], *, stride: Triple, padding: Triple, batch: int,
                sides: Triple, narrow: bool) -> Formulation:
    """How to convolve on a CPU.

    ``pointwise``: a matrix product. ``sections``: in-plane kernels, as oneDNN's 2-D convolution of
    images. ``patches``: a matrix product with patches of the image. ``planes``: in-plane, with
    every channel's images contiguous. ``volume``: oneDNN's 3-D convolution. ``halves``: that of a
    batch of two overlapping halves, as torch keeps a small volume from oneDNN.

    Args:
        weight: shape [O, C, z, y, x].
        stride: of the kernel.
        padding: on either side.
        batch: how many volumes.
        sides: of a volume, z already cut to the sections that are visited.
        narrow: whether numbers have 16 bits.
    """
    outputs, inputs, *kernel = weight
    if tuple(kernel) == POINTWISE and stride == POINTWISE and padding == (0, 0, 0):
        # Also safer: torch 2.13's own corrupts memory in bfloat16, 16 to 32 channels at 8x80x80.
        return "pointwise"
    if kernel[0] > 1 or padding[0]:
        split = kernel[0] == 3 and stride == POINTWISE and padding[0] == 1
        return "halves" if split and not _onednn(batch, inputs, sides, narrow) else "volume"
    # The weight of an in-plane kernel is the larger operand where positions are few; oneDNN then
    # spends its time on bringing it into its own order, the more so with channels last.
    positions = batch * math.prod(sides)
    if stride == POINTWISE and outputs >= UNFOLDS_AT[narrow] * positions:
        return "patches"
    return "planes" if 4 * max(inputs, outputs) >= positions else "sections"


def _onednn(batch: int, channels: int, sides: Triple, narrow: bool) -> bool:
    """Whether torch gives a volume to oneDNN."""
    return narrow or batch > 1 or batch * channels * sides[0] * sides[1] > ONEDNN_ABOVE


def _narrow(x: Tensor) -> bool:
    """Whether a convolution of ``x`` is computed with 16 bits."""
    return x.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: Triple = POINTWISE,
           padding: Triple = (0, 0, 0)) -> Tensor:
    """torch's ``conv3d``; on a CPU the result's memory has channels last.

    Args:
        x: [B, C, D, H, W], any memory layout.
        weight: [O, C, z, y, x].
        bias: [O].
        stride: zyx.
        padding: zeros on either side, zyx.

    Returns:
        [B, O, D', H', W'].
    """
    if x.device.type != "cpu":
        return functional.conv3d(x, weight, bias, stride, padding)
    if x.shape[2] == 1 and weight.shape[2] == 2 * padding[0] + 1:
        # One section sees only the middle of the kernel.
        weight, padding = weight[:, :, padding[0]:padding[0] + 1], (0, *padding[1:])
    if weight.shape[2] == 1 and padding[0] == 0:
        x, stride = x[:, :, ::stride[0]], (1, *stride[1:])
    form = formulation(tuple(weight.shape), stride=stride, padding=padding, batch=x.shape[0],
                       sides=tuple(x.shape[2:]), narrow=_narrow(x))
    if form == "pointwise":
        return _last_to_second(functional.linear(_second_to_last(x), weight.flatten(1), bias))
    if form == "sections":
        return _sections(x, weight, bias, stride[1:], padding[1:])
    if form == "patches":
        return _patches(x, weight, bias, padding[1:])
    if form == "planes":
        return _planes(x, weight, bias, stride[1:], padding[1:])
    if form == "halves":
        return _halves(channels_last(x), weight, bias, padding)
    if x.shape[2] < weight.shape[2] and padding[0]:
        # Of fewer sections than the kernel has, padded by itself, oneDNN leaves part of a bfloat16
        # weight's gradient unwritten (torch 2.13, Zen 4).
        x, padding = functional.pad(x, (0, 0, 0, 0, padding[0], padding[0])), (0, *padding[1:])
    return channels_last(functional.conv3d(channels_last(x), weight, bias, stride, padding))


def double(x: Tensor, weight: Tensor) -> Tensor:
    """Transposed convolution that doubles all sides, its kernels side by side.

    Args:
        x: [B, C, D, H, W], any memory layout.
        weight: [C, O, 2, 2, 2].

    Returns:
        [B, O, 2D, 2H, 2W]; on a CPU its memory has channels last.
    """
    if x.device.type != "cpu":
        return functional.conv_transpose3d(x, weight, stride=2)
    batch, channels, *sides = x.shape
    outputs, last = weight.shape[1], _second_to_last(x)
    if batch * math.prod(sides) <= outputs:  # reorder the smaller operand, here the result
        y = torch.matmul(last, weight.flatten(1)).view(batch, *sides, outputs, 2, 2, 2)
        y = y.permute(0, 1, 5, 2, 6, 3, 7, 4)
    elif _onednn(batch, channels, sides, _narrow(x)):
        return channels_last(functional.conv_transpose3d(channels_last(x), weight, stride=2))
    else:
        taps = weight.permute(2, 3, 4, 1, 0).reshape(8 * outputs, channels)
        y = functional.linear(last, taps).view(batch, *sides, 2, 2, 2, outputs)
        y = y.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return _last_to_second(y.reshape(batch, *(2 * side for side in sides), outputs))


def channels_last(x: Tensor) -> Tensor:
    """A volume whose memory has channels last, also by its strides where it has one channel."""
    return _last_to_second(_second_to_last(x))


def _second_to_last(x: Tensor) -> Tensor:
    """[B, C, D, H, W] as contiguous [B, D, H, W, C].

    A size of 1 can have any stride; torch and oneDNN guess the layout from it, so it is made right.
    """
    last = x.permute(0, 2, 3, 4, 1)
    return last.reshape(-1).view(last.shape)


def _last_to_second(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


def _images(x: Tensor) -> Tensor:
    """[B, C, D, H, W] as [B*D, C, H, W], both with channels last."""
    return _second_to_last(x).flatten(0, 1).permute(0, 3, 1, 2)


def _volumes(y: Tensor, batch: int) -> Tensor:
    """The inverse of ``_images``."""
    return _last_to_second(y.permute(0, 2, 3, 1).contiguous().unflatten(0, (batch, -1)))


def _sections(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int],
              padding: tuple[int, int]) -> Tensor:
    y = functional.conv2d(_images(x), weight.squeeze(2), bias, stride, padding)
    return _volumes(y, x.shape[0])


def _planes(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int],
            padding: tuple[int, int]) -> Tensor:
    """In two dimensions: torch 2.13's gradient of a bfloat16 weight is wrong in three, or NaN."""
    y = functional.conv2d(_images(x).contiguous(), weight.squeeze(2), bias, stride, padding)
    return _volumes(y, x.shape[0])


def _patches(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The weight is taken as it lies; copying patches is little work where positions are few."""
    (batch, _, depth, *_), kernel = x.shape, weight.shape[3:]
    patches = functional.unfold(_images(x).contiguous(), kernel, padding=padding)
    y = functional.linear(patches.transpose(1, 2), weight.flatten(1), bias)
    sides = [side + 2 * p - k + 1 for side, p, k in zip(x.shape[3:], padding, kernel, strict=True)]
    return _last_to_second(y.reshape(batch, depth, *sides, -1))


def _halves(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Triple) -> Tensor:
    """One volume as a batch of two that share two sections at the cut."""
    half = -(-x.shape[2] // 2)
    padded = functional.pad(x, (0, 0, 0, 0, 1, 1 + 2 * half - x.shape[2]))
    halves = torch.cat([padded[:, :, :half + 2], padded[:, :, half:]])
    y = functional.conv3d(halves, weight, bias, padding=(0, *padding[1:]))
    whole = _second_to_last(y).flatten(0, 1)[None, :x.shape[2]]
    return _last_to_second(whole)
