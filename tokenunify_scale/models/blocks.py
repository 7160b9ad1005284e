"""Convolutional blocks of EMmamba: gated spatial convolution, residual and upsampling blocks.

Module names follow the paper's release, so that its checkpoints map one to one.
"""

import torch
from torch import Tensor, nn

from tokenunify_scale.ops.conv3d import conv3d, double
from tokenunify_scale.ops.instance_norm import instance_norm


class Conv3d(nn.Conv3d):
    """torch's convolution with zero padding, without dilation or groups, fast on a CPU too."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to [B, O, D', H', W']."""
        return conv3d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class Double(nn.ConvTranspose3d):
    """The transposed convolution that doubles all sides, without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Kernels of 2 voxels a side, side by side."""
        super().__init__(inputs, outputs, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, 2D, 2H, 2W]."""
        return double(x, self.weight)


class GatedSpatialConv(nn.Module):
    """Two 3x3x3 convolutions beside a pointwise branch, summed, mixed, and added to the input.

    Source: Fig. 8, the GSC module.
    """

    def __init__(self, channels: int) -> None:
        """Keep the channel count and all sides."""
        super().__init__()
        self.proj = Conv3d(channels, channels, 3, padding=1)
        self.proj2 = Conv3d(channels, channels, 3, padding=1)
        self.proj3 = Conv3d(channels, channels, 1)
        self.proj4 = Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        spatial = instance_norm(self.proj(x), activation="relu")
        spatial = instance_norm(self.proj2(spatial), activation="relu")
        pointwise = instance_norm(self.proj3(x), activation="relu")
        return instance_norm(self.proj4(spatial + pointwise), activation="relu") + x


class LateralMLP(nn.Module):
    """Pointwise MLP on a stage's output, the skip feature of the decoder. Source: Fig. 8."""

    def __init__(self, channels: int) -> None:
        """Widen to twice the channels and back."""
        super().__init__()
        self.fc1 = Conv3d(channels, 2 * channels, 1)
        self.fc2 = Conv3d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        return self.fc2(nn.functional.gelu(self.fc1(instance_norm(x))))


class Residual(nn.Module):
    """Two in-plane convolutions with instance norm and a shortcut.

    Source: Fig. 8; kernel (1x5x5) and norms as in the release.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 5) -> None:
        """The shortcut is a pointwise convolution where the channel count changes."""
        super().__init__()
        sides, padding = (1, kernel, kernel), (0, kernel // 2, kernel // 2)
        self.conv1 = Conv3d(inputs, outputs, sides, padding=padding, bias=False)
        self.conv2 = Conv3d(outputs, outputs, sides, padding=padding, bias=False)
        self.conv3 = Conv3d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D, H, W]."""
        shortcut = x if self.conv3 is None else instance_norm(self.conv3(x))
        x = instance_norm(self.conv1(x), activation="leaky_relu")
        return instance_norm(self.conv2(x), activation="leaky_relu", add=shortcut)


class Up(nn.Module):
    """Double all sides, concatenate the skip feature, and refine. Source: Fig. 8."""

    doubling = Double

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 5) -> None:
        """``inputs`` channels from below, ``outputs`` from the skip and out."""
        super().__init__()
        self.transp_conv = self.doubling(inputs, outputs)
        self.conv_block = Residual(2 * outputs, outputs, kernel=kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, inputs, D, H, W] and the skip [B, outputs, 2D, 2H, 2W] to the skip's shape."""
        return self.conv_block(torch.cat([self.transp_conv(x), skip], dim=1))


def probability(logits: Tensor) -> Tensor:
    """Sigmoid, in float32 at least: in bfloat16 a logit above 6 is 1, and learns nothing more.

    Args:
        logits: of any shape and floating type.

    Returns:
        Like ``logits``, float32 where those have 16 bits.
    """
    return torch.sigmoid(logits.float() if logits.itemsize == 2 else logits)
