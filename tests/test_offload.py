"""Every ZeRO stage, offload and precision learns what one process learns, and goes on from a save.

The real objective and network in the engine, 20 steps each, on one and on two ranks.
"""

import json
import os
import socket
import subprocess
import sys

import pytest
from torch import nn

from tokenunify_scale.config import HostError
from tokenunify_scale.train.door import require

pytestmark = pytest.mark.slow

# Each setting trains 20 steps of two crops, one a micro-batch, and saves itself after 15; then a
# fresh engine takes up the save and does the last five again.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
import torch
from tokenunify_scale.models.emmamba import SMALL_SIZES
from tokenunify_scale.config import Named
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.objectives import build_objective
from tokenunify_scale.objectives.tokenunify import TokenUnifyConfig
from tokenunify_scale.train.distributed import sum_over_ranks
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.optim import OptimConfig
from tokenunify_scale.train.strategy import MICRO, ds_config

warnings.simplefilter("ignore")
OPTIM = OptimConfig(lr=1e-4, clip=1.0)
folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
world = join()

def build(setting):
    strategy = {MICRO: 1, **setting}
    config = ds_config(strategy, global_batch=2, clip=OPTIM.clip, world=world.size)
    chosen = Named("emmamba_atto", SMALL_SIZES["atto"])
    with torch.device("meta"):
        network = build_chosen(chosen, in_channels=1, out_channels=1)
        options = TokenUnifyConfig(patch=(4, 8, 8), head="dense")
        objective = build_objective(
            Named("tokenunify", options), backbone=network, seed=0, channels=1
        )
    return Engine(objective, optim=OPTIM, config=config, world=world)

def batches_of(step):
    parts = []
    for position in range(2 * step, 2 * step + 2)[world.rank::world.size]:
        generator = torch.Generator().manual_seed(position)
        coarse = torch.rand(1, 1, 4, 8, 8, generator=generator)
        # Not smaller: norms over the four voxels of the bottleneck would turn the last bit of a
        # product, which depends on the alignment of its weights, into 2e-4 of a loss.
        crop = torch.nn.functional.interpolate(coarse, size=(8, 32, 64), mode="trilinear")
        parts.append({"crops": (255 * crop).byte(), "positions": torch.tensor([position])})
    return parts

def train(engine, steps):
    losses = []
    for step in steps:
        batches = batches_of(step)
        done = engine.step(batches, lr=1e-4, progress=step / 20, accept=lambda loss: True)
        losses.append(float(sum_over_ranks(done.loss.clone())) / world.size)
    return losses

for name, setting in settings.items():
    engine = build(setting)
    losses = train(engine, range(15))
    engine.save(folder / name, tag="save", state={})
    losses += train(engine, range(15, 20))
    kinds = sorted({str(p.dtype) for p in engine.objective.parameters()})
    again = []
    if "nvme" not in json.dumps(setting):  # which DeepSpeed does not restore
        engine = build(setting)
        engine.load(folder / name, tag="save")
        again = train(engine, range(15, 20))
    weights = engine.weights(engine.objective.backbone)
    report = {"name": name, "losses": losses, "again": again, "kinds": kinds}
    report["fine"] = sum(bool((w.bfloat16().float() != w).any()) for w in weights.values())
    print("REPORT " + json.dumps(report), flush=True)
engine.close()
"""

CPU = {"offload_optimizer": {"device": "cpu"}}
BOTH = {**CPU, "offload_param": {"device": "cpu"}}
WIDE = {
    **{f"stage {stage}": {"zero_optimization": {"stage": stage}} for stage in range(4)},
    "stage 1, optimizer offloaded": {"zero_optimization": {"stage": 1, **CPU}},
    "stage 2, optimizer offloaded": {"zero_optimization": {"stage": 2, **CPU}},
    "stage 3, optimizer offloaded": {"zero_optimization": {"stage": 3, **CPU}},
    "stage 3, all offloaded": {"zero_optimization": {"stage": 3, **BOTH}},
}
NARROW = {
    f"bf16, {name}": {"bf16": {"enabled": True}, **setting}
    for name, setting in WIDE.items()
    if name != "stage 0" and "optimizer" not in name
}
ON_TWO = [*(f"stage {stage}" for stage in range(4)), "stage 3, all offloaded", "bf16, stage 3"]
SHARED = {name: {**WIDE, **NARROW}[name] for name in ON_TWO}
CASES = [*(("one", name) for name in {**WIDE, **NARROW}), *(("two", name) for name in SHARED)]


def disk(folder):
    """Optimizer and parameters on a disk."""
    place = {"device": "nvme", "nvme_path": str(folder)}
    return {"stage": 3, "offload_optimizer": place, "offload_param": place}


def run_ranks(folder, settings, *, ranks):
    """Rank 0's report of each setting."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    place |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), json.dumps(settings)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        ended = [(*process.communicate(timeout=900), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [code for *_, code in ended] == [0] * ranks, ended[0][1][-3000:]
    lines = [line for line in ended[0][0].splitlines() if line.startswith("REPORT ")]
    reports = [json.loads(line.removeprefix("REPORT ")) for line in lines]
    return {report["name"]: report for report in reports}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run_ranks(tmp_path_factory.mktemp("one"), {**WIDE, **NARROW}, ranks=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_ranks(tmp_path_factory.mktemp("two"), SHARED, ranks=2)


@pytest.mark.parametrize("ranks, name", [case for case in CASES if case[1] in WIDE])
def test_each_stage_and_offload_has_the_losses_of_one_process(request, one, ranks, name):
    found = request.getfixturevalue(ranks)[name]
    assert found["losses"] == pytest.approx(one["stage 0"]["losses"], rel=1e-4)
    assert found["kinds"] == ["torch.float32"]


@pytest.mark.parametrize("ranks, name", [case for case in CASES if case[1] in NARROW])
def test_16_bit_weights_learn_what_32_bit_weights_learn(request, one, ranks, name):
    found = request.getfixturevalue(ranks)[name]
    assert found["losses"] == pytest.approx(one["stage 0"]["losses"], rel=1e-2)
    assert found["kinds"] == ["torch.bfloat16"]
    assert found["losses"] != one["stage 0"]["losses"]
    assert found["fine"] > 0, "what is exported has 16 bits, not those of the fp32 copy"


@pytest.mark.parametrize("ranks, name", CASES)
def test_a_save_is_taken_up_as_if_nothing_had_been(request, ranks, name):
    found = request.getfixturevalue(ranks)[name]
    assert found["again"] == pytest.approx(found["losses"][15:], rel=1e-6)


def test_state_on_a_disk_learns_the_same(one, tmp_path):
    settings = {"nvme": {"zero_optimization": disk(tmp_path / "disk")}}
    try:
        require(settings["nvme"], nn.Identity())
    except HostError as error:
        pytest.skip(str(error))
    found = run_ranks(tmp_path, settings, ranks=2)["nvme"]
    assert found["losses"] == pytest.approx(one["stage 0"]["losses"], rel=1e-4)
