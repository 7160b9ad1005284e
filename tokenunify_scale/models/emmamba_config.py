"""What an EMmamba is made of: widths, depths, the habits of the release, and the paper's sizes."""

from dataclasses import dataclass, fields, replace
from typing import Literal


@dataclass(frozen=True)
class Habits:
    """The four things that the release does and we do otherwise; none changes a parameter."""

    sections: Literal["mean", "stride", "keep"]
    """How a stage halves its sections: the mean of each pair, or every second one unseen; or
    that it keeps them all."""

    mixing: Literal["residual", "plain"]
    """Whether a Mamba layer is added to its input or takes its place."""

    interleave: Literal["sections", "fifths"]
    """What the third scan interleaves: the sections of a stage, or five chunks everywhere."""

    crops: Literal["padded", "exact"]
    """Whether a crop of other sides is padded or refused."""


PRESETS = {
    "default": Habits("mean", "residual", "sections", "padded"),
    "official": Habits("stride", "plain", "fifths", "exact"),
}


@dataclass(frozen=True, kw_only=True)
class EMmambaConfig:
    """Widths and depths of a network, and which of the release's habits it keeps."""

    features: tuple[int, int, int, int]
    """Channels of the four encoder stages."""

    hidden: int
    """Channels of the bottleneck."""

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Mamba layers of each stage."""

    state: int = 16
    """State size N of the selective scan."""

    kernel: int = 4
    """Taps of the causal convolution."""

    skip_kernel: int = 5
    """Side of the in-plane kernels of skip encoders and decoder, an odd number."""

    preset: Literal["default", "official"] = "default"
    """``official`` is the release to the letter; ``default`` mends what it gets wrong."""

    sections: Literal["mean", "stride", "keep"] | None = None
    """How sections are halved: mean of each pair, or every second one unseen; ``keep`` neither
    halves nor pads them (photographs, which have one); else by preset."""

    mixing: Literal["residual", "plain"] | None = None
    """Whether Mamba layers have a residual around them; else by preset."""

    interleave: Literal["sections", "fifths"] | None = None
    """What the third scan interleaves: sections, or five chunks at every stage; else by preset."""

    crops: Literal["padded", "exact"] | None = None
    """What becomes of crops of other sides: padded, or refused; else by preset."""

    def __post_init__(self) -> None:
        """Refuse empty layers, and kernels without a middle."""
        counts = (*self.features, self.hidden, *self.depths, self.state, self.kernel)
        if min(counts) < 1:
            raise ValueError(f"features, hidden, depths, state and kernel must be >= 1: {counts}")
        if self.skip_kernel < 1 or self.skip_kernel % 2 == 0:
            raise ValueError(f"skip_kernel must be odd and >= 1, got {self.skip_kernel}")

    @property
    def habits(self) -> Habits:
        """What the preset says, where no field of this config says otherwise."""
        said = {f.name: getattr(self, f.name) for f in fields(Habits)}
        return replace(PRESETS[self.preset], **{k: v for k, v in said.items() if v is not None})


SIZES = {
    "tiny": EMmambaConfig(features=(32, 64, 128, 256), hidden=512),
    "small": EMmambaConfig(features=(64, 128, 256, 512), hidden=1024),
    "middle": EMmambaConfig(features=(96, 192, 384, 768), hidden=1024),
    "large": EMmambaConfig(features=(144, 288, 576, 1104), hidden=2048),
    "huge": EMmambaConfig(features=(192, 384, 768, 1536), hidden=3072),
}
SMALL_SIZES = {
    "atto": EMmambaConfig(features=(4, 8, 16, 32), hidden=64),
    "femto": EMmambaConfig(features=(8, 16, 32, 64), hidden=128),
    "pico": EMmambaConfig(features=(12, 24, 48, 96), hidden=192),
    "nano": EMmambaConfig(features=(16, 32, 64, 128), hidden=256),
}
WIDEST = 4096  # of a first stage; its network has 4.6e11 parameters


def of_width(width: int) -> EMmambaConfig:
    """A rung between the sizes: ``width`` channels in the first stage, twice as many in each next.

    The bottleneck has 16 times as many. atto, femto, pico, nano, tiny and small are such networks,
    of width 4, 8, 12, 16, 32 and 64; those above have a bottleneck of their own.

    Raises:
        ValueError: a width below 1 or above ``WIDEST``.
    """
    if not 1 <= width <= WIDEST:
        raise ValueError(f"the width is 1 to {WIDEST}, got {width}")
    features = (width, 2 * width, 4 * width, 8 * width)
    return EMmambaConfig(features=features, hidden=16 * width)


def size_above(config: EMmambaConfig) -> str:
    """The smallest named size that is at least as wide; the largest one where none is."""
    sizes = {**SMALL_SIZES, **SIZES}
    wide = [size for size, each in sizes.items() if each.features[0] >= config.features[0]]
    return (wide or list(sizes))[0 if wide else -1]
