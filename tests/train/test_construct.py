import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from tokenunify_scale.config import build_named
from tokenunify_scale.models import build_model
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.train.construct import materialise

NETWORKS = {
    "emmamba": ("emmamba_atto", {}),
    "emmamba that keeps sections": ("emmamba_atto", {"sections": "keep"}),
    "superhuman": ("superhuman", {"widths": (4, 4, 8, 8, 8)}),
    "pea": ("pea", {"widths": (4, 4, 8, 8, 8)}),
    "mala": ("mala", {"widths": (2, 4, 6, 8)}),
    "unetr": ("unetr", {"hidden": 24, "layers": 4, "heads": 2, "head": 12, "features": 4}),
}
CHOICES = [
    {"name": "affinity"},
    {"name": "autoregressive", "fill": "learned"},
    {"name": "byol", "hidden": 8, "projection": 4},
    {"name": "dbmim", "masking": "policy"},
    {"name": "mae", "fill": "learned"},
    {"name": "ms_con_em"},
    {"name": "tokenunify", "fill": "learned"},
]


def network(kind: str, **channels: int) -> nn.Module:
    name, options = NETWORKS[kind]
    return build_model(name, **options, **channels)


def objective(choice: dict, kind: str = "emmamba") -> nn.Module:
    backbone = network(kind, out_channels=out_channels(choice["name"]))
    named = build_named(choice, OBJECTIVES, where="objective")
    return build_objective(named, backbone=backbone, seed=0)


def both(build) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    """Built plainly, and materialised from the same seed; and the units, as they were kept."""
    torch.manual_seed(7)
    plain, units = build(), []
    with torch.device("meta"):
        filled = build()
    assert all(tensor.is_meta for tensor in filled.state_dict().values())
    materialise(filled, seed=7, keep=units.append)
    return plain, filled, units


def assert_alike(plain: nn.Module, filled: nn.Module) -> None:
    expected, found = plain.state_dict(), filled.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    trained = [[p.requires_grad for p in each.parameters()] for each in (plain, filled)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_gets_the_numbers_of_plain_construction(kind):
    plain, filled, _ = both(lambda: network(kind))
    assert_alike(plain, filled)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice["name"])
@pytest.mark.parametrize("kind", ["emmamba", "superhuman"])
def test_an_objective_gets_the_numbers_of_plain_construction(choice, kind):
    plain, filled, _ = both(lambda: objective(choice, kind))
    assert_alike(plain, filled)


@pytest.mark.parametrize("kind", ["emmamba", "superhuman"])
def test_a_teacher_is_a_copy_that_shares_what_is_frozen(kind):
    _, filled, _ = both(lambda: objective({"name": "byol", "hidden": 8, "projection": 4}, kind))
    teacher, online = filled.target.network, filled.backbone
    shared = [a is b for a, b in zip(teacher.parameters(), online.parameters(), strict=True)]
    assert shared == [not parameter.requires_grad for parameter in online.parameters()]
    assert any(shared) and not all(shared)
    for mine, other in zip(teacher.parameters(), online.parameters(), strict=True):
        assert torch.equal(mine, other) and not mine.requires_grad


@pytest.mark.parametrize("kind, share", [("emmamba", 0.25), ("mala", 0.6), ("unetr", 0.4)])
def test_a_unit_is_a_part_of_the_network_and_all_units_are_all_of_it(kind, share):
    plain, _, units = both(lambda: network(kind))
    sizes = [sum(p.numel() for p in unit.parameters()) for unit in units]
    whole = sum(p.numel() for p in plain.parameters())
    assert sum(sizes) == whole and max(sizes) < share * whole


def test_each_unit_is_kept_before_the_next_has_memory():
    with torch.device("meta"):
        model = network("emmamba")
    seen = []

    def keep(unit: nn.Module) -> None:
        real = sum(p.numel() for p in model.parameters() if not p.is_meta)
        seen.append((real, sum(p.numel() for p in unit.parameters())))
        for parameter in unit.parameters():  # as ZeRO-3 does
            parameter.data = torch.empty(0)

    materialise(model, seed=0, keep=keep)
    assert len(seen) > 50 and all(real == own for real, own in seen)


def test_all_depends_on_the_seed_alone():
    builds = []
    for before in (1, 2):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        with torch.device("meta"):
            builds.append(network("emmamba"))
        materialise(builds[-1], seed=7)
        assert torch.equal(torch.get_rng_state(), state)
    assert_alike(*builds)
    with torch.device("meta"):
        other = network("emmamba")
    materialise(other, seed=8)
    assert not torch.equal(other.out.weight, builds[0].out.weight)


def test_what_has_memory_stays_as_it_is():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, device="meta"))
    before, kept = [*model[:2].parameters()], []
    materialise(model, seed=0, keep=kept.append)
    assert all(a is b for a, b in zip(model[:2].parameters(), before, strict=True))
    assert kept == [model[2]] and not model[2].weight.is_meta
    materialise(model, seed=1, keep=kept.append)
    assert len(kept) == 1


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))
        self.inside = nn.Linear(3, 3)


