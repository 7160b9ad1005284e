"""Numbers that the paper prints, held against what the code computes."""

import pytest
import torch

from tokenunify_scale.models import build_model
from tokenunify_scale.objectives.curriculum import Piecewise, piecewise
from tokenunify_scale.tokens.patches import patchify

TABLE_6 = {
    "tiny": 28_296_131,
    "small": 112_534_403,
    "middle": 206_577_475,
    "large": 506_567_395,
    "huge": 1_008_908_931,
}


@pytest.mark.parametrize("preset", ["default", "official"])
@pytest.mark.parametrize("size, total", TABLE_6.items())
def test_table_6_totals(size, total, preset):
    with torch.device("meta"):
        model = build_model(f"emmamba_{size}", preset=preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_a_crop_of_section_9_has_400_patches():
    crop = torch.zeros(1, 1, 16, 160, 160, dtype=torch.uint8)
    assert patchify(crop, patch=(4, 16, 16)).shape == (1, 400, 1024)


@pytest.mark.parametrize(
    "progress, weights",
    [
        (0.0, (0.73, 0.18, 0.09)),
        (0.29, (0.73, 0.18, 0.09)),
        (0.3, (0.18, 0.73, 0.09)),
        (0.69, (0.18, 0.73, 0.09)),
        (0.7, (0.09, 0.18, 0.73)),
        (1.0, (0.09, 0.18, 0.73)),
    ],
)
def test_equation_14_with_t1_and_t2_of_the_paper(progress, weights):
    assert piecewise(Piecewise(), progress=progress) == weights
