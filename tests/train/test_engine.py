import json
import os
import subprocess
import sys

import pytest

# One process, a world of one rank. Each ZeRO stage takes three steps beside plain torch, writes a
# checkpoint after the first, and goes back to it at the end.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
import torch
from torch import nn
from tokenunify_scale.config import DataError
from tokenunify_scale.train.door import join
from tokenunify_scale.train.engine import Engine
from tokenunify_scale.train.strategy import MICRO, ds_config
from tokenunify_scale.train.optim import OptimConfig, parameter_groups
from tokenunify_scale.objectives.output import LossOutput, part

warnings.simplefilter("ignore")
OPTIM = OptimConfig(lr=0.1, clip=0.5, weight_decay=0.3)

class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(4, 4)
        self.seen = []

    def forward(self, batch, *, progress):
        self.seen.append((progress, str(batch["crops"].dtype), float(batch["crops"].max())))
        errors = (self.backbone(batch["crops"].flatten(1)) - batch["target"]).square().mean(1)
        return LossOutput(errors.mean(), {"mse": part(errors, torch.ones(len(errors)).bool())})

generator = torch.Generator().manual_seed(1)
def batch():
    crops = torch.randint(0, 256, (2, 1, 1, 2, 2), dtype=torch.uint8, generator=generator)
    return {"crops": crops, "target": 5 * torch.rand(2, 4, generator=generator)}
batches = [batch(), batch()]

def plain_step(model, optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    losses = []
    for b in batches:
        floats = {"crops": b["crops"].float() / 255, "target": b["target"]}
        loss = model(floats, progress=0).loss / 2
        loss.backward()
        losses.append(loss.item())
    norm = nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip).item()
    optimizer.step()
    return sum(losses), norm

folder, world = Path(sys.argv[1]), join()
for stage in (0, 1, 2, 3):
    twin = Objective()
    adamw = torch.optim.AdamW(parameter_groups(twin, OPTIM), betas=OPTIM.betas)
    strategy = {MICRO: 2, "zero_optimization": {"stage": stage}}
    config = ds_config(strategy, global_batch=4, clip=OPTIM.clip, world=1)
    objective = Objective()
    engine = Engine(objective, optim=OPTIM, config=config, world=world)
    report = {"stage": stage, "micro": engine.micro_batch, "rounds": engine.accumulation}
    steps, checkpoints = [], folder / str(stage)
    for rate in (0.02, 0.05, 0.1):
        step = engine.step(batches, lr=rate, progress=rate, accept=lambda loss: True)
        loss, norm = plain_step(twin, adamw, rate)
        steps.append([step.loss.item(), loss, step.grad_norm, norm, step.parts["mse"].tolist()])
        if rate == 0.02:
            engine.save(checkpoints, tag="step-1", state={"step": 1})
            kept = engine.weights(objective.backbone)
    weights = engine.weights(objective.backbone)
    expected = dict(twin.backbone.named_parameters())
    report["steps"], report["names"] = steps, sorted(weights)
    report["apart"] = max((weights[n] - expected[n]).abs().max().item() for n in weights)
    report["seen"] = objective.seen
    report["state"] = engine.load(checkpoints, tag="step-1")["step"]
    again = engine.weights(objective.backbone)
    report["restored"] = all(torch.equal(again[n], kept[n]) for n in kept)
    report["moved"] = any(not torch.equal(weights[n], kept[n]) for n in kept)
    report["latest"] = (checkpoints / "latest").exists()
    (checkpoints / "empty").mkdir()
    for tag in ("absent", "empty"):
        try:
            engine.load(checkpoints, tag=tag)
            report[tag] = "was loaded"
        except DataError as error:
            report[tag] = str(error)
    print("REPORT " + json.dumps(report))
engine.close()
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[int, dict]:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("engine"))],
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return {r["stage"]: r for r in (json.loads(line[len("REPORT ") :]) for line in lines)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_are_those_of_plain_torch(reports, stage):
    report = reports[stage]
    assert (report["micro"], report["rounds"]) == (2, 2)
    for loss, expected, norm, expected_norm, (total, count) in report["steps"]:
        assert loss == pytest.approx(expected, rel=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-5) and norm > 0.5  # before clipping
        assert count == 4 and total / 4 == pytest.approx(expected, rel=1e-5)
    assert report["names"] == ["bias", "weight"] and report["apart"] < 1e-6


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_objective_gets_floats_in_0_to_1_and_the_progress(reports, stage):
    seen = reports[stage]["seen"]
    assert [progress for progress, _, _ in seen] == [0.02, 0.02, 0.05, 0.05, 0.1, 0.1]
    assert all(kind == "torch.float32" and top <= 1 for _, kind, top in seen)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_restores_weights_and_state_and_publishes_nothing_itself(reports, stage):
    report = reports[stage]
    assert report["moved"] and report["restored"] and report["state"] == 1
    assert not report["latest"]


@pytest.mark.parametrize("tag", ["absent", "empty"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_without_content_is_a_data_error_and_not_a_fresh_start(reports, stage, tag):
    assert f"{tag} cannot be restored" in reports[stage][tag]
