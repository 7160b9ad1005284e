import collections
import enum
import os
import sys

import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.train.zero_shards import (
    Piece,
    Shard,
    fault,
    file_names,
    frozen_parts,
    load,
    pieces,
    sharded,
    unsharded,
)


def shapes(**counts):
    return {name: torch.Size([count]) for name, count in counts.items()}


def shard(*lengths, state=True):
    flats = [torch.zeros(length) for length in lengths]
    states = [dict(step=torch.tensor(1.0), exp_avg=f, exp_avg_sq=f) if state else {} for f in flats]
    return Shard(flats, states)


def test_below_stage_3_a_parameter_may_begin_on_one_rank_and_end_on_the_third():
    found = pieces([shapes(a=3, b=7, c=1)], [shard(4), shard(4), shard(3)], stage=2)
    assert found == {
        "a": [Piece(0, 0, 0, 3)],
        "b": [Piece(0, 0, 3, 1), Piece(1, 0, 0, 4), Piece(2, 0, 0, 2)],
        "c": [Piece(2, 0, 2, 1)],
    }


def test_at_stage_3_every_rank_has_its_part_of_every_parameter_and_the_last_may_have_none():
    found = pieces([shapes(a=5), shapes(b=1, c=6)], [shard(2, 3)] * 3, stage=3)
    assert found["a"] == [Piece(0, 0, 0, 2), Piece(1, 0, 0, 2), Piece(2, 0, 0, 1)]
    assert found["b"] == [Piece(0, 1, 0, 1)]
    assert found["c"] == [Piece(rank, 1, 1, 2) for rank in range(3)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("stage", [1, 3])
def test_the_pieces_of_a_parameter_have_its_length(stage, world):
    group = shapes(a=1, b=10, c=3, d=17)
    size = 8 if stage == 1 and world == 5 else 31
    found = pieces([group], [shard(size)] * world, stage=stage)
    assert {n: sum(p.length for p in found[n]) for n in found} == {
        n: shape.numel() for n, shape in group.items()
    }


def said(*places):
    Address = collections.namedtuple("Address", "start numel")
    return {"param_slice_mappings": [{n: Address(*at) for n, *at in group} for group in places]}


def test_what_a_rank_says_of_its_own_pieces_is_held_against_where_they_should_be():
    shards = [shard(4), shard(2)]
    found = pieces([shapes(a=3, b=3)], shards, stage=1)
    right = [said([("a", 0, 3), ("b", 3, 1)]), said([("b", 0, 2)])]
    assert fault(found, shards, right, stage=1) is None
    swapped = [said([("b", 0, 3), ("a", 3, 1)]), said([("a", 0, 2)])]
    assert "rank 0 says that" in fault(found, shards, swapped, stage=1)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (Shard([torch.zeros(1)], shard(2).states), "rank 1 has 1 of 2 weights of group 0"),
        (Shard([torch.zeros(2).half()], shard(2).states), "2 weights of group 0 in fp32"),
        (Shard([torch.zeros(2)], shard(1).states), "rank 1 has 1 of 2 numbers of exp_avg"),
        (shard(2, state=False), "rank 1 has no state of AdamW's for group 0"),
        (Shard([torch.zeros(2)], [{"momentum_buffer": torch.zeros(2)}]), "keeps momentum_buffer"),
    ],
)
def test_a_shard_that_is_short_or_of_another_optimizer_is_a_fault(wrong, words):
    shards = [shard(2), wrong]
    found = pieces([shapes(a=4)], shards, stage=3)
    assert words in fault(found, shards, [{}, {}], stage=3)


def test_files_are_named_by_stage_and_rank():
    assert file_names(stage=0, world=2) == (["mp_rank_00_model_states.pt"], [])
    optims = [f"zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in (0, 1)]
    assert file_names(stage=2, world=2) == (["mp_rank_00_model_states.pt"], optims)
    assert file_names(stage=3, world=1)[0] == ["zero_pp_rank_0_mp_rank_00_model_states.pt"]


def test_states_are_taken_in_the_order_of_adamws_own_count():
    adamw = {"state": {1: {"step": torch.ones(())}}, "param_groups": [{"params": [0, 1]}]}
    optim = {"fp32_flat_groups": [torch.ones(1)] * 2, "optimizer_state_dict": adamw}
    assert sharded(optim, stage=3).states == [{}, adamw["state"][1]]
    model = {"module": {"a": torch.ones(2, 2), "b": torch.ones(1)}, "optimizer": adamw}
    one = unsharded(model, ["b", "a"])
    assert [len(flat) for flat in one.weights] == [1, 4] and one.states[0] == {}
    with pytest.raises(ValueError, match="AdamW counts 2 tensors where 1 were saved"):
        unsharded(model, ["a"])


def test_frozen_parameters_are_whole_but_at_stage_3():
    a, b = torch.ones(2, 2), torch.ones(3)
    model = {"module": {"a": a, "b": b, "n": b}, "buffer_names": ["n"]}
    assert frozen_parts([model], shapes(b=3), stage=1) == {"a": (a.shape, [a])}
    part = {"frozen_param_shapes": {"a": a.shape}, "frozen_param_fragments": {"a": b}}
    assert frozen_parts([part, part], {}, stage=3) == {"a": (a.shape, [b, b])}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_a_file_can_run_nothing_and_a_damaged_one_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    torch.save({"a": Trap()}, path)
    with pytest.raises(DataError, match="a.pt cannot be read"):
        load(path)
    assert not (tmp_path / "sprung").exists()
    torch.save({"a": torch.ones(1000)}, path)
    assert torch.equal(load(path)["a"], torch.ones(1000))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="a.pt cannot be read"):
        load(path)
    with pytest.raises(DataError, match="b.pt cannot be read"):
        load(tmp_path / "b.pt")
    torch.save([1], path)
    with pytest.raises(DataError, match="holds a list"):
        load(path)


class Later(enum.Enum):
    """As Python 3.11.2 writes an enumeration's member."""

    HERE = 1

    def __reduce_ex__(self, protocol):
        return getattr, (self.__class__, self.name)


def test_a_member_of_deepspeeds_enumerations_is_no_reason_to_refuse_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Later, "__module__", "deepspeed.later")
    monkeypatch.setitem(sys.modules, "deepspeed.later", sys.modules[__name__])
    torch.save({"stage": Later.HERE, "a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(load(tmp_path / "a.pt")["a"], torch.ones(2))
