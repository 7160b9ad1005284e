import math

import pytest
import torch

from tokenunify_scale.objectives.heads import (
    KEPT,
    LEAST,
    GlobalNorm,
    Head,
    pool,
    sphere_distance,
    spread,
)


def rows(count: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 1


def test_pooling_averages_each_map_and_joins_them():
    maps = (torch.rand(2, 3, 2, 4, 4), torch.rand(2, 5, 1, 2, 2).bfloat16())
    pooled = pool(maps)
    assert pooled.shape == (2, 8) and pooled.dtype == torch.float32
    for i in range(2):
        values = [float(m[i, c].float().mean()) for m in maps for c in range(m.shape[1])]
        assert pooled[i].tolist() == pytest.approx(values, rel=1e-5)


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


def test_a_norm_uses_the_statistics_of_the_steps_before():
    norm, batches = GlobalNorm(3).train(), [rows(8, seed=seed) for seed in range(4)]
    weights: list[float] = []
    for step, batch in enumerate(batches):
        norm.begin(progress=step / 4)
        found = norm(batch)
        if step == 0:
            assert torch.equal(found, batch)  # nothing is known yet
        else:
            seen = torch.cat(batches[:step])
            each = torch.tensor(weights).repeat_interleave(8)[:, None].double()
            mean = (each * seen).sum(0) / each.sum()
            variance = (each * (seen - mean).square()).sum(0) / each.sum()
            expected = ((batch - mean) / (variance + LEAST).sqrt()).float()
            torch.testing.assert_close(found, expected)
        weights = [KEPT * weight for weight in weights] + [1.0]


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_of_a_step_do_not_change_a_norm(micro):
    whole, parted = GlobalNorm(3).train(), GlobalNorm(3).train()
    for step in range(3):
        batch = rows(8, seed=step)
        whole.begin(progress=step)
        expected, found = whole(batch), []
        for piece in batch.split(micro):
            parted.begin(progress=step)
            found.append(parted(piece))
        torch.testing.assert_close(torch.cat(found), expected)


def test_a_small_deviation_beside_a_large_mean_is_found():
    norm, x = GlobalNorm(3).train(), 100 + 0.01 * rows(1000)
    norm.begin(progress=0.0)
    norm(x)
    norm.begin(progress=0.5)
    torch.testing.assert_close(norm(x).std(0), torch.ones(3), rtol=0.01, atol=0)


def test_evaluation_leaves_a_norms_statistics_alone():
    norm = GlobalNorm(3).train()
    norm.begin(progress=0.0)
    norm(rows(8))
    norm.begin(progress=0.5)
    kept = {name: value.clone() for name, value in norm.state_dict().items()}
    first = norm.eval()(rows(8, seed=1))
    assert all(torch.equal(kept[name], value) for name, value in norm.state_dict().items())
    assert torch.equal(norm(rows(8, seed=1)), first)


def test_a_norm_goes_on_from_its_state_as_if_never_stopped():
    norm = GlobalNorm(3).train()
    for step in range(3):
        norm.begin(progress=step)
        norm(rows(8, seed=step))
    other = GlobalNorm(3).train()
    other.load_state_dict(norm.state_dict())
    for each in (norm, other):
        each.begin(progress=3)
    assert torch.equal(norm(rows(8)), other(rows(8)))


def test_gradients_pass_a_norm_scaled_and_not_through_its_statistics():
    norm = GlobalNorm(3).train()
    norm.begin(progress=0.0)
    norm(rows(8))
    norm.begin(progress=0.5)
    x = rows(4, seed=1).requires_grad_()
    y = norm(x)
    y.sum().backward()
    slope = (y[1] - y[0]) / (x[1] - x[0])
    torch.testing.assert_close(x.grad, slope.detach().expand(4, 3))
