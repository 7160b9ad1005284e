"""What the paper prints of its networks, for tables beside our own counts."""

from dataclasses import dataclass

from tokenunify_scale.models.unetr import DEAD
from tokenunify_scale.registry import MODELS
from tokenunify_scale.volumes.geometry import Triple

CROP: Triple = (16, 160, 160)
UNETR = "Hatamizadeh et al. 2022 (UNETR)"


@dataclass(frozen=True)
class Published:
    """Figures of one network; None where the paper has none."""

    parameters: str | None = None
    """Parameters as printed, in millions."""

    gmac: float | None = None
    """Multiply-accumulates of one crop in 1e9, the x-axis of Figure 6."""

    crop: Triple = CROP
    """Size (z, y, x) in voxels of the crop it is trained on."""

    note: str = ""
    """What explains a difference from our count."""

    cite: str = "TokenUnify (ICCV 2025)"
    """Whose architecture it is."""


# Source: Tables 1, 6 and Figure 6; crops as in the release. Figure 6 says "100M" where Table 6 has
# the size whose total is nearest.
PUBLISHED = {
    "emmamba_tiny": Published("28.30"),
    "emmamba_small": Published("112.5", 503),
    "emmamba_middle": Published("206.6", 1125),
    "emmamba_large": Published("506.6", 2528),
    "emmamba_huge": Published("1008", 4524),
    "superhuman": Published("1.478", crop=(18, 160, 160), cite="Lee et al. 2017 (Superhuman)"),
    "mala": Published("84.02", crop=(53, 268, 268), cite="Funke et al. 2018 (MALA)"),
    "pea": Published("1.480", crop=(18, 160, 160), cite="Huang et al. 2022 (PEA)"),
    "unetr": Published(
        "129.1",
        crop=(32, 160, 160),
        note=f"129,071,547 in its release, {sum(DEAD.values()):,} of them in parts it never uses",
        cite=UNETR,
    ),
    "unetr_100m": Published("100", 561, cite=UNETR),
    "unetr_200m": Published("200", 1249, cite=UNETR),
    "unetr_500m": Published("500", 2892, cite=UNETR),
    "unetr_1b": Published("1000", 5024, cite=UNETR),
}


def published(name: str) -> Published:
    """The paper's figures of a registered network; of one it does not have, only a crop.

    Raises:
        ConfigError: unknown network.
    """
    return PUBLISHED.get(MODELS.get(name).name, Published())
