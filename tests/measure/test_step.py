import pytest
import torch
from torch import nn
from torch.profiler import record_function

from tokenunify_scale.measure.step import (
    KINDS,
    OTHER,
    breakdown,
    kind_of,
    steps_on_gpu,
    training_step,
)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("tokenunify::scan_kernel", "scan"),
        ("tokenunify::selective_scan_backward", "scan"),
        ("tokenunify::conv1d_kernel", "conv1d"),
        ("tokenunify::causal_conv1d", "conv1d"),
        ("aten::mkldnn_convolution", "conv3d"),
        ("aten::convolution_backward", "conv3d"),
        ("aten::slow_conv_transpose3d", "conv3d"),
        ("aten::mm", "matmul"),
        ("aten::addmm", "matmul"),
        ("aten::addmm_", "matmul"),
        ("aten::add", "copies and sums"),
        ("aten::add_", "copies and sums"),
        ("aten::native_batch_norm_backward", "norm"),
        ("tokenunify::instance_norm", "norm"),
        ("aten::leaky_relu_backward", "activation"),
        ("aten::copy_", "copies and sums"),
        ("aten::sum", "copies and sums"),
        ("aten::normal_", OTHER),
        ("aten::view", OTHER),
        ("tokenunify::tri_mamba", OTHER),
    ],
)
def test_an_operation_has_a_kind_by_its_name(name, kind):
    assert kind_of(name) == kind


def test_a_breakdown_gives_each_kind_its_own_time():
    big, few = torch.rand(400, 400), torch.rand(10)

    def work():
        with record_function("tokenunify::scan_kernel"):
            for _ in range(5):
                big @ big
        few.relu()

    parts = breakdown(work, repeats=3)
    assert list(parts) == [*KINDS, OTHER]
    assert parts["matmul"] > parts["activation"] > 0
    assert parts["conv3d"] == parts["norm"] == 0
    assert parts["scan"] < parts["matmul"]  # what a range holds is not its own time


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_gives_every_weight_a_new_gradient(dtype):
    model = nn.Conv3d(1, 1, 3, padding=1)
    step = training_step(model, torch.rand(1, 1, 2, 4, 4), dtype=dtype)
    step()
    once = [weight.grad.clone() for weight in model.parameters()]
    step()
    assert all(
        torch.equal(a, weight.grad) for a, weight in zip(once, model.parameters(), strict=True)
    )


def test_a_step_is_three_times_the_operations_of_a_forward_pass():
    model, crops = nn.Conv3d(1, 1, 1), torch.rand(1, 1, 2, 4, 4)
    rows = steps_on_gpu(model, crops, gmac=0.5, repeats=1)
    assert list(rows) == ["fp32", "bf16"]
    assert all(row["flop"] == 3e9 and row["seconds"] > 0 for row in rows.values())
