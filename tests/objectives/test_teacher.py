import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tokenunify_scale.objectives.teacher import Teacher, momentum_at
from tokenunify_scale.train.optim import OptimConfig, parameter_groups


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.5))


def move(module: nn.Module) -> None:
    """What an optimizer does, roughly."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_momentum_rises_from_its_start_to_1_along_a_cosine():
    assert momentum_at(0.99, progress=0) == pytest.approx(0.99)
    assert momentum_at(0.99, progress=0.5) == pytest.approx(0.995)
    assert momentum_at(0.99, progress=1) == 1
    path = [momentum_at(0.9, progress=i / 50) for i in range(51)]
    assert path == sorted(path)


def test_a_teacher_is_a_copy_without_gradient_in_evaluation_mode():
    online = network().train()
    teacher = Teacher(online, start=0.99)
    nn.ModuleList([teacher, online]).train()
    assert online.training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    theirs = {parameter.data_ptr() for parameter in online.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in teacher.parameters()}
    crops = torch.rand(2, 1, 2, 2, 2, requires_grad=True)
    assert torch.equal(teacher(crops), online.eval()(crops)) and not teacher(crops).requires_grad
    assert parameter_groups(teacher, OptimConfig()) == []  # an optimizer leaves it alone


def test_what_is_frozen_is_not_held_twice():
    online = network()
    online[0].bias.requires_grad_(False)
    teacher = Teacher(online, start=0.5)
    assert teacher.network[0].bias is online[0].bias
    assert teacher.network[0].weight is not online[0].weight and online[0].weight.requires_grad
    before = online[0].bias.clone()
    for progress in (0.0, 0.5):
        teacher.follow(online, progress=progress)
    assert torch.equal(online[0].bias, before)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_it_follows_by_the_formula_once_a_step(micro_batches):
    online = network()
    teacher = Teacher(online, start=0.7)
    expected = [parameter.detach().clone() for parameter in online.parameters()]
    for step in range(4):
        m = momentum_at(0.7, progress=step / 4)
        pairs = zip(expected, online.parameters(), strict=True)
        expected = [m * mine + (1 - m) * other.detach() for mine, other in pairs]
        for _ in range(micro_batches):
            online.train()(torch.rand(2, 1, 2, 2, 2))  # moves the running statistics
            teacher.follow(online, progress=step / 4)
        for mine, other in zip(teacher.parameters(), expected, strict=True):
            torch.testing.assert_close(mine, other)
        move(online)


def test_running_statistics_are_copied_where_a_step_begins():
    online = network().train()
    teacher = Teacher(online, start=0.9)
    teacher.follow(online, progress=0.0)
    online(torch.rand(4, 1, 2, 2, 2))
    assert not torch.equal(teacher.network[1].running_mean, online[1].running_mean)
    teacher.follow(online, progress=0.1)
    for mine, other in zip(teacher.network.buffers(), online.buffers(), strict=True):
        assert torch.equal(mine, other)


def test_the_first_step_leaves_it_exactly_as_it_is():
    online = network()
    teacher = Teacher(online, start=0.3)
    before = [parameter.clone() for parameter in teacher.parameters()]
    teacher.follow(online, progress=0.0)
    assert all(map(torch.equal, before, teacher.parameters()))


def test_it_can_be_made_equal_again_to_the_network_that_was_copied():
    online = network()
    online[0].bias.requires_grad_(False)
    teacher = Teacher(online, start=0.5)
    move(online)
    online.train()(torch.rand(2, 1, 2, 2, 2))
    assert not torch.equal(teacher.network[0].weight, online[0].weight)
    teacher.copy_from(online)
    pairs = zip(teacher.network.state_dict().values(), online.state_dict().values(), strict=True)
    for mine, other in pairs:
        assert torch.equal(mine, other)
    assert teacher.network[0].bias is online[0].bias


def test_after_a_step_that_was_not_taken_it_does_not_follow_twice():
    online = network()
    teacher = Teacher(online, start=0.5)
    move(online)
    teacher.follow(online, progress=0.1)
    once = teacher.network[0].weight.clone()
    for progress in (0.2, 0.3):
        teacher.refused()
        teacher.follow(online, progress=progress)
        assert torch.equal(teacher.network[0].weight, once)
    teacher.follow(online, progress=0.4)
    assert not torch.equal(teacher.network[0].weight, once)


def test_where_a_run_goes_back_to_the_step_it_failed_at_it_follows_again():
    online = network()
    teacher = Teacher(online, start=0.5)
    move(online)
    teacher.follow(online, progress=0.1)
    once = teacher.network[0].weight.clone()
    teacher.refused()
    teacher.restored()
    teacher.follow(online, progress=0.1)
    assert not torch.equal(teacher.network[0].weight, once)


@pytest.mark.parametrize("start", [-0.1, 1.1])
def test_a_momentum_outside_0_to_1_is_refused(start):
    with pytest.raises(ValueError, match="must be in"):
        Teacher(network(), start=start)


# Under DeepSpeed, in a world of one rank: six steps, and the last three again from a checkpoint.
# ZeRO-3 keeps parameters in parts; small ones also whole, where the threshold lets it.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
import torch
from torch import nn
from tokenunify_scale.objectives.output import LossOutput
from tokenunify_scale.objectives.teacher import Teacher, momentum_at
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.strategy import MICRO, ds_config
from tokenunify_scale.train.optim import OptimConfig

warnings.simplefilter("ignore")
OPTIM = OptimConfig(lr=0.1, clip=0)

class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
        self.teacher = Teacher(self.backbone, start=0.5)
        self.register_forward_pre_hook(Objective.begin, with_kwargs=True)

    def begin(self, inputs, options):
        self.teacher.follow(self.backbone, progress=options["progress"])

    def forward(self, batch, *, progress):
        x = batch["crops"].flatten(1)
        return LossOutput((self.backbone(x) - 2 * self.teacher(x) - 1).square().mean(), {})

generator = torch.Generator().manual_seed(1)
crops = torch.randint(0, 256, (12, 2, 1, 2, 2, 2), dtype=torch.uint8, generator=generator)

def build(stage, threshold):
    zero = {"stage": stage}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = threshold
    config = ds_config({MICRO: 2, "zero_optimization": zero}, global_batch=4, clip=0, world=1)
    objective = Objective()
    return objective, Engine(objective, optim=OPTIM, config=config, world=world)

def step(engine, number):
    batches = [{"crops": crops[2 * number]}, {"crops": crops[2 * number + 1]}]
    return engine.step(
        batches, lr=0.02, progress=number / 6, accept=lambda loss: True
    ).loss.item()

folder, world = Path(sys.argv[1]), join()
for stage, threshold in ((0, 0), (2, 0), (3, 0), (3, 100000)):
    objective, engine = build(stage, threshold)
    losses, expected, apart = [], None, 0.0
    place = folder / f"{stage}-{threshold}"
    for number in range(6):
        before = engine.weights(objective.backbone)
        expected = expected or dict(before)
        m = momentum_at(0.5, progress=number / 6)
        expected = {n: m * expected[n] + (1 - m) * before[n] for n in before}
        losses.append(step(engine, number))
        found = engine.weights(objective.teacher.network)
        apart = max([apart, *((found[n] - expected[n]).abs().max().item() for n in found)])
        if number == 2:
            engine.save(place, tag="third", state={})
    objective, engine = build(stage, threshold)
    engine.load(place, tag="third")
    again = [step(engine, number) for number in range(3, 6)]
    row = {"stage": stage, "threshold": threshold, "losses": losses, "again": again}
    print("REPORT " + json.dumps({**row, "apart": apart}))
engine.close()
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("teacher"))],
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return [json.loads(line[len("REPORT ") :]) for line in lines]


def test_under_zero_it_follows_as_it_does_without(reports):
    assert [(r["stage"], r["threshold"]) for r in reports] == [(0, 0), (2, 0), (3, 0), (3, 100000)]
    for report in reports:
        assert report["apart"] < 1e-6
        assert report["losses"] == pytest.approx(reports[0]["losses"], rel=1e-5)


def test_a_run_that_goes_on_follows_as_if_it_had_never_stopped(reports):
    for report in reports:
        assert report["again"] == report["losses"][3:]
