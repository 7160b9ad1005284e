"""The released network, written from its layer list with plain torch layers: an oracle for tests.

Its state dict has the released keys. Norms and activations are called, not modules, where they have
no parameters. The scan is a loop in float64. Nothing of tokenunify_scale is used.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNKS = 5  # of the inter-slice order
WAYS = ("", "_b", "_s")  # forward, backward, inter-slice
norm = functional.instance_norm


class Mixer(nn.Module):
    """Three selective scans of one projection, summed."""

    def __init__(self, c, *, state=16, taps=4):
        super().__init__()
        e, rank = 2 * c, math.ceil(c / 16)
        self.in_proj = nn.Linear(c, 2 * e, bias=False)
        self.out_proj = nn.Linear(e, c, bias=False)
        for way in WAYS:
            setattr(self, f"conv1d{way}", nn.Conv1d(e, e, taps, groups=e, padding=taps - 1))
            setattr(self, f"x_proj{way}", nn.Linear(e, rank + 2 * state, bias=False))
            setattr(self, f"dt_proj{way}", nn.Linear(rank, e))
            rows = torch.arange(1, state + 1).log().repeat(e, 1)
            self.register_parameter(f"A{way}_log", nn.Parameter(rows))
            self.register_parameter(f"D{way}", nn.Parameter(torch.ones(e)))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, C] to the same shape."""
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        batch, length, e = x.shape
        total = self.direction(x, z, "")
        total = total + self.direction(x.flip(1), z.flip(1), "_b").flip(1)
        mixed = [t.view(batch, CHUNKS, -1, e).transpose(1, 2).reshape(x.shape) for t in (x, z)]
        third = self.direction(*mixed, "_s")
        third = third.view(batch, -1, CHUNKS, e).transpose(1, 2).reshape(x.shape)
        return self.out_proj(total + third)

    def direction(self, x: Tensor, z: Tensor, way: str) -> Tensor:
        """One gated scan of [B, L, E], in the order given."""
        conv, x_proj, dt_proj = (
            getattr(self, f"{n}{way}") for n in ("conv1d", "x_proj", "dt_proj")
        )
        u = functional.silu(conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        state = getattr(self, f"A{way}_log").shape[1]
        dt, b, c = x_proj(u).split([dt_proj.in_features, state, state], dim=-1)
        dt = functional.softplus(dt_proj(dt))
        y = scan(u, dt, -getattr(self, f"A{way}_log").exp(), b, c)
        return (y + getattr(self, f"D{way}") * u) * functional.silu(z)


def scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """h = exp(dt A) h + dt B u, y = C h, step by step, of [B, L, E], [E, N] and [B, L, N]."""
    kind, (u, dt, a, b, c) = u.dtype, (t.double() for t in (u, dt, a, b, c))
    h, outputs = torch.zeros(u.shape[0], *a.shape, dtype=torch.double), []
    for decay, inflow, read in zip(
        (dt[..., None] * a).exp().unbind(1),
        ((dt * u)[..., None] * b[:, :, None]).unbind(1),
        c.unbind(1),
        strict=True,
    ):
        h = decay * h + inflow
        outputs.append((h @ read[..., None])[..., 0])
    return torch.stack(outputs, 1).to(kind)


class Layer(nn.Module):
    """A layer norm and a mixer over the flattened volume, without residual."""

    def __init__(self, c, **sizes):
        super().__init__()
        self.norm, self.mamba = nn.LayerNorm(c), Mixer(c, **sizes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        tokens = x.flatten(2).transpose(1, 2)
        return self.mamba(self.norm(tokens)).transpose(1, 2).reshape(x.shape)


class Gate(nn.Module):
    """The gated spatial convolution."""

    def __init__(self, c):
        super().__init__()
        self.proj, self.proj2 = (nn.Conv3d(c, c, 3, padding=1) for _ in range(2))
        self.proj3, self.proj4 = (nn.Conv3d(c, c, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        spatial = norm(self.proj(x)).relu()
        spatial = norm(self.proj2(spatial)).relu()
        return x + norm(self.proj4(spatial + norm(self.proj3(x)).relu())).relu()


class Lateral(nn.Module):
    """What a stage hands to the decoder."""

    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv3d(c, 2 * c, 1), nn.Conv3d(2 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same shape."""
        return self.fc2(functional.gelu(self.fc1(norm(x))))


class Encoder(nn.Module):
    """Four stages, each halving all sides, and what each hands over."""

    def __init__(self, inputs, widths, depth, **sizes):
        super().__init__()
        stem = nn.Conv3d(inputs, widths[0], (1, 7, 7), stride=2, padding=(0, 3, 3))
        self.downsample_layers = nn.ModuleList([nn.Sequential(stem)])
        for before, after in zip(widths, widths[1:], strict=False):
            down = nn.Conv3d(before, after, (1, 2, 2), stride=2)
            self.downsample_layers.append(nn.Sequential(nn.InstanceNorm3d(before), down))
        self.gscs = nn.ModuleList(Gate(c) for c in widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Layer(c, **sizes) for _ in range(depth))) for c in widths
        )
        self.mlps = nn.ModuleList(Lateral(c) for c in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Four maps, fine to coarse."""
        maps = []
        for i in range(4):
            x = self.stages[i](self.gscs[i](self.downsample_layers[i](x)))
            maps.append(self.mlps[i](x))
        return maps


class Wrapped(nn.Module):
    """A convolution one name deeper, as MONAI has them."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.conv(x)


class Res(nn.Module):
    """MONAI's residual block of U-Net blocks, with in-plane kernels."""

    def __init__(self, i, o, kernel):
        super().__init__()
        shape = {"kernel_size": (1, kernel, kernel), "padding": (0, kernel // 2, kernel // 2)}
        self.conv1 = Wrapped(nn.Conv3d(i, o, **shape, bias=False))
        self.conv2 = Wrapped(nn.Conv3d(o, o, **shape, bias=False))
        if i != o:
            self.conv3 = Wrapped(nn.Conv3d(i, o, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, i, D, H, W] to [B, o, D, H, W]."""
        y = functional.leaky_relu(norm(self.conv1(x)), 0.01)
        shortcut = norm(self.conv3(x)) if hasattr(self, "conv3") else x
        return functional.leaky_relu(norm(self.conv2(y)) + shortcut, 0.01)


class Skip(nn.Module):
    """A residual block one name deeper."""

    def __init__(self, i, o, kernel):
        super().__init__()
        self.layer = Res(i, o, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[B, i, D, H, W] to [B, o, D, H, W]."""
        return self.layer(x)


class Up(nn.Module):
    """Double all sides and refine with what was handed over."""

    def __init__(self, i, o, kernel):
        super().__init__()
        self.transp_conv = Wrapped(nn.ConvTranspose3d(i, o, 2, stride=2, bias=False))
        self.conv_block = Res(2 * o, o, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, i, D, H, W] and [B, o, 2D, 2H, 2W] to the latter's shape."""
        return self.conv_block(torch.cat([self.transp_conv(x), skip], dim=1))


class Network(nn.Module):
    """The released network of any widths, depth, skip kernel and state."""

    def __init__(self, widths, hidden, *, depth=2, kernel=5, inputs=1, outputs=3, **sizes):
        super().__init__()
        f0, f1, f2, f3 = widths
        self.vit = Encoder(inputs, widths, depth, **sizes)
        pairs = [(inputs, f0), (f0, f1), (f1, f2), (f2, f3), (f3, hidden)]
        for k, (i, o) in enumerate(pairs, start=1):
            setattr(self, f"encoder{k}", Skip(i, o, kernel))
        for k, (i, o) in enumerate([(f1, f0), (f2, f1), (f3, f2), (hidden, f3)], start=2):
            setattr(self, f"decoder{k}", Up(i, o, kernel))
        self.decoder1 = Skip(f0, f0, kernel)
        self.out = nn.Module()
        self.out.conv = Wrapped(nn.Conv3d(f0, outputs, 1))

    def forward(self, crops: Tensor) -> Tensor:
        """[B, inputs, D, H, W] to [B, outputs, D, H, W] in (0, 1)."""
        maps = self.vit(crops)
        x = self.encoder5(maps[3])
        x = self.decoder5(x, self.encoder4(maps[2]))
        x = self.decoder4(x, self.encoder3(maps[1]))
        x = self.decoder3(x, self.encoder2(maps[0]))
        x = self.decoder2(x, self.encoder1(crops))
        return torch.sigmoid(self.out.conv(self.decoder1(x)))


def network(widths=(4, 8, 16, 32), hidden=64, *, seed=0, **options) -> Network:
    """A network all of whose tensors are drawn, so that no two directions are alike."""
    torch.manual_seed(seed)
    drawn = Network(widths, hidden, **options)
    with torch.no_grad():
        for parameter in drawn.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return drawn.eval()
