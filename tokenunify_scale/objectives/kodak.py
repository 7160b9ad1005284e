"""What the paper reports on the Kodak images: PSNR in dB of each, by objective and patch size.

Source: the paper's Kodak study, natural images kodim01 to kodim24.
"""

import re
from collections.abc import Sequence

COLUMNS = ("autoregress_16", "tokenunify_16", "autoregress_8", "tokenunify_8")
"""Objective, and side of the patch in pixels."""

# fmt: off
PSNR = {
    1: (19.249, 21.549, 21.247, 21.990),
    2: (24.662, 27.321, 27.269, 27.799),
    3: (22.665, 27.113, 26.851, 28.110),
    4: (22.353, 26.152, 25.466, 26.713),
    5: (15.353, 18.859, 18.437, 19.847),
    6: (20.139, 22.376, 21.661, 23.064),
    7: (19.990, 23.170, 23.334, 24.479),
    8: (15.146, 18.169, 17.829, 18.770),
    9: (22.080, 24.918, 24.959, 25.957),
    10: (22.239, 25.213, 25.042, 25.936),
    11: (20.289, 22.536, 22.638, 23.723),
    12: (21.854, 25.929, 25.806, 27.005),
    13: (15.946, 18.494, 17.657, 18.969),
    14: (18.107, 21.227, 20.696, 22.195),
    15: (20.750, 24.659, 25.321, 26.111),
    16: (23.216, 25.887, 25.334, 26.694),
    17: (20.672, 24.346, 24.220, 25.614),
    18: (19.959, 22.017, 21.249, 22.336),
    19: (22.394, 25.062, 24.094, 25.384),
    20: (21.478, 24.723, 24.124, 25.346),
    21: (17.503, 20.149, 19.567, 20.366),
    22: (19.947, 23.003, 22.365, 23.545),
    23: (17.807, 20.315, 19.781, 20.959),
    24: (22.111, 24.780, 24.313, 25.472),
}
# fmt: on
"""Of image 1 to 24, in the order of ``COLUMNS``."""


def kodak_numbers(names: Sequence[str]) -> list[int] | None:
    """Numbers of the Kodak images that names stand for; None where they are other images.

    Args:
        names: without endings: some of kodim01 to kodim24, or all of 1 to 24.
    """
    found = [re.fullmatch(r"(kodim)?0*(\d{1,2})", name) for name in names]
    if not names or not all(found):
        return None
    numbers = [int(match[2]) for match in found]
    named = all(match[1] for match in found) and set(numbers) <= set(PSNR)
    whole = sorted(numbers) == sorted(PSNR)
    return numbers if named or whole else None


def published(names: Sequence[str]) -> dict[str, list[float]]:
    """The paper's PSNR in dB by column, one for each of the named images; empty for others."""
    numbers = kodak_numbers(names)
    if numbers is None:
        return {}
    return {name: [PSNR[n][i] for n in numbers] for i, name in enumerate(COLUMNS)}
