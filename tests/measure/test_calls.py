import torch
from torch import nn

from tokenunify_scale.measure.calls import Call, collect, precision


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(1, 2, 1)
        self.same = nn.ModuleList(nn.Conv3d(2, 2, 1) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for layer in self.same[:2]:
            x = layer(x)
        return self.same[2](x.contiguous(memory_format=torch.channels_last_3d))


def test_calls_that_are_alike_are_counted_and_others_kept_apart():
    crops = torch.rand(1, 1, 2, 4, 4)
    found = collect(Net(), crops, kinds=(nn.Conv3d,), dtype=torch.float32)
    assert [call.count for call in found] == [1, 2, 1]
    assert [call.x.requires_grad for call in found] == [False, True, True]
    assert [call.x.stride(1) for call in found] == [32, 32, 1]
    assert torch.equal(found[0].x, crops)
    assert all(call.x.is_leaf for call in found)


def test_inputs_are_collected_in_the_precision_of_the_step():
    found = collect(Net(), torch.rand(1, 1, 2, 4, 4), kinds=(nn.Conv3d,), dtype=torch.bfloat16)
    assert [call.x.dtype for call in found] == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_options_come_along_and_hooks_are_gone_afterwards():
    class Scale(nn.Module):
        def forward(self, x, *, factor):
            return x * factor

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = Scale()

        def forward(self, x):
            return self.scale(x, factor=3)

    net = Outer()
    (call,) = collect(net, torch.ones(2), kinds=(Scale,), dtype=torch.float32)
    assert call.options == {"factor": 3} and call.layer is net.scale
    assert not net.scale._forward_pre_hooks


def test_work_is_forward_and_backward_to_the_input_and_every_weight(monkeypatch):
    layer, x = nn.Linear(3, 2), torch.rand(4, 3, requires_grad=True)
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda y, wanted, g: asked.append((y.dtype, wanted, grad(y, wanted, g))),
    )
    Call(layer, x).forward_backward(layer, dtype=torch.bfloat16)()
    Call(layer, x.detach()).forward_backward(layer, dtype=torch.float32)()
    (half, wanted, _), (single, without, _) = asked
    assert (half, single) == (torch.bfloat16, torch.float32)
    assert [id(t) for t in wanted] == [id(t) for t in (x, layer.weight, layer.bias)]
    assert [id(t) for t in without] == [id(t) for t in (layer.weight, layer.bias)]


def test_float32_is_no_autocast():
    x = torch.ones(2, 2)
    with precision(torch.float32, like=x):
        assert (x @ x).dtype == torch.float32
    with precision(torch.bfloat16, like=x):
        assert (x @ x).dtype == torch.bfloat16
