from itertools import product

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.tokens.order import visiting_order

GRIDS = [(1, 1, 1), (1, 1, 5), (1, 4, 1), (3, 1, 1), (2, 3, 4), (3, 4, 5), (4, 10, 10), (3, 3, 3)]


PATHS = ["raster", "snake", "hilbert", "random", "relevance"]


def visit(grid: tuple[int, int, int], path: str) -> torch.Tensor:
    """An order with all that any path needs."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(int(np.prod(grid)), generator=generator)
    return visiting_order(grid, path=path, generator=generator, scores=scores)


def places(grid: tuple[int, int, int], path: str) -> np.ndarray:
    """Cells (z, y, x) in visiting order, [K, 3]."""
    return np.stack(np.unravel_index(visit(grid, path).numpy(), grid), axis=1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_patch_is_visited_once(grid, path):
    order = visit(grid, path)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1] * grid[2]))


def test_raster_counts_upwards():
    assert visiting_order((2, 3, 4)).tolist() == list(range(24))


def test_the_snake_of_a_small_grid_turns_round_after_each_row_and_section():
    assert visiting_order((2, 2, 3), path="snake").tolist() == [
        *(0, 1, 2, 5, 4, 3),
        *(9, 10, 11, 8, 7, 6),
    ]


@pytest.mark.parametrize("path", ["snake", "hilbert"])
@pytest.mark.parametrize("grid", GRIDS)
def test_successive_patches_of_snake_and_hilbert_touch(grid, path):
    assert (np.abs(np.diff(places(grid, path), axis=0)).sum(1) == 1).all()


def test_successive_patches_of_hilbert_touch_in_every_small_grid():
    for grid in product(range(1, 7), repeat=3):
        cells = places(grid, "hilbert")
        assert len(np.unique(cells, axis=0)) == len(cells) == np.prod(grid)
        assert (np.abs(np.diff(cells, axis=0)).sum(1) == 1).all(), grid


def hilbert_2d(side: int) -> list[tuple[int, int]]:
    """Cells (y, x) of Hilbert's curve from (0, 0) to (0, side - 1), by reflection of quadrants."""
    if side == 1:
        return [(0, 0)]
    half, part = side // 2, hilbert_2d(side // 2)
    first = [(x, y) for y, x in part]
    last = [(half - 1 - x, side - 1 - y) for y, x in part]
    middle = [(half + y, x) for y, x in part] + [(half + y, half + x) for y, x in part]
    return first + middle + last


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_in_a_square_whose_side_is_a_power_of_two_it_is_hilberts_curve(side):
    cells = places((1, side, side), "hilbert")[:, 1:]
    assert [tuple(cell) for cell in cells.tolist()] == hilbert_2d(side)


@pytest.mark.parametrize("block", [2, 4])
def test_in_a_cube_it_finishes_each_block_before_it_enters_the_next(block):
    cells = places((8, 8, 8), "hilbert") // block
    runs = 1 + int((np.diff(cells, axis=0) != 0).any(1).sum())
    assert runs == (8 // block) ** 3


@pytest.mark.parametrize("grid", [(4, 10, 10), (16, 20, 20), (5, 7, 9), (2, 2, 100)])
@pytest.mark.parametrize("apart", [8, 64])
def test_what_hilbert_visits_soon_after_lies_near(grid, apart):
    def distance(path: str) -> float:
        cells = places(grid, path)
        return float(np.linalg.norm(cells[apart:] - cells[:-apart], axis=1).mean())

    assert distance("hilbert") < distance("snake")


def test_an_order_that_is_changed_leaves_the_next_one_alone():
    first = visiting_order((2, 3, 4), path="hilbert")
    expected = first.tolist()
    first.zero_()
    assert visiting_order((2, 3, 4), path="hilbert").tolist() == expected


def test_relevance_visits_high_scores_first_and_ties_in_raster_order():
    scores = torch.tensor([0.5, 0.25, 1.0, 0.5], requires_grad=True)
    assert visiting_order((1, 2, 2), path="relevance", scores=scores).tolist() == [2, 0, 3, 1]


def test_random_orders_come_from_the_generator_and_each_patch_may_be_anywhere():
    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return visiting_order((1, 2, 2), path="random", generator=generator).tolist()

    assert draw(3) == draw(3)
    first = [draw(seed)[0] for seed in range(400)]
    assert min(first.count(k) for k in range(4)) > 60  # 100 each on average


@pytest.mark.parametrize(
    "path, given, message",
    [
        ("spiral", {}, "'spiral' is not one of raster, snake, hilbert, random, relevance"),
        ("random", {}, r"'random' of grid \(2, 2, 2\) needs a generator"),
        ("relevance", {}, r"'relevance' of grid \(2, 2, 2\) needs 8 scores, got no scores"),
        ("relevance", {"scores": torch.zeros(2, 8)}, r"needs 8 scores, got scores \[2, 8\]"),
    ],
)
def test_an_unknown_path_or_one_without_its_ground_is_refused(path, given, message):
    with pytest.raises(ConfigError, match=message):
        visiting_order((2, 2, 2), path=path, **given)
