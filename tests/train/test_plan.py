from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.memory import SLACK
from tokenunify_scale.train.plan import job_size, training_plan
from tokenunify_scale.train.strategy import MICRO, ds_config


class Exponential(nn.Module):
    """1000 weights, and two maps of a crop at most."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1000, device="meta"))

    def forward(self, batch, *, progress):
        return SimpleNamespace(loss=(self.weight * batch["crops"]).exp().sum())


def whole(*, stage=0, world=1, hosts=1, micro=2, accelerated=False, **changes):
    strategy = {MICRO: micro, "zero_optimization": {"stage": stage}}
    config = ds_config(strategy, global_batch=micro * world, clip=1.0, world=world)
    return training_plan(
        {**config, **changes},
        objective=Exponential(),
        crop=(1, 100, 100, 1000),
        world=world,
        hosts=hosts,
        steps=3600,
        parameters=1000,
        gmac=1000.0,
    )


def test_a_plan_is_memory_traffic_time_and_what_fits():
    plan = whole(stage=3, world=4, hosts=2)
    rows = plan["memory_per_rank_GiB"]
    states = ["parameters", "gradients", "optimizer", "activations", "buckets", "gathered"]
    assert [*rows] == [*states, "temporaries", "slack", "process", "total"]
    assert rows["total"] == pytest.approx(sum(rows.values()) - rows["total"], abs=0.01)
    assert "backward pass" in plan["memory_is_of"]
    assert plan["ranks"] == 4 and plan["hosts"] == 2 and plan["parameters"] == "1,000"
    assert [*plan["sent_per_rank_and_step_GiB"]] == ["reduce_scatter", "all_gather", "total"]
    assert plan["TFLOP_per_step"] == 2e-3 * 3 * 1000 * 8


def test_activations_grow_with_the_micro_batch_and_so_less_fits_a_smaller_gpu():
    fits = whole()["largest_micro_batch_by_GPU_GiB"]
    assert [*fits] == ["24", "40", "48", "80", "141"]
    # A crop of ten million voxels has two maps of 40 MB.
    assert fits["24"] == pytest.approx((24 - 1) * 2**30 / ((1 + SLACK["cuda"]) * 8e7), rel=0.01)
    assert fits["80"] == pytest.approx(fits["24"] * 79 / 23, rel=0.05)
    assert whole(micro=4)["largest_micro_batch_by_GPU_GiB"]["24"] == pytest.approx(
        fits["24"], abs=1
    )


def test_the_time_says_all_that_was_assumed():
    alone = whole()["time_estimate"]
    seconds = 2e-3 * 3 * 1000 * 2 / (0.3 * 312)
    assert alone.startswith(f"{seconds:.3g} s a step, {seconds:.3g} h in all")
    assert "30% of 312 TFLOP/s a rank" in alone and "0 s to send" in alone
    assert "assumed, not measured" in alone and "25 GB/s a host" in whole(world=2, hosts=2)[
        "time_estimate"]  # fmt: skip


def test_a_hostfile_says_how_many_ranks_a_job_would_have(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=8\nnode2 slots=8\n")
    assert job_size(hosts, expected=None, started=1) == (16, 2)
    assert job_size(hosts, expected=16, started=1) == (16, 2)
    assert job_size(None, expected=4, started=1) == (4, 1)
    assert job_size(None, expected=None, started=2) == (2, 1)
    with pytest.raises(ConfigError, match="expect_world is 8, and .*hosts has 16 slots"):
        job_size(hosts, expected=8, started=1)
