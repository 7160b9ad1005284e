"""Convolutional blocks of EMmamba: gated spatial convolution, residual and upsampling blocks.

Module names follow the paper's release, so that its checkpoints map one to one.
"""

import torch
from torch import Tensor, nn


class GatedSpatialConv(nn.Module):
    """Two 3x3x3 convolutions beside a pointwise branch, summed, mixed, and added to the input.

    Source: Fig. 8, the GSC module.
    """

    def __init__(self, channels: int) -> None:
        """Keep the channel count and all sides."""
        super().__init__()
        self.proj = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj3 = nn.Conv3d(channels, channels, 1)
        self.proj4 = nn.Conv3d(channels, channels, 1)
        self.norm = nn.InstanceNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        spatial = torch.relu(self.norm(self.proj(x)))
        spatial = torch.relu(self.norm(self.proj2(spatial)))
        pointwise = torch.relu(self.norm(self.proj3(x)))
        return torch.relu(self.norm(self.proj4(spatial + pointwise))) + x


class LateralMLP(nn.Module):
    """Pointwise MLP on a stage's output, the skip feature of the decoder. Source: Fig. 8."""

    def __init__(self, channels: int) -> None:
        """Widen to twice the channels and back."""
        super().__init__()
        self.norm = nn.InstanceNorm3d(channels)
        self.fc1 = nn.Conv3d(channels, 2 * channels, 1)
        self.fc2 = nn.Conv3d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        return self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class Residual(nn.Module):
    """Two in-plane (1x5x5) convolutions with instance norm and a shortcut.

    Source: Fig. 8; kernel and norms as in the release.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """The shortcut is a pointwise convolution where the channel count changes."""
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, (1, 5, 5), padding=(0, 2, 2), bias=False)
        self.conv2 = nn.Conv3d(outputs, outputs, (1, 5, 5), padding=(0, 2, 2), bias=False)
        self.conv3 = nn.Conv3d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        self.norm = nn.InstanceNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D, H, W]."""
        shortcut = x if self.conv3 is None else self.norm(self.conv3(x))
        x = nn.functional.leaky_relu(self.norm(self.conv1(x)), 0.01)
        return nn.functional.leaky_relu(self.norm(self.conv2(x)) + shortcut, 0.01)


class Up(nn.Module):
    """Double all sides, concatenate the skip feature, and refine. Source: Fig. 8."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """``inputs`` channels from below, ``outputs`` from the skip and out."""
        super().__init__()
        self.transp_conv = nn.ConvTranspose3d(inputs, outputs, 2, stride=2, bias=False)
        self.conv_block = Residual(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, inputs, D, H, W] and the skip [B, outputs, 2D, 2H, 2W] to the skip's shape."""
        return self.conv_block(torch.cat([self.transp_conv(x), skip], dim=1))
