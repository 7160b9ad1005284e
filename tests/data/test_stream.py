import threading
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.augment import AugmentConfig
from tokenunify_scale.data.pack import write_shards
from tokenunify_scale.data.stream import Stream, batches, sample_at, shares


def write(folder, *, count, dataset, crop=(2, 4, 4), voxel_size=(40.0, 8.0, 8.0)):
    """Crops whose first two voxels say data set and sample."""
    samples = []
    for number in range(count):
        pixels = np.arange(np.prod(crop), dtype=np.uint8).reshape(crop)
        pixels[0, 0, :2] = dataset, number
        samples.append((pixels, {"volume": 0, "box": [[0, 0, 0], list(crop)]}))
    index = {"crop": crop, "voxel_size": voxel_size, "volumes": [], "request": {}}
    write_shards(samples, folder, per_shard=4, index=index)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    counts = (7, 3)
    return [write(root / str(n), count=c, dataset=n) for n, c in enumerate(counts)]


@pytest.fixture(scope="module")
def stream(folders):
    return Stream(folders, seed=3)


def keys(batch):
    return [(int(crop[0, 0, 0, 0]), int(crop[0, 0, 0, 1])) for crop in batch["crops"]]


@pytest.mark.parametrize("counts", [(1,), (2,), (5,), (64,), (1000,), (7, 3), (4, 5, 6)])
def test_each_epoch_of_each_data_set_is_a_permutation(counts):
    epochs = 3
    rounds = max(counts) * epochs
    order = [sample_at(p, seed=1, counts=counts) for p in range(rounds * len(counts))]
    for dataset, count in enumerate(counts):
        drawn = [sample for d, sample in order if d == dataset]
        assert len(drawn) == rounds
        for start in range(0, rounds - count + 1, count):
            assert sorted(drawn[start : start + count]) == list(range(count))


def test_data_sets_have_equal_shares_whatever_their_sizes():
    counts = (3, 1000, 40)
    order = [sample_at(p, seed=0, counts=counts)[0] for p in range(9000)]
    assert set(Counter(order).values()) == {3000}
    firsts = Counter(order[::3])  # no data set always comes first in its round
    assert min(firsts.values()) > 900


def test_epochs_and_seeds_differ_and_orders_look_random():
    count = 1000

    def epoch(number, seed):
        span = range(number * count, number * count + count)
        return np.array([sample_at(p, seed=seed, counts=(count,))[1] for p in span])

    a, b, c = epoch(0, 0), epoch(1, 0), epoch(0, 1)
    for other in (b, c, np.arange(count)):
        assert np.mean(a == other) < 0.01
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.1
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.1


def test_every_order_of_three_samples_is_about_as_frequent():
    orders = Counter(
        tuple(sample_at(p, seed=seed, counts=(3,))[1] for p in range(3)) for seed in range(1200)
    )
    assert len(orders) == 6 and min(orders.values()) > 120


def test_the_order_is_the_recorded_one():
    drawn = [sample_at(p, seed=5, counts=(6, 4)) for p in range(10)]
    assert drawn == [(0, 4), (1, 3), (0, 1), (1, 0), (1, 1), (0, 0), (0, 2), (1, 2), (0, 3), (1, 3)]


def test_positions_that_do_not_exist_are_refused():
    for position, counts in ((-1, (3,)), (0, ()), (0, (3, 0))):
        with pytest.raises(ValueError, match="no sample"):
            sample_at(position, seed=0, counts=counts)


def test_a_batch_holds_the_crops_of_its_positions(stream):
    batch = stream.batch(5, 4)
    assert batch["crops"].shape == (4, 1, 2, 4, 4) and batch["crops"].dtype == torch.uint8
    assert batch["positions"].tolist() == [5, 6, 7, 8] and batch["positions"].dtype == torch.int64
    assert keys(batch) == [sample_at(p, seed=3, counts=(7, 3)) for p in range(5, 9)]
    assert stream.voxel_size == (40.0, 8.0, 8.0)


