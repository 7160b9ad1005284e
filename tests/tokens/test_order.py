import pytest
import torch

from tokenunify_scale.tokens.order import visiting_order

GRIDS = [(1, 1, 1), (1, 1, 5), (1, 4, 1), (3, 1, 1), (2, 3, 4), (3, 4, 5), (4, 10, 10), (3, 3, 3)]


@pytest.mark.parametrize("path", ["raster", "snake"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_patch_is_visited_once(grid, path):
    order = visiting_order(grid, path=path)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1] * grid[2]))


def test_raster_counts_upwards():
    assert visiting_order((2, 3, 4)).tolist() == list(range(24))


def test_the_snake_of_a_small_grid_turns_round_after_each_row_and_section():
    assert visiting_order((2, 2, 3), path="snake").tolist() == [
        *(0, 1, 2, 5, 4, 3),
        *(9, 10, 11, 8, 7, 6),
    ]


@pytest.mark.parametrize("grid", GRIDS)
def test_successive_patches_of_the_snake_touch(grid):
    places = [
        (k // (grid[1] * grid[2]), k // grid[2] % grid[1], k % grid[2])
        for k in visiting_order(grid, path="snake").tolist()
    ]
    for here, there in zip(places, places[1:], strict=False):
        assert sum(abs(a - b) for a, b in zip(here, there, strict=True)) == 1


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="'spiral' is not one of raster, snake"):
        visiting_order((2, 2, 2), path="spiral")
