"""What a UNETR is made of: widths, depths, patches, and the rungs of Figure 6's ladder."""

from dataclasses import dataclass
from typing import Literal

from tokenunify_scale.volumes.geometry import Triple

STRIDE = 16  # of the token grid against what the decoder gives back: it doubles four times
SECTIONS = (2, 4, 8, 16)  # of a patch, such that a stride brings the decoder's back to the crop's


@dataclass(frozen=True, kw_only=True)
class UNETRConfig:
    """Sizes of the transformer and of the decoder."""

    hidden: int = 768
    """Width of a token."""

    layers: int = 12
    """Layers of the transformer."""

    heads: int = 8
    """Attention heads."""

    head: int = 64
    """Width of a head."""

    mlp: int = 2048
    """Width inside the MLP."""

    features: int = 16
    """Channels at the crop's resolution; twice, four and eight times as many below."""

    patch: Triple = (4, 16, 16)
    """Voxels of a patch, zyx: 16 in the plane, and 2, 4, 8 or 16 sections."""

    positions: Literal["none", "sincos"] = "none"
    """What tells tokens where they are: nothing, as in the release, or sines and cosines."""

    def __post_init__(self) -> None:
        """Refuse empty layers, and patches that the decoder cannot undo."""
        sizes = (self.hidden, self.layers, self.heads, self.head, self.mlp, self.features)
        if min(sizes) < 1:
            raise ValueError(f"hidden, layers, heads, head, mlp, features must be >= 1: {sizes}")
        if self.patch[0] not in SECTIONS or self.patch[1:] != (STRIDE, STRIDE):
            raise ValueError(
                f"patch is {self.patch}, must be (z, {STRIDE}, {STRIDE}) with z one of {SECTIONS}"
            )
        if self.positions not in ("none", "sincos"):
            raise ValueError(f"positions is {self.positions!r}, must be 'none' or 'sincos'")
        if self.positions == "sincos" and self.hidden < 6:
            raise ValueError(f"hidden is {self.hidden}: sines and cosines of z, y, x need 6")

    @property
    def taps(self) -> tuple[int, int, int]:
        """Layers, counted from 1, whose tokens join the decoder: one after each quarter."""
        return tuple(quarter * self.layers // 4 + 1 for quarter in (1, 2, 3))


RUNGS = {"100m": (640, 14, 76), "200m": (768, 20, 112), "500m": (1152, 22, 172),
         "1b": (1600, 24, 228)}  # fmt: skip
"""Hidden width, layers and features of the transformers of Figure 6.

# Paper: these networks are our design to match the figure's axis; it prints parameters and
multiply-accumulates of a 16x160x160 crop, and not how they are built. A parameter of the
transformer is used once for each of 400 tokens, one of the decoder up to once a voxel: so the
decoder's width sets the cost, and the transformer has the parameters that are left. These sizes
meet both figures (within 2 and 3 %) and grow from rung to rung.
"""
LADDER = {
    size: UNETRConfig(hidden=hidden, layers=layers, heads=hidden // 64, mlp=4 * hidden,
                      features=features, positions="sincos")
    for size, (hidden, layers, features) in RUNGS.items()
}  # fmt: skip
