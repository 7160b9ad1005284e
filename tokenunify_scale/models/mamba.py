"""The tri-oriented Mamba layer: one projection, three scans (forward, backward, inter-section)."""

import math

import torch
from torch import Tensor, nn

from tokenunify_scale.ops.tri_mamba import tri_mamba

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
DIRECTIONS = 3


class TriOrientedMamba(nn.Module):
    """Mamba over a sequence of voxels in three orders, summed.

    Each direction has its own convolution, selection and state matrices, stacked in the order
    forward, backward, inter-section. All lie on this module, which is what ZeRO-3 needs.

    Source: the paper's Sec. 3 and Fig. 8 (tri-oriented Mamba, after SegMamba); initialisation as
    in the reference code of Mamba (Gu and Dao 2023).
    """

    def __init__(self, channels: int, *, state: int = 16, kernel: int = 4, expand: int = 2) -> None:
        """``channels`` C in and out; E = expand * C inside."""
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Parameter(torch.empty(DIRECTIONS, inner, kernel))
        self.conv1d_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.x_proj = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * state, inner))
        self.dt_proj = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        self.dt_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_log = nn.Parameter(torch.empty(DIRECTIONS, inner, state))
        self.D = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw this module's own parameters anew; its two projections reset themselves."""
        inner, kernel = self.conv1d.shape[1:]
        rank, state = self.dt_proj.shape[2], self.A_log.shape[2]
        with torch.no_grad():
            self.conv1d.uniform_(-(kernel**-0.5), kernel**-0.5)
            self.conv1d_bias.uniform_(-(kernel**-0.5), kernel**-0.5)
            self.x_proj.uniform_(-(inner**-0.5), inner**-0.5)
            self.dt_proj.uniform_(-(rank**-0.5), rank**-0.5)
            step = torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
            step = step.exp().clamp(min=DT_FLOOR)
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
            self.A_log.copy_(torch.arange(1, state + 1).log().expand_as(self.A_log))
            self.D.fill_(1.0)

    def projections(self) -> tuple[Tensor, Tensor]:
        """``x_proj`` and ``dt_proj``, as the scan takes them."""
        return self.x_proj, self.dt_proj

    def forward(self, x: Tensor, *, chunks: int) -> Tensor:
        """Mix a sequence.

        Args:
            x: [B, L, C], x fastest.
            chunks: number of contiguous chunks (sections) the third order interleaves; divides L.

        Returns:
            [B, L, C].
        """
        mixed = tri_mamba(
            self.in_proj(x),
            self.conv1d,
            self.conv1d_bias,
            *self.projections(),
            self.dt_bias,
            -torch.exp(self.A_log.float()),
            self.D,
            chunks=chunks,
        )
        return self.out_proj(mixed)


class MambaLayer(nn.Module):
    """Layer norm, tri-oriented Mamba over the flattened volume, and a residual where asked."""

    def __init__(self, channels: int, *, state: int, kernel: int) -> None:
        """``channels`` C of the stage."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = TriOrientedMamba(channels, state=state, kernel=kernel)

    def forward(self, x: Tensor, *, chunks: int, residual: bool) -> Tensor:
        """[B, C, D, H, W] to the same shape, channels last in memory; free of copies if x is."""
        volume = x.movedim(1, -1)
        sequence = volume.flatten(1, 3)
        mixed = self.mamba(self.norm(sequence), chunks=chunks)
        mixed = mixed + sequence if residual else mixed
        return mixed.view(volume.shape).movedim(-1, 1)
