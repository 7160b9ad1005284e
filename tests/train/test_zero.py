"""A step that is not taken leaves no trace; a checkpoint goes on at other stages and worlds."""

import json
import os
import socket
import subprocess
import sys

import pytest

# Each ZeRO stage trains for five steps of two micro-batches: once as it is, and once for each way
# in which a batch can be bad, with a bad step before the first and before the fourth.
SCRIPT = """
import json, math, sys, warnings
import torch
from torch import nn
from tokenunify_scale.objectives.output import LossOutput
from tokenunify_scale.train.distributed import sum_over_ranks
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.strategy import MICRO, ds_config
from tokenunify_scale.train.optim import OptimConfig

warnings.simplefilter("ignore")
OPTIM = OptimConfig(lr=0.1, clip=0.5, weight_decay=0.3)

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, x, factor):
        context.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0], None

class Objective(nn.Module):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), norm(8), nn.Linear(8, 4))

    def forward(self, batch, *, progress):
        first, norm, last = self.backbone
        hidden = norm(first(batch["crops"].flatten(1)) * batch["forward"])
        found = Backward.apply(last(hidden), batch["backward"])
        return LossOutput((found - batch["target"]).square().mean(), {})

def step_of(generator, bad=None):
    batches = []
    for part in range(2):
        crops = torch.randint(0, 256, (2, 1, 1, 2, 2), dtype=torch.uint8, generator=generator)
        batch = {"crops": crops, "target": 5 * torch.rand(2, 4, generator=generator)}
        # The last rank's first micro-batch is what is wrong.
        wrong = math.nan if part == 0 and world.rank == world.size - 1 else 1.0
        for way in ("forward", "backward"):
            batch[way] = torch.tensor(wrong if way == bad else 1.0)
        batches.append(batch)
    return batches

def state_of(engine):
    found = dict(engine.objective.named_buffers())
    for name, parameter in engine.objective.named_parameters():
        found[name] = getattr(parameter, "ds_tensor", parameter)
    outer = engine._engine.optimizer
    inner = getattr(outer, "optimizer", outer)
    for number, state in enumerate(inner.state.values()):
        found |= {f"{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return {name: value.detach().clone() for name, value in found.items()}

def left_behind(engine):
    outer, found = engine._engine.optimizer, []
    for name, parameter in engine.objective.named_parameters():
        held = [getattr(parameter, kind, None) for kind in ("grad", "grad_accum")]
        found += [name for gradient in held if gradient is not None]
    for kind in ("averaged_gradients", "all_grad_tensors"):
        held = getattr(outer, kind, {})
        found += [kind for value in held.values() if value is not None]
    flat = getattr(outer, "grad_partitions_flat_buffer", None)
    return found + (["flat"] if flat is not None and flat.any() else [])

def train(stage, bad):
    narrow = {"bf16": {"enabled": True}} if stage in NARROW else {}
    stage = NARROW.get(stage, stage)
    strategy = {MICRO: 2, "zero_optimization": {"stage": stage}, **narrow}
    config = ds_config(strategy, global_batch=4 * world.size, clip=OPTIM.clip, world=world.size)
    norm = nn.LayerNorm if narrow else nn.BatchNorm1d
    engine = Engine(Objective(norm), optim=OPTIM, config=config, world=world)
    generator = torch.Generator().manual_seed(5 + world.rank)
    losses, refused = [], []
    for number in range(5):
        if bad and number in (0, 3):
            batches = step_of(torch.Generator().manual_seed(99), bad)
            asked = []
            def accept(loss):
                asked.append(float(sum_over_ranks(loss.clone())))
                return bad != "refused" and math.isfinite(asked[-1])
            step = engine.step(batches, lr=0.05, progress=0.5, accept=accept)
            refused.append([step.applied, math.isfinite(asked[0]), left_behind(engine)])
        step = engine.step(step_of(generator), lr=0.05, progress=0.5, accept=lambda loss: True)
        losses.append(step.loss.item())
        assert step.applied and math.isfinite(step.grad_norm)
    return losses, state_of(engine), refused

world, NARROW = join(), {"bf16, 2": 2, "bf16, 3": 3}
for stage in (0, 1, 2, 3, *NARROW):
    losses, state, _ = train(stage, None)
    for bad in ("forward", "backward", "refused"):
        found, after, refused = train(stage, bad)
        same = state.keys() == after.keys() and all(torch.equal(state[k], after[k]) for k in state)
        report = {"stage": stage, "bad": bad, "losses": found == losses, "state": same}
        report |= {"refused": refused, "values": len(state)}
        print("REPORT " + json.dumps(report), flush=True)
torch.distributed.destroy_process_group()
"""


