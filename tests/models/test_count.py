from pathlib import Path

import pytest
import torch
from torch import nn

from tokenunify_scale.models import build_model
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.mamba import TriOrientedMamba

STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    return int(STATM.read_text().split()[1]) * 4096 / 2**20


def test_a_convolution_costs_taps_times_channels_times_voxels():
    conv = nn.Conv3d(2, 3, (1, 3, 5), padding=(0, 1, 2), device="meta")
    counted = cost(conv, crop=(4, 6, 8), in_channels=2)
    assert counted.gmac * 1e9 == pytest.approx(4 * 6 * 8 * 15 * 2 * 3)
    assert counted.parameters == 15 * 2 * 3 + 3
    assert counted.activation_bytes == 2 * 4 * 6 * 8 * 4  # the input, for the weights' gradient


def test_what_is_saved_twice_is_counted_once_and_weights_are_not():
    class Square(nn.Module):
        """x -> (w x) * (w x), the second factor a view: one storage, saved twice."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, device="meta"))

        def forward(self, x):
            scaled = self.weight * x
            return scaled * scaled[:]

    counted = cost(Square(), crop=(2, 3, 4))
    assert counted.activation_bytes == 2 * 24 * 4  # x and the product
    assert counted.gmac == 0


@pytest.mark.parametrize("size, reference", [("tiny", 116), ("huge", 4168)])
def test_a_network_of_the_paper_costs_what_its_release_does_and_the_scans(size, reference):
    with torch.device("meta"):
        model = build_model(f"emmamba_{size}", preset="official")
    tokens, inside = 8 * 80 * 80, 0
    for stage in model.stages:
        for mixer in (s for s in stage.modules() if isinstance(s, TriOrientedMamba)):
            # The release's fused kernel hides all this from whoever counts its layers.
            maps = mixer.x_proj.numel() + mixer.dt_proj.numel() + mixer.conv1d.numel()
            scans = (9 * mixer.A_log.numel() + 2 * mixer.D.numel()) / 2
            inside += tokens * (maps + scans)
        tokens //= 8
    counted = cost(model, crop=(16, 160, 160))
    assert round(counted.gmac - inside / 1e9) == reference and inside > 0


def test_every_section_costs_the_default_preset_nothing_more():
    with torch.device("meta"):
        models = [build_model("emmamba_tiny", preset=p) for p in ("official", "default")]
    official, default = (cost(model, crop=(16, 160, 160)).gmac for model in models)
    assert default == official


def test_cost_grows_with_the_crop():
    with torch.device("meta"):
        model = build_model("emmamba_atto")
    small, large = (cost(model, crop=crop) for crop in ((16, 32, 32), (16, 64, 64)))
    assert large.gmac == pytest.approx(4 * small.gmac)
    assert large.activation_bytes == pytest.approx(4 * small.activation_bytes, rel=0.05)


@pytest.mark.skipif(not STATM.is_file(), reason="resident memory is read from /proc")
def test_counting_the_largest_network_allocates_nothing():
    with torch.device("meta"):
        cost(build_model("emmamba_atto"), crop=(16, 32, 32))  # imports and caches
        before = resident_mib()
        counted = cost(build_model("emmamba_huge"), crop=(16, 160, 160))
    assert counted.parameters > 1e9 and counted.activation_bytes > 2**33
    assert resident_mib() - before < 100