class Forgetful(Bare):
    def reset_parameters(self) -> None:
        self.inside.bias.data.zero_()


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize(
    "kind, words",
    [(Bare, "Bare leaves 0.weight unfilled"), (Forgetful, "Forgetful leaves 0.weight unfilled"),
     (Counter, "Counter leaves 0.count unfilled")],
)  # fmt: skip
def test_what_nothing_fills_is_an_error_that_names_it(kind, words):
    with torch.device("meta"):
        model = nn.Sequential(kind())
    with pytest.raises(TypeError, match=words):
        materialise(model, seed=0)


def test_a_unit_of_which_another_holds_a_part_is_refused():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    with pytest.raises(TypeError, match="Linear cannot be reset: 1.weight was filled before"):
        materialise(model, seed=0)


def test_given_tensors_take_the_place_of_drawn_ones_and_reach_the_teacher():
    choice = {"name": "byol", "hidden": 8, "projection": 4}
    drawn, filled, _ = both(lambda: objective(choice, "superhuman"))
    name = "backbone.trunk.embed_in.weight"
    given = {
        name: torch.rand_like(drawn.state_dict()[name]),
        "backbone.trunk.encoder.0.norm1.running_mean": torch.rand(4),
    }
    with torch.device("meta"):
        filled = objective(choice, "superhuman")
    materialise(filled, seed=7, given=given)
    for key, tensor in filled.state_dict().items():
        source = key.replace("target.network.", "backbone.")
        assert torch.equal(tensor, given.get(source, drawn.state_dict()[key])), key


@pytest.mark.parametrize(
    "given, words",
    [({"0.wieght": torch.ones(2, 2)}, "Sequential has no tensor 0.wieght"),
     ({"0.weight": torch.ones(2)}, r"0.weight is given with shape \(2,\), not \(3, 2\)")],
)  # fmt: skip
def test_given_tensors_that_do_not_fit_are_refused(given, words):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=words):
        materialise(model, seed=0, given=given)


# Two ranks: each unit is sharded by ZeRO-3 as soon as it is filled, and the first steps are those
# of a plain construction under stage 0.
SCRIPT = """
import json, os, sys, warnings
import torch
from tokenunify_scale.config import build_named
from tokenunify_scale.models import build_model
from tokenunify_scale.objectives import build_objective
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.train.construct import materialise
from tokenunify_scale.train.door import join

warnings.simplefilter("ignore")
world = join()
import deepspeed
STATUS = "/proc/self/status"

def mib(key):
    return int(next(line for line in open(STATUS) if line.startswith(key)).split()[1]) / 1024

def build(size, choice):
    named = build_named(choice, OBJECTIVES, where="objective")
    return build_objective(named, backbone=build_model(size, out_channels=1), seed=0)

def shard(config):
    def keep(unit):
        deepspeed.zero.Init(module=unit, config_dict_or_path=config)
    return keep

def config(stage):
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    return {"train_micro_batch_size_per_gpu": 1, "train_batch_size": 2,
            "gradient_accumulation_steps": 1, "zero_optimization": zero}

def losses(stage, choice):
    if stage == 0:
        torch.manual_seed(7)
        model = build("emmamba_atto", choice)
    else:
        with torch.device("meta"):
            model = build("emmamba_atto", choice)
        materialise(model, seed=7, keep=shard(config(3)))
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(trained, lr=1e-3), config=config(stage)
    )
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(5):
        crops = torch.rand(2, 1, 16, 32, 32, generator=generator)
        positions = torch.tensor([2 * step + world.rank])
        batch = {"crops": crops[world.rank :][:1], "positions": positions}
        loss = engine(batch, progress=step / 5).loss
        engine.backward(loss)
        engine.step()
        whole = loss.detach().clone()
        torch.distributed.all_reduce(whole)
        found.append(whole.item() / 2)
    return found

report = {"losses": {}}
for choice in ({"name": "mae", "fill": "learned"}, {"name": "byol", "hidden": 8, "projection": 4}):
    report["losses"][choice["name"]] = [losses(stage, choice) for stage in (0, 3)]
with torch.device("meta"):
    model = build("emmamba_tiny", {"name": "mae"})
before = mib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
materialise(model, seed=7, keep=shard(config(3)))
report["peak"] = mib("VmHWM") - before
report["model"] = sum(p.ds_numel for p in model.parameters()) / 2**18
if world.is_main:
    print("REPORT " + json.dumps(report))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isfile("/proc/self/clear_refs"), reason="peaks are read from /proc")
def test_two_ranks_shard_each_unit_at_once_and_train_as_if_they_had_not(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # Memory that is freed goes back at once, so that peaks are those of what is held.
    common |= {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{rank}.txt").open("w"),
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    errors = (tmp_path / "0.txt").read_text()[-3000:]
    assert not any(process.returncode for process in ranks), errors
    lines = [line for line in said[0].splitlines() if line.startswith("REPORT ")]
    report = json.loads(lines[0].removeprefix("REPORT "))
    for plain, sharded in report["losses"].values():
        assert sharded == pytest.approx(plain, rel=1e-4) and sharded[0] == pytest.approx(plain[0])
    # Half of the model, the largest unit, and DeepSpeed's own.
    assert report["peak"] < 0.85 * report["model"]
