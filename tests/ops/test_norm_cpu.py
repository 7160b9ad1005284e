import pytest
import torch

from tokenunify_scale.ops import kernels, norm_cpu
from tokenunify_scale.ops.norm_cpu import Plan


def run(x, dy, add):
    y, mean, scale = norm_cpu.forward(x, add, 0.01, 1e-5)
    return y, mean, scale, *norm_cpu.backward(dy, x, None if add is None else y, mean, scale, 0.01)


@pytest.fixture
def three():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 24, 6, 20, 30, generator=draw)
            .contiguous(memory_format=torch.channels_last_3d) for _ in range(3)]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_no_bit(monkeypatch, three, threads):
    alone = run(*three)
    monkeypatch.setattr(kernels, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(kernels.torch, "get_num_threads", lambda: threads)
    assert len(Plan(three[0]).tasks) == threads
    for result, expected in zip(run(*three), alone, strict=True):
        assert torch.equal(result, expected)


def test_nothing_added_has_an_empty_gradient(three):
    x, dy, _ = three
    *_, dx, dother = run(x, dy, None)
    assert dx.shape == x.shape and dother.numel() == 0


@pytest.mark.parametrize("channels, voxels, whole", [(32, 7, True), (3, 64, True), (3, 7, False)])
def test_rows_hold_whole_vectors_where_the_voxels_allow(channels, voxels, whole):
    x = torch.zeros(1, voxels, channels).transpose(1, 2)
    plan, lanes = Plan(x), kernels.lanes_for(torch.float32)
    assert plan.length * plan.wide == voxels * channels
    assert (plan.wide % lanes.width == 0) == whole
    assert plan.read(x).base is not None and plan.read(x).shape == (1, plan.length, plan.wide)


def test_what_is_kept_of_blocks_is_small():
    for channels, voxels in ((32, 10_000), (3072, 1000), (1, 1_000_000)):
        plan = Plan(torch.empty(1, voxels, channels, device="meta").transpose(1, 2))
        assert plan.blocks * plan.wide <= voxels * channels / norm_cpu.LEAST_ROWS + plan.wide
