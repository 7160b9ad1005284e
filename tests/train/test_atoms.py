import math
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.train.atoms import ORDER, THEIRS, read_save, unportable

GROUPS = (("w", "v"), ("b",))
SHAPES = {"w": (3, 5), "v": (2, 4), "b": (3,)}
FROZEN, BUFFER = ("still", (3, 3)), ("mean", (2,))


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    names = {**SHAPES, **dict([FROZEN, BUFFER])}
    return {
        name: {
            key: torch.rand(shape, generator=generator) for key in ("w", "exp_avg", "exp_avg_sq")
        }
        for name, shape in names.items()
    }


class Address:
    """In the place of DeepSpeed's class, under its name."""

    def __init__(self, numel, start):
        self.numel, self.start = numel, start


Address.__module__, Address.__qualname__ = "deepspeed.utils.tensor_fragment", "fragment_address"


@pytest.fixture
def write(tmp_path, values, monkeypatch):
    """Write a checkpoint as DeepSpeed lays it out, from whole tensors."""
    for name in ("deepspeed", "deepspeed.utils", Address.__module__):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[Address.__module__].fragment_address = Address

    def write(stage, world, **zero):
        folder = tmp_path / f"stage-{stage}-of-{world}"
        folder.mkdir()
        for rank in range(world):
            model = common(stage, world, zero)
            split = (split_flat, split_parts)[stage == 3]
            groups = [split({n: values[n] for n in g}, rank=rank, world=world) for g in GROUPS]
            if stage == 3:
                model["module"] = {n: v["w"][:0].flatten() for n, v in values.items()}
                model["module"][BUFFER[0]] = values[BUFFER[0]]["w"]
                model["frozen_param_shapes"] = {FROZEN[0]: torch.Size(FROZEN[1])}
                part = split_parts({"f": values[FROZEN[0]]}, rank=rank, world=world)[0]["w"]
                model["frozen_param_fragments"] = {FROZEN[0]: part}
                torch.save(model, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
            else:
                model["module"] = {name: value["w"] for name, value in values.items()}
                torch.save(model, folder / "mp_rank_00_model_states.pt")
            if stage:
                states = [{k: v for k, v in flat.items() if k != "w"} for flat, _ in groups]
                file = folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
                lean = [flat["w"][: len(flat["w"]) - pad] for flat, pad in groups]
                keys = ("fp32_flat_groups", "optimizer_state_dict")
                if stage < 3:
                    keys = ("single_partition_of_fp32_groups", "base_optimizer_state")
                optim = dict(zip(keys, (lean, adamw(states)), strict=True))
                if stage < 3:
                    optim["param_slice_mappings"] = [
                        addresses({n: values[n] for n in g}, rank=rank, world=world) for g in GROUPS
                    ]
                torch.save({"optimizer_state_dict": optim}, file)
        return folder

    def common(stage, world, zero):
        model = dict.fromkeys(THEIRS)
        model |= {"dp_world_size": world, "mp_world_size": 1, "buffer_names": [BUFFER[0]]}
        model |= {"ds_config": {"zero_optimization": {"stage": stage, **zero}}, "mine": {"a": [1]}}
        model |= {"global_steps": 7, "global_samples": 42, "skipped_steps": 0}
        if stage:
            model["param_shapes"] = [{n: torch.Size(SHAPES[n]) for n in g} for g in GROUPS]
        else:
            model[ORDER] = [name for group in GROUPS for name in group]
            states = [{k: v for k, v in values[n].items() if k != "w"} for n in model[ORDER]]
            model["optimizer"] = adamw(states)
        return model

    return write


def adamw(states):
    step = torch.tensor(7.0)
    numbered = {index: {"step": step, **state} for index, state in enumerate(states)}
    return {"state": numbered, "param_groups": [{"params": list(numbered)}]}


def split_flat(tensors, *, rank, world):
    """Stages 1 and 2: one vector, padded at its end, cut in equal parts. Also the padding."""
    keys = ("w", "exp_avg", "exp_avg_sq")
    flat = {key: torch.cat([t[key].flatten() for t in tensors.values()]) for key in keys}
    count = len(flat["w"])
    size = 2 * math.ceil(count / (2 * world))
    padding = size * world - count if rank == world - 1 else 0
    padded = {key: torch.nn.functional.pad(f, (0, size * world - count)) for key, f in flat.items()}
    return {key: f[rank * size : (rank + 1) * size] for key, f in padded.items()}, padding


def split_parts(tensors, *, rank, world):
    """Stage 3: each tensor is padded and cut in equal parts."""
    parts = {"w": [], "exp_avg": [], "exp_avg_sq": []}
    for tensor in tensors.values():
        for key, mine in parts.items():
            flat = tensor[key].flatten()
            size = math.ceil(len(flat) / world)
            padded = torch.nn.functional.pad(flat, (0, size * world - len(flat)))
            mine.append(padded[rank * size : (rank + 1) * size])
    return {key: torch.cat(mine) for key, mine in parts.items()}, 0


def addresses(tensors, *, rank, world):
    """Where each parameter is in a rank's part, by marking it."""
    found = {}
    for name in tensors:
        marked = {
            n: {k: torch.full_like(x, n == name) for k, x in t.items()} for n, t in tensors.items()
        }
        at = split_flat(marked, rank=rank, world=world)[0]["w"].nonzero().flatten()
        if len(at):
            found[name] = Address(len(at), int(at[0]))
    return found


@pytest.mark.parametrize(
    "stage, world", [(0, 1), (0, 2), (1, 1), (1, 2), (2, 3), (2, 8), (3, 1), (3, 2), (3, 4)]
)
def test_every_parameter_comes_back_whole_whoever_held_it(write, values, stage, world):
    saved = read_save(write(stage, world))
    assert (saved.stage, saved.world, saved.step()) == (stage, world, 7)
    assert saved.state == {"mine": {"a": [1]}}
    assert saved.counts == {"global_steps": 7, "global_samples": 42, "skipped_steps": 0}
    assert {name: tuple(shape) for name, shape in saved.shapes.items()} == SHAPES
    for name in SHAPES:
        atom = saved.atom(name)
        assert torch.equal(atom.weight, values[name]["w"]) and atom.step == 7
        for key, moment in atom.moments.items():
            assert torch.equal(moment, values[name][key]), (name, key)
        assert len(atom.moments) == 2
    still = saved.atom("still")
    assert torch.equal(still.weight, values["still"]["w"]) and still[1:] == ({}, None)
    assert torch.equal(saved.buffers["mean"], values["mean"]["w"])


def test_a_missing_a_foreign_and_a_mixed_up_file_are_named(write, tmp_path):
    folder = write(3, 2)
    file = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    shutil.copy(file, odd := folder / "zero_pp_rank_2_mp_rank_00_optim_states.pt")
    with pytest.raises(DataError, match=f"another save are among its own, such as {odd.name}"):
        read_save(folder)
    odd.unlink()
    other = tmp_path / "mv"
    file.rename(other)
    with pytest.raises(DataError, match=r"stage 3, 2 ranks.* 1 of its files are missing.*rank_1"):
        read_save(folder)
    content = torch.load(other)
    adamw = content["optimizer_state_dict"]["optimizer_state_dict"]["state"]
    adamw[0]["step"] = torch.tensor(6.0)
    torch.save(content, file)
    with pytest.raises(DataError, match="AdamW counts 6 steps of some parameters and 7 of others"):
        read_save(folder)
    adamw[0]["exp_avg"] = adamw[0]["exp_avg"][1:]
    torch.save(content, file)
    with pytest.raises(DataError, match=r"rank 1 has \d+ of \d+ numbers of exp_avg"):
        read_save(folder)


def test_stage_0_must_say_what_adamw_counts_and_may_count_parameters_apart(write):
    folder = write(0, 1)
    file = folder / "mp_rank_00_model_states.pt"
    model = torch.load(file)
    del model["optimizer"]["state"][2]  # never had a gradient
    model["optimizer"]["state"][1]["step"] = torch.tensor(5.0)
    torch.save(model, file)
    saved = read_save(folder)
    assert saved.atom("b")[1:] == ({}, None) and saved.atom("v").step == 5
    with pytest.raises(DataError, match="AdamW counts 5 steps of some parameters and 7 of others"):
        saved.step()
    del model[ORDER]
    torch.save(model, file)
    with pytest.raises(DataError, match=f"to which parameters AdamW's states belong .{ORDER}"):
        read_save(folder)


def test_a_save_before_the_first_step_has_weights_alone(write, values):
    folder = write(0, 1)
    file = folder / "mp_rank_00_model_states.pt"
    model = torch.load(file)
    model["optimizer"]["state"] = {}
    torch.save(model, file)
    saved = read_save(folder)
    assert saved.step() is None and saved.atom("w").moments == {}
    assert torch.equal(saved.atom("w").weight, values["w"]["w"])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "optimizer is on nvme"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "param is on nvme"),
        ({"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}}, "ratio other than 1"),
        ({"zero_optimization": {"round_robin_gradients": True}}, "round_robin_gradients True"),
        ({"zero_optimization": {"zero_hpz_partition_size": 4}}, "zero_hpz_partition_size 4"),
        ({"bf16": {"enabled": True}}, "bf16 keeps its weights in another form"),
    ],
)
def test_what_is_kept_in_another_form_is_unportable_with_the_reason(settings, words):
    assert words in unportable(settings)