# A small training at each ZeRO stage, saved after three of its five steps; or, where worlds are
# named that did so, all of their saves taken up by engines of other weights at each stage.
MOVED = """
import json, sys, warnings
from pathlib import Path
import torch
from torch import nn
from tokenunify_scale.objectives.output import LossOutput
from tokenunify_scale.train.distributed import sum_over_ranks
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.strategy import MICRO, ds_config
from tokenunify_scale.train.optim import OptimConfig

warnings.simplefilter("ignore")
OPTIM = OptimConfig(lr=0.1, clip=0.5, weight_decay=0.3)

class Objective(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Linear(7, 4))
        self.backbone[0].bias.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch, *, progress):
        self.seen.fill_(progress)
        found = self.backbone(batch["crops"].flatten(1))
        return LossOutput((found - batch["target"]).square().mean(), {})

def engine_of(stage, seed, **zero):
    zero = {"stage": stage, "stage3_param_persistence_threshold": 5, **zero}
    strategy = {MICRO: 3, "zero_optimization": zero}
    config = ds_config(strategy, global_batch=6, clip=OPTIM.clip, world=world.size)
    return Engine(Objective(seed), optim=OPTIM, config=config, world=world)

def go(engine, steps):
    losses = []
    for number in steps:
        draw = torch.Generator().manual_seed(number)
        crops = torch.randint(0, 256, (6, 1, 1, 2, 2), dtype=torch.uint8, generator=draw)
        target = 5 * torch.rand(6, 4, generator=draw)
        own = torch.arange(6).chunk(world.size)[world.rank].split(engine.micro_batch)
        batches = [{"crops": crops[part], "target": target[part]} for part in own]
        step = engine.step(batches, lr=0.05, progress=number / 5, accept=lambda loss: True)
        losses.append(float(sum_over_ranks(step.loss.double())) / world.size)
    return losses

def whole(engine):
    return engine.weights(engine.objective)

world, folder, sources = join(), Path(sys.argv[1]), sys.argv[2:]
for stage in (0, 1, 2, 3):
    if not sources:
        engine, mine = engine_of(stage, 0), f"w{world.size}s{stage}"
        go(engine, range(3))
        engine.save(folder, tag=mine, state={"step": 3})
        then = whole(engine)
        report = [then, go(engine, range(3, 5)), whole(engine)]
        if world.is_main:
            torch.save(report, folder / f"{mine}.bin")
    for source in sources:
        engine = engine_of(stage, 1, sub_group_size=20)
        state = engine.load(folder, tag=source, alike=False)
        then, now = torch.load(folder / f"{source}.bin"), whole(engine)
        losses, end = go(engine, range(3, 5)), whole(engine)
        if world.is_main:
            report = {"stage": stage, "bad": source, "step": state["step"]}
            report["restored"] = all(torch.equal(now[name], then[0][name]) for name in now)
            report["names"] = sorted(now)
            pairs = zip(losses, then[1])
            report["losses"] = max(abs(a / b - 1) for a, b in pairs)
            report["weights"] = max((end[n] - then[2][n]).abs().max().item() for n in end)
            print("REPORT " + json.dumps(report), flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def run_ranks(count, script=SCRIPT, *words):
    """Reports of all ranks by (stage, way of being bad)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    environment = {**os.environ, **place, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    reports: dict[tuple[int, str], list[dict]] = {}
    try:
        for process in processes:
            output, error = process.communicate(timeout=240)
            assert process.returncode == 0, error[-3000:]
            for line in output.splitlines():
                if line.startswith("REPORT "):
                    report = json.loads(line.removeprefix("REPORT "))
                    reports.setdefault((report["stage"], report["bad"]), []).append(report)
    finally:
        for process in processes:
            process.kill()
    return reports


@pytest.fixture(scope="module")
def alone():
    """Reports of a world of one rank."""
    return run_ranks(1)


@pytest.fixture(scope="module")
def two():
    """Reports of a world of two, of which the second has the bad batch."""
    return run_ranks(2)


def check(reports, *, finite):
    for report in reports:
        assert report["losses"] and report["state"] and report["values"] > 6, report
        assert report["refused"] == [[False, finite, []]] * 2, report


@pytest.mark.parametrize("stage", [0, 1, 2, 3, "bf16, 2", "bf16, 3"])
@pytest.mark.parametrize("bad, finite", [("forward", False), ("backward", True), ("refused", True)])
def test_a_step_that_is_not_taken_leaves_no_trace(alone, stage, bad, finite):
    check(alone[stage, bad], finite=finite)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("bad, finite", [("forward", False), ("backward", True), ("refused", True)])
def test_one_ranks_bad_batch_is_skipped_by_all(two, stage, bad, finite):
    assert len(two[stage, bad]) == 2
    check(two[stage, bad], finite=finite)


def check_moved(reports, sources):
    assert set(reports) == {(stage, source) for stage in range(4) for source in sources}
    for [report] in reports.values():
        assert report["restored"] and report["step"] == 3 and len(report["names"]) == 7, report
        assert report["losses"] < 1e-6 and report["weights"] < 1e-5, report


def saves_of(world):
    return [f"w{world}s{stage}" for stage in range(4)]


def test_a_checkpoint_goes_on_at_another_stage_as_it_would_have_at_its_own(tmp_path):
    run_ranks(1, MOVED, tmp_path)
    check_moved(run_ranks(1, MOVED, tmp_path, *saves_of(1)), saves_of(1))


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_more_ranks_and_with_fewer(tmp_path):
    run_ranks(2, MOVED, tmp_path)
    for world in (1, 3):
        check_moved(run_ranks(world, MOVED, tmp_path, *saves_of(2)), saves_of(2))