def read(stream, *, start, steps, global_batch=12, world=1, micro=None, workers=1):
    """Keys and crops of each step, ranks and micro-batches put together in their order."""
    split = {"global_batch": global_batch, "world": world, "micro": micro, "workers": workers}
    parts = global_batch // world // (micro or global_batch // world)
    ranks = [stream.batches(start, rank=rank, **split) for rank in range(world)]
    result = []
    for _ in range(steps):
        got = [batch for rank in ranks for batch in islice(rank, parts)]
        positions = torch.cat([batch["positions"] for batch in got])
        result.append((positions, torch.cat([batch["crops"] for batch in got])))
    for rank in ranks:
        rank.close()
    return result


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for one, two in zip(a, b, strict=True)
        for x, y in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("world, micro, workers", [(2, 3, 1), (3, 2, 0), (3, 4, 4), (1, 1, 4)])
def test_a_step_is_the_same_for_any_world_micro_batch_and_workers(folders, world, micro, workers):
    stream = Stream(folders, seed=3, crop=(1, 2, 2), augment=AugmentConfig())
    whole = read(stream, start=0, steps=3)
    assert whole[1][0].tolist() == list(range(12, 24))
    assert same(whole, read(stream, start=0, steps=3, world=world, micro=micro, workers=workers))


def test_resuming_from_an_integer_at_another_world_equals_never_stopped(folders):
    stream = Stream(folders, seed=3, crop=(2, 3, 3), augment=AugmentConfig())
    whole = read(stream, start=0, steps=4)
    again = Stream(folders, seed=3, crop=(2, 3, 3), augment=AugmentConfig())
    assert same(whole[2:], read(again, start=24, steps=2, world=2, micro=2))
    assert not same(whole, read(Stream(folders, seed=4, crop=(2, 3, 3)), start=0, steps=4))


def test_a_sub_crop_is_a_part_of_the_stored_crop_and_moves_about(folders):
    stream = Stream(folders, seed=0, crop=(1, 2, 3))
    crops = stream.batch(0, 60)["crops"][:, 0]
    assert crops.shape == (60, 1, 2, 3)
    corners = crops[:, -1, -1, -1].tolist()  # in a crop of 2x4x4 voxels numbered from 0
    assert set(corners) == {z * 16 + y * 4 + x for z in (0, 1) for y in (1, 2, 3) for x in (2, 3)}


def test_shares_of_ranks_are_equal_contiguous_and_complete():
    step = [
        list(islice(shares(100, global_batch=12, rank=r, world=3, micro=2), 4)) for r in range(3)
    ]
    assert step[1] == [(104, 2), (106, 2), (116, 2), (118, 2)]
    starts = sorted(position for rank in step for position, _ in rank)
    assert starts == list(range(100, 124, 2))


@pytest.mark.parametrize(
    "split", [{"world": 5}, {"micro": 5}, {"rank": 1}, {"rank": -1}, {"micro": 0}]
)
def test_a_batch_that_cannot_be_split_is_refused_at_once(stream, split):
    with pytest.raises(ConfigError):
        stream.batches(0, global_batch=12, **split)


def test_loading_ahead_ends_with_the_iterator(stream):
    before = threading.active_count()
    iterator = stream.batches(0, global_batch=2, workers=2)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


def test_an_error_is_raised_where_its_batch_would_stand():
    class Source:
        def batch(self, position, size):
            if position == 4:
                raise DataError("shard-000001.tar is damaged")
            return position

    iterator = batches(Source(), 0, global_batch=2)
    assert [next(iterator), next(iterator)] == [0, 2]
    with pytest.raises(DataError, match="shard-000001.tar"):
        next(iterator)


def test_folders_that_cannot_be_mixed_are_named(folders, tmp_path):
    other = write(
        tmp_path / "other", count=2, dataset=0, crop=(2, 4, 6), voxel_size=(1.0, 1.0, 1.0)
    )
    with pytest.raises(ConfigError, match="say which crop"):
        Stream([*folders, other], seed=0)
    mixed = Stream([*folders, other], seed=0, crop=(2, 4, 4))
    assert mixed.voxel_size is None and mixed.batch(0, 9)["crops"].shape == (9, 1, 2, 4, 4)
    with pytest.raises(ConfigError, match=r"crop \(2, 4, 5\) does not fit"):
        Stream([*folders, other], seed=0, crop=(2, 4, 5))
    with pytest.raises(DataError, match="holds no samples"):
        Stream([write(tmp_path / "empty", count=0, dataset=0)], seed=0)
    with pytest.raises(ConfigError, match="no shard folder"):
        Stream([], seed=0)