def test_offload_to_host_memory_and_autocast_are_portable():
    zero = {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
    autocast = {"enabled": True, "dtype": "bfloat16"}
    assert unportable({"zero_optimization": zero, "torch_autocast": autocast}) is None
    assert unportable({"zero_optimization": {"stage": 1}, "bf16": {"enabled": False}}) is None


def test_a_save_with_state_on_nvme_is_refused_with_the_reason(write):
    folder = write(3, 2, offload_optimizer={"device": "nvme", "nvme_path": "/x"})
    with pytest.raises(DataError, match=r"stage 3, 2 ranks.*offload_optimizer is on nvme"):
        read_save(folder)


REAL = """
import os, sys, torch, deepspeed
from tokenunify_scale.train.door import join
world = join()
stage, out = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
net[0].bias.requires_grad_(False)
decay, plain = [net[0].weight, net[2].weight], [net[1].weight, net[1].bias, net[2].bias]
adamw = torch.optim.AdamW([{"params": decay}, {"params": plain, "weight_decay": 0.0}], lr=0.1)
config = {"train_micro_batch_size_per_gpu": 4, "zero_force_ds_cpu_optimizer": False,
          "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10}}
engine, *_ = deepspeed.initialize(model=net, optimizer=adamw, config=config)
for step in range(3):
    engine.backward(engine(torch.rand(4, 5)).square().mean())
    engine.step()
engine.save_checkpoint(out, tag="a", client_state={"mine": 1}, save_latest=False)
if stage < 3:  # of several groups DeepSpeed links the first one's states alone
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()
truth, u = {}, deepspeed.utils
for name, p in net.named_parameters():
    with deepspeed.zero.GatheredParameters([p], enabled=stage == 3):
        weight = p.detach().clone()
    keys = ("exp_avg", "exp_avg_sq") if p.requires_grad else ()
    truth[name] = [weight, *(u.safe_get_full_optimizer_state(p, key).clone() for key in keys)]
if world.is_main:
    truth["1.running_mean"] = [net[1].running_mean]
    torch.save(truth, out + "/truth.bin")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deepspeed_saved_on_two_ranks_is_read_as_deepspeed_holds_it(tmp_path, stage):
    (tmp_path / "real.py").write_text(REAL)
    words = [sys.executable, tmp_path / "real.py", str(stage), str(tmp_path)]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29741 + stage)}
    ranks = [
        subprocess.Popen(
            words, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], told
    saved, truth = read_save(tmp_path / "a"), torch.load(tmp_path / "truth.bin")
    assert saved.step() == 3 and saved.state == {"mine": 1}
    assert torch.equal(saved.buffers["1.running_mean"], truth.pop("1.running_mean")[0])
    for name, (weight, *moments) in truth.items():
        atom = saved.atom(name)
        assert torch.equal(atom.weight, weight), name
        assert len(moments) == len(atom.moments) == (0 if name == "0.bias" else 2)
        for was, now in zip(moments, atom.moments.values(), strict=True):
            assert was.abs().sum() > 0 and torch.equal(was, now), name
