from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.train.atoms import Saved
from tokenunify_scale.train.portable import own_part, restore
from tokenunify_scale.train.zero_shards import Shard, pieces

PLAIN = {"zero_optimization": {"stage": 1}}


def network(*, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[3].weight = net[2].weight  # shared: one parameter under two names
    net[0].bias.requires_grad_(False)
    net.register_buffer("fleeting", torch.full((1,), float(seed)), persistent=False)
    return net


@pytest.fixture
def saved():
    """A network's state after some steps, as one rank without ZeRO keeps it."""
    net = network(seed=1)
    net(torch.rand(8, 2)).sum().backward()
    groups = [{name: p.shape} for name, p in net.named_parameters() if p.requires_grad]
    trained = [p.detach() for p in net.parameters() if p.requires_grad]
    states = [
        {"step": torch.tensor(9.0), "exp_avg": p.flatten() + 1, "exp_avg_sq": p.flatten() + 2}
        for p in trained
    ]
    shards = [Shard([p.flatten() for p in trained], states)]
    whole = net.state_dict()
    frozen = {name: (whole[name].shape, [whole[name]]) for name in ("0.bias", "3.weight")}
    return Saved(
        folder=Path("a"), stage=0, world=1, state={}, counts={}, frozen=frozen,
        shapes={name: shape for group in groups for name, shape in group.items()},
        buffers={name: whole[name] for name, _ in net.named_buffers() if name in whole},
        shards=shards, pieces=pieces(groups, shards, stage=0),
    )  # fmt: skip


def test_each_parameter_is_placed_once_with_its_moments_and_buffers_are_copied(saved):
    net, placed = network(seed=2), {}
    names = {parameter: name for name, parameter in net.named_parameters()}

    def place(parameter, atom):
        assert names[parameter] not in placed
        placed[names[parameter]] = atom
        parameter.data.copy_(atom.weight)

    restore(saved, net, settings=PLAIN, place=place)
    was = network(seed=1)
    assert placed.keys() == dict(was.named_parameters()).keys()
    for name, parameter in was.named_parameters():
        assert torch.equal(net.get_parameter(name), parameter)
        assert placed[name].step == (9 if parameter.requires_grad else None)
        if parameter.requires_grad:
            assert torch.equal(placed[name].moments["exp_avg"], parameter.detach() + 1)
            assert torch.equal(placed[name].moments["exp_avg_sq"], parameter.detach() + 2)
    assert net[1].num_batches_tracked == 1 and net.fleeting == 2
    assert torch.equal(net[1].running_mean, saved.buffers["1.running_mean"])


def refuse(parameter, atom):
    raise AssertionError("something was changed")


def test_another_network_is_refused_before_anything_is_changed(saved):
    wider = network(seed=2)
    wider[2] = nn.Linear(3, 4)
    with pytest.raises(DataError, match=r"such as 2.bias: saved \(3,\), here \(4,\)"):
        restore(saved, wider, settings=PLAIN, place=refuse)
    longer = nn.Sequential(*network(seed=2), nn.Linear(3, 3))
    with pytest.raises(DataError, match="2 trained parameters .* 4.bias: saved not one, here"):
        restore(saved, longer, settings=PLAIN, place=refuse)


def test_what_is_frozen_now_must_have_been_frozen_then(saved):
    net = network(seed=2)
    net[2].bias.requires_grad_(False)
    with pytest.raises(DataError, match=r"1 trained parameters differ .* 2.bias: saved \(3,\), he"):
        restore(saved, net, settings=PLAIN, place=refuse)


def test_a_buffer_that_was_not_saved_is_missed(saved):
    buffers = {name: buffer for name, buffer in saved.buffers.items() if "mean" not in name}
    with pytest.raises(DataError, match="1 buffers differ .* 1.running_mean: saved not one"):
        restore(replace(saved, buffers=buffers), network(seed=2), settings=PLAIN, place=refuse)


def test_a_run_with_state_on_nvme_takes_no_checkpoint_of_another_shape(saved):
    settings = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}
    with pytest.raises(ConfigError, match="offload_optimizer is on nvme"):
        restore(saved, network(seed=2), settings=settings, place=refuse)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_the_ranks_parts_are_the_whole_and_what_is_beyond_it_is_zero(world):
    whole = torch.arange(1.0, 11).view(2, 5)
    size = -(-10 // world)
    parts = [own_part(whole, rank=rank, size=size) for rank in range(world)]
    assert all(len(part) == size for part in parts)
    together = torch.cat(parts)
    assert torch.equal(together[:10], whole.flatten()) and not together[10:].any()


def test_a_part_wholly_beyond_the_end_is_zero():
    assert torch.equal(own_part(torch.ones(1), rank=3, size=1), torch.zeros(1))
