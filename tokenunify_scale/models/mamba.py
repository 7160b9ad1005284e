"""The tri-oriented Mamba layer: one projection, three scans (forward, backward, inter-section)."""

import math

import torch
from torch import Tensor, nn

from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Direction(nn.Module):
    """One direction of the scan: its own convolution, selection and state matrices.

    The kernels read these weights inside this module's own forward, which is what ZeRO-3 needs.
    Source: Mamba (Gu and Dao 2023), Sec. 3; initialisation as in its reference code.
    """

    def __init__(self, inner: int, *, state: int, kernel: int, rank: int) -> None:
        """``inner`` channels E, ``state`` size N, ``kernel`` taps, ``rank`` of the step."""
        super().__init__()
        self.rank, self.state = rank, state
        self.conv1d = nn.Parameter(torch.empty(inner, kernel))
        self.conv1d_bias = nn.Parameter(torch.empty(inner))
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Parameter(torch.empty(inner, rank))
        self.dt_bias = nn.Parameter(torch.empty(inner))
        self.A_log = nn.Parameter(torch.empty(inner, state))
        self.D = nn.Parameter(torch.empty(inner))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw this module's own parameters anew."""
        with torch.no_grad():
            bound = self.conv1d.shape[1] ** -0.5
            self.conv1d.uniform_(-bound, bound)
            self.conv1d_bias.uniform_(-bound, bound)
            self.dt_proj.uniform_(-(self.rank**-0.5), self.rank**-0.5)
            step = torch.empty_like(self.dt_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
            step = step.exp().clamp(min=DT_FLOOR)
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
            self.A_log.copy_(torch.arange(1, self.state + 1).log().expand_as(self.A_log))
            self.D.fill_(1.0)

    def forward(self, x: Tensor, z: Tensor, *, reverse: bool, interleave: int | None) -> Tensor:
        """Convolve, select, scan and gate along one order.

        Args:
            x: [B, L, E], the branch that is scanned.
            z: [B, L, E], the gate.
            reverse: visit the sequence backwards.
            interleave: visit this many contiguous chunks in turn.

        Returns:
            [B, L, E].
        """
        order = {"reverse": reverse, "interleave": interleave}
        u = causal_conv1d(
            x.transpose(1, 2), self.conv1d, self.conv1d_bias, activation="silu", **order
        )
        dt, b, c = self.x_proj(u.transpose(1, 2)).split([self.rank, self.state, self.state], -1)
        delta = nn.functional.linear(dt, self.dt_proj)
        y = selective_scan(
            u,
            delta.transpose(1, 2),
            -torch.exp(self.A_log.float()),
            b.transpose(1, 2),
            c.transpose(1, 2),
            self.D.float(),
            z=z.transpose(1, 2),
            delta_bias=self.dt_bias.float(),
            delta_softplus=True,
            **order,
        )
        return y.transpose(1, 2)


class TriOrientedMamba(nn.Module):
    """Mamba over a sequence of voxels in three orders, summed.

    Source: the paper's Sec. 3 and Fig. 8 (tri-oriented Mamba, after SegMamba).
    """

    def __init__(self, channels: int, *, state: int = 16, kernel: int = 4, expand: int = 2) -> None:
        """``channels`` C in and out; E = expand * C inside."""
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / 16)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.forward_scan = Direction(inner, state=state, kernel=kernel, rank=rank)
        self.backward_scan = Direction(inner, state=state, kernel=kernel, rank=rank)
        self.section_scan = Direction(inner, state=state, kernel=kernel, rank=rank)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor, *, chunks: int) -> Tensor:
        """Mix a sequence.

        Args:
            x: [B, L, C], x fastest.
            chunks: number of contiguous chunks (sections) the third order interleaves; divides L.

        Returns:
            [B, L, C].
        """
        inner, gate = self.in_proj(x).chunk(2, dim=-1)
        mixed = self.forward_scan(inner, gate, reverse=False, interleave=None)
        mixed = mixed + self.backward_scan(inner, gate, reverse=True, interleave=None)
        mixed = mixed + self.section_scan(inner, gate, reverse=False, interleave=chunks)
        return self.out_proj(mixed)


class MambaLayer(nn.Module):
    """Layer norm, tri-oriented Mamba over the flattened volume, and a residual where asked."""

    def __init__(self, channels: int, *, state: int, kernel: int) -> None:
        """``channels`` C of the stage."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = TriOrientedMamba(channels, state=state, kernel=kernel)

    def forward(self, x: Tensor, *, chunks: int, residual: bool) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        sequence = x.flatten(2).transpose(1, 2)
        mixed = self.mamba(self.norm(sequence), chunks=chunks)
        mixed = mixed + sequence if residual else mixed
        return mixed.transpose(1, 2).reshape(x.shape)
