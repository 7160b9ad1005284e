import torch

from tokenunify_scale.ops import tri_mamba_cpu
from tokenunify_scale.ops.order import STEPS


def test_what_backward_needs_is_kept_and_the_halves_of_a_gradient_lie_together():
    batch, length, channels, states, rank = 2, STEPS + 1, 4, 3, 2
    given = [torch.ones(batch, length, 2 * channels), torch.ones(3, channels, 4),
             torch.ones(3, channels), torch.ones(3, rank + 2 * states, channels),
             torch.ones(3, channels, rank), torch.ones(3, channels),
             -torch.ones(3, channels, states), torch.ones(3, channels)]
    y, *kept = tri_mamba_cpu.forward(*given, chunks=3, keep=True)
    shapes = [(3, batch, length, channels), (3, batch, length, rank + 2 * states),
              (3, batch, 2, states, channels)]
    assert [tuple(x.shape) for x in kept] == shapes
    dxz, *gradients = tri_mamba_cpu.backward(torch.ones_like(y), *given, *kept, chunks=3)
    assert dxz.is_contiguous()
    assert [x.shape for x in gradients] == [x.shape for x in given[1:]]
