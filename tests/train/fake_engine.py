"""An engine without a network, for tests of what is around one."""

import json

import torch

from tokenunify_scale.train.distributed import World
from tokenunify_scale.train.engine import Step
from tokenunify_scale.train.loop import train
from tokenunify_scale.train.runlog import RunFolder
from tokenunify_scale.train.telemetry import Facts, Telemetry, TelemetryConfig


class FakeEngine:
    """Remembers what it was asked; its losses are given by step, or by where the data stands."""

    stage, offload, precision = 0, "none", {"computed_in": "float32", "device": "cpu"}
    layout = {"world": 1, "stage": 0, "sub_group_size": None}
    micro_batch, objective = 2, None

    def __init__(self, loss, accumulation=1):
        """``loss``: a list by call, or a function of the first position of a batch."""
        self.loss, self.accumulation = loss, accumulation
        self.world = World(0, 1, 0, torch.device("cpu"))
        self.asked, self.saved, self.applied, self.evaluated = [], [], [], []
        self.probed = 0.25

    def step(self, batches, *, lr, progress, accept):
        place = int(batches[0]["positions"][0])
        self.asked.append((len(batches), lr, progress))
        found = self.loss(place) if callable(self.loss) else self.loss[len(self.asked) - 1]
        loss = torch.tensor(float(found))
        applied = accept(loss)
        if applied:
            self.applied.append(place)
        parts = {"random": torch.tensor([3.0, 2.0]), "next": torch.zeros(2)}
        return Step(loss, parts, 0.5, applied)

    def evaluate(self, batch, *, progress):
        self.evaluated.append((batch["positions"].tolist(), progress))
        values = batch["positions"].float()
        parts = {"random": torch.tensor([float(values.sum()), len(values)])}
        return Step(values.mean(), parts, 0.0)

    def probe(self, batch, *, progress):
        return self.probed

    def save(self, folder, *, tag, state):
        (folder / tag).mkdir(parents=True)
        (folder / tag / "state.json").write_text(json.dumps(state))
        self.saved.append(state["step"])

    def load(self, folder, *, tag, alike=True):
        self.alike = alike
        return json.loads((folder / tag / "state.json").read_text())


def counting(*, start, global_batch, micro, rank, world):
    """Crops that know their position, without end."""
    while True:
        positions = torch.arange(start, start + micro)
        yield {"crops": torch.zeros(micro, 1, 2, 2, 2), "positions": positions}
        start += micro


def fake_train(engine, open_batches, *, run, training, held_out=None, best=None):
    """``train`` with telemetry of no board."""
    facts = Facts(steps=training.steps, global_batch=training.global_batch, voxels=8)
    telemetry = Telemetry(
        TelemetryConfig(tensorboard=False), run=run, facts=facts, world=engine.world
    )
    return train(
        engine,
        open_batches,
        training=training,
        run=run,
        telemetry=telemetry,
        description="",
        held_out=held_out,
        best=best,
    )


def run_folder(path):
    """A run's folder, opened again or for the first time."""
    return RunFolder.create(path, verb="pretrain", config={})
