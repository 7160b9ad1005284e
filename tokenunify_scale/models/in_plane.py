"""Doubling in the plane alone, by the same weights that double all sides elsewhere."""

from torch import Tensor
from torch.nn import functional

from tokenunify_scale.models.blocks import Double, Up


class InPlaneDouble(Double):
    """The transposed convolution of ``Double``, which keeps the sections.

    Each section becomes the mean of the two that ``Double`` makes of it, so both halves of a
    kernel are learned, and weights that were trained in one way start the other.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D, 2H, 2W]."""
        weight = self.weight.mean(2, keepdim=True)
        if x.device.type != "cpu":
            return functional.conv_transpose3d(x, weight, stride=(1, 2, 2))
        # Kernels lie side by side: a product of each voxel with 4 taps, whose memory comes out
        # with channels last.
        taps = weight[:, :, 0].permute(2, 3, 1, 0).flatten(0, 2)
        y = functional.linear(x.movedim(1, -1), taps).unflatten(-1, (2, 2, -1))
        return y.transpose(3, 4).flatten(4, 5).flatten(2, 3).movedim(-1, 1)


class InPlaneUp(Up):
    """``Up`` that keeps the sections; parameters and their names are the same."""

    doubling = InPlaneDouble
