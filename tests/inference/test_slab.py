import numpy as np
import torch

from tokenunify_scale.inference.slab import Slab
from tokenunify_scale.volumes.geometry import Box

CPU = torch.device("cpu")


def test_overlapping_predictions_become_weighted_means_where_they_are_wanted():
    rng = np.random.default_rng(0)
    whole, column = (20, 9, 9), Box((2, 1, 0), (17, 8, 9))
    sums, weights = np.zeros((2, *whole)), np.zeros(whole)
    slab, found = Slab(column, depth=4, device=CPU), np.zeros((2, *column.shape))
    for z in range(0, 20, 3):
        box = Box((z, 0, 0), (min(z + 5, 20), 9, 9))
        values = rng.random((2, *box.shape), dtype=np.float32)
        window = 0.1 + rng.random(box.shape, dtype=np.float32)
        sums[(slice(None), *box.slices)] += values * window
        weights[box.slices] += window
        slab.add(box, torch.from_numpy(values), window=torch.from_numpy(window))
        for there, means in slab.release(z + 3):
            assert there.stop[0] <= z + 3 and means.dtype == torch.float32
            found[(slice(None), *there.shift((-2, -1, 0)).slices)] = means
    assert not list(slab.release(20))
    expected = (sums / weights)[(slice(None), *column.slices)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_blocks_are_released_once_and_only_when_they_are_final():
    slab = Slab(Box.of((10, 4, 4)), depth=4, device=CPU)
    slab.add(Box.of((10, 4, 4)), torch.ones(1, 10, 4, 4), window=torch.ones(10, 4, 4))
    assert not list(slab.release(3))
    assert [box.stop[0] for box, _ in slab.release(9)] == [4, 8]
    assert [box.shape[0] for box, _ in slab.release(10)] == [2]


def test_what_lies_beside_the_column_is_left_out():
    slab = Slab(Box((0, 0, 0), (4, 4, 4)), depth=4, device=CPU)
    box = Box((0, 4, 0), (4, 8, 4))
    slab.add(box, torch.ones(1, 4, 4, 4), window=torch.ones(4, 4, 4))
    assert not list(slab.release(4))
