import math

import pytest
import torch
from torch.nn import functional

from tokenunify_scale.objectives.heads import Head, cells, sphere_distance, spread, standardised
from tokenunify_scale.objectives.views import Turn


def rows(count: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 1


def test_cells_of_a_turned_map_are_those_of_the_map_itself():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 4, 8, 8, generator=generator)
    turns = (Turn((True, False, True), True), Turn((False, True, False), False))
    turned = torch.stack([
        maps[0].flip(1, 3).transpose(-2, -1),
        maps[1].flip(2),
    ])  # fmt: skip
    for sides in ((4, 8, 8), (2, 4, 4), (4, 16, 16)):
        plain = functional.adaptive_avg_pool3d(maps, sides).flatten(2).transpose(1, 2)
        torch.testing.assert_close(cells(turned, turns, sides=sides), plain)


def test_what_is_standardised_has_no_mean_and_unit_deviation_in_every_crop():
    x = 100 + 0.5 * torch.stack([rows(50), rows(50, seed=1)])
    found = standardised(x.bfloat16().float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(2, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardised(x[:1]), standardised(x)[:1])
    assert standardised(torch.full((1, 5, 2), 3.0)).abs().max() == 0, "a constant stays one"


def test_standardising_leaves_no_gradient_towards_a_larger_mean_or_scale():
    x = torch.stack([rows(9)]).requires_grad_()
    (standardised(x) * torch.rand(1, 9, 3)).sum().backward()
    torch.testing.assert_close(x.grad.sum(1), torch.zeros(1, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((x.grad * x).sum(1), torch.zeros(1, 3), atol=1e-4, rtol=0)


def test_the_distance_is_the_squared_one_between_unit_vectors():
    a, b = rows(4), rows(4, seed=1)
    for x, y, found in zip(a.tolist(), b.tolist(), sphere_distance(a, b).tolist(), strict=True):
        units = [[v / math.hypot(*each) for v in each] for each in (x, y)]
        assert found == pytest.approx(math.dist(*units) ** 2, abs=1e-5)
    assert sphere_distance(a, 7 * a).abs().max() < 1e-5
    torch.testing.assert_close(sphere_distance(a, -a), torch.full((4,), 4.0))


def test_the_spread_is_0_for_equal_vectors_and_1_for_random_directions():
    vectors = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    assert spread(vectors) == pytest.approx(1, abs=0.02)
    assert spread(5 + 0.01 * vectors) < 0.01
    assert spread(vectors[:1].expand(9, -1) * torch.arange(1, 10)[:, None]) < 1e-6  # one direction
    assert spread(vectors[:1]) == 0
    each = spread(vectors.reshape(5, 100, 64))
    torch.testing.assert_close(each, torch.stack([spread(v) for v in vectors.split(100)]))


def test_a_head_works_on_every_row_alone():
    torch.manual_seed(0)
    head, x = Head(3, 8, 5), rows(6)
    whole = head(x)
    assert whole.shape == (6, 5)
    torch.testing.assert_close(whole, torch.cat([head(x[i : i + 1]) for i in range(6)]))
