from pathlib import Path

import pytest
import torch
from torch import nn

from tokenunify_scale.models import build_model
from tokenunify_scale.models.count import block_costs, cost
from tokenunify_scale.models.mamba import TriOrientedMamba
from tokenunify_scale.models.recompute import recompute, recomputed

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


class Chain(nn.Module):
    """Two blocks, each of which keeps three maps: its input, the product and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Squares(), Squares()

    def blocks(self):
        return {"square1": [self.first], "square2": [self.second]}

    def forward(self, x):
        return self.second(self.first(x))


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (self.weight * x).square().square()


@pytest.mark.parametrize(
    "names, maps",
    # When the second block's turn comes, all of the first is there; when the first one's does,
    # nothing of the second. So what is saved by the second alone is of no use.
    [([], 6), (["square1"], 4), (["square2"], 6), (["square"], 4)],
)
def test_a_block_that_is_computed_again_counts_when_its_turn_comes(names, maps):
    with torch.device("meta"):
        model = Chain()
    recompute(model, names)
    assert cost(model, crop=(2, 3, 4)).activation_bytes == maps * 24 * 4
    assert recomputed(model) == ([*model.blocks()] if names == ["square"] else names)
    blocks = block_costs(model, crop=(2, 3, 4))
    assert [*blocks] == ["square1", "square2"]
    assert all(each.activation_bytes == 2 * 24 * 4 for each in blocks.values())


@pytest.mark.parametrize("names", [["decoder2"], ["mamba", "encoder1"], ["all"]])
def test_what_is_saved_is_what_autograd_no_longer_keeps(names):
    with torch.device("meta"):
        model = build_model("emmamba_atto")
    recompute(model, names)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    crops = torch.empty(1, 1, 16, 64, 64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(crops)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    found = sum(size for key, size in kept.items() if key not in weights)
    again, blocks = recomputed(model), block_costs(model, crop=(16, 64, 64))
    recompute(model, [])
    whole = cost(model, crop=(16, 64, 64))
    if len(again) == 1:
        assert whole.activation_bytes - found == blocks[again[0]].activation_bytes
    recompute(model, again)
    most = cost(model, crop=(16, 64, 64))
    assert found <= most.activation_bytes < whole.activation_bytes and output.is_meta
    assert most.gmac == whole.gmac and recomputed(model) == again


def test_blocks_of_the_papers_network_share_out_nearly_all_of_its_work():
    with torch.device("meta"):
        model = build_model("emmamba_tiny")
    blocks, whole = block_costs(model, crop=(16, 160, 160)), cost(model, crop=(16, 160, 160))
    work = sum(each.gmac for each in blocks.values())
    assert 0.95 * whole.gmac < work < whole.gmac
    # Mamba layers are the cheapest to compute again, for what they keep.
    gain = {name: each.activation_bytes / each.gmac for name, each in blocks.items()}
    assert gain["mamba1"] > 2 * gain["encoder1"] > 2 * gain["decoder2"]
