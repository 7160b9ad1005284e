import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch.nn import functional

from tokenunify_scale.models.places import WAVES, between, centres, overlaps, waves


def test_centres_lie_in_the_middle_of_cells_in_raster_order():
    found = centres((2, 1, 3), extent=(1.0, 4.0, 6.0))
    assert found.tolist() == [[z, 2.0, x] for z in (0.25, 0.75) for x in (1.0, 3.0, 5.0)]


def test_a_cell_that_is_a_patch_is_where_the_patch_is_in_any_crop():
    small, large = (centres(grid, extent=grid) for grid in ((1, 2, 2), (3, 4, 5)))
    assert {tuple(place) for place in small.tolist()} <= {tuple(p) for p in large.tolist()}


@pytest.mark.parametrize("axes, width", [(2, 16), (3, 16), (3, 6)])
def test_waves_are_sines_and_cosines_of_wavelengths_from_the_shortest_to_the_longest(axes, width):
    places = torch.rand(5, axes, generator=torch.Generator().manual_seed(0)) * 30
    found, count = waves(places, width=width), width // (2 * axes)
    assert found.shape == (5, width) and (found[:, 2 * axes * count :] == 0).all()
    for row, axis, i in product(range(5), range(axes), range(count)):
        length = WAVES[0] * (WAVES[1] / WAVES[0]) ** (i / max(count - 1, 1))
        angle = 2 * math.pi * places[row, axis].item() / length
        column = axis * count + i
        assert found[row, column].item() == pytest.approx(math.sin(angle), abs=1e-4)
        assert found[row, axes * count + column].item() == pytest.approx(math.cos(angle), abs=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 40])
def test_a_table_is_interpolated_as_torch_does(depth):
    table = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    places = (torch.arange(depth) + 0.5) / depth
    expected = functional.interpolate(table.T[None], size=depth, mode="linear")[0].T
    torch.testing.assert_close(between(table, places), expected)
    assert torch.equal(between(table, torch.tensor([-1.0, 2.0])), table[[0, -1]])


@pytest.mark.parametrize(
    "cells, patches",
    [((20, 160), (10, 160)), ((7, 12), (3, 12)), ((2, 16), (2, 8)), ((1, 9), (4, 9))],
)
def test_overlaps_are_those_of_exact_fractions(cells, patches):
    cell, patch = Fraction(cells[1], cells[0]), Fraction(patches[1], patches[0])
    found = overlaps(cells, patches)
    assert found.shape == (cells[0], patches[0])
    for i, k in product(range(cells[0]), range(patches[0])):
        shared = min((i + 1) * cell, (k + 1) * patch) - max(i * cell, k * patch)
        expected = max(shared, Fraction(0)) / cell
        assert found[i, k].item() == pytest.approx(float(expected), rel=1e-6, abs=0)
