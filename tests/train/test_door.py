import logging
import sys

import pytest
from torch import nn

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.train import door
from tokenunify_scale.train.strategy import MICRO

NETWORK = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))


def on_disk(folder):
    place = {"device": "nvme", "nvme_path": str(folder)}
    return {MICRO: 1, "zero_optimization": {"stage": 3, "offload_optimizer": place}}


def test_the_package_is_quiet():
    assert door.deepspeed().__name__ == "deepspeed"
    assert logging.getLogger("DeepSpeed").level == logging.ERROR


def test_a_host_without_deepspeed_is_told_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(HostError, match="pip install deepspeed"):
        door.deepspeed()


def test_a_host_that_cannot_keep_state_on_a_disk_is_told_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setattr(door.shutil, "which", lambda name: None)
    with pytest.raises(HostError, match="async_io cannot be built here: apt install libaio-dev"):
        door.require(on_disk(tmp_path), NETWORK)


def test_what_stays_in_memory_needs_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    cpu = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    door.require({MICRO: 1, "zero_optimization": cpu}, NETWORK)


def test_16_bit_weights_are_not_given_to_batch_norms():
    narrow = {MICRO: 1, "zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}
    with pytest.raises(ConfigError, match="batch norms such as 1 do not take: take torch_autocast"):
        door.require(narrow, NETWORK)
    door.require(narrow, NETWORK[0])
