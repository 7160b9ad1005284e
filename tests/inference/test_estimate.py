import torch
from torch import nn

from tokenunify_scale import build_model
from tokenunify_scale.inference.estimate import network_peak, weight_bytes


def test_the_peak_of_a_network_is_what_it_holds_at_once():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 4, 1), nn.ReLU())
    voxels = 4 * 2 * 8 * 8 * 8  # bytes of a channel
    found = network_peak(model, batch=2, channels=1, seen=(8, 8, 8))
    assert 8 * voxels <= found <= 10 * voxels  # two maps of four channels, and the crop
    assert all(parameter.is_meta for parameter in model.parameters())


def test_networks_of_the_zoo_are_counted():
    with torch.device("meta"):
        model = build_model("emmamba_atto")
    small, large = (network_peak(model, batch=b, channels=1, seen=(8, 32, 32)) for b in (1, 2))
    assert 1.8 < large / small < 2.2
    assert weight_bytes(model) == 4 * sum(p.numel() for p in model.parameters())
