import threading
from collections import Counter, defaultdict

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.order import Order, turns_of

# Two data sets of 7 and 10 shards, not all of one size.
SHARDS = ((3, 4, 4, 4, 1, 4, 4), (5,) * 9 + (2,))


def drawn(order, count, *, start=0):
    return [order.at(position) for position in range(start, start + count)]


@pytest.mark.parametrize("window", [1, 2, 3, 16])
@pytest.mark.parametrize("counts", [[[1]], [[2, 3]], [[1, 1, 5]], [[4] * 25], SHARDS])
@pytest.mark.parametrize("weights", [None, "falling"])
def test_each_epoch_of_each_data_set_is_a_permutation(counts, window, weights):
    weights = weights and [1 / (2 + n) for n in range(len(counts))]
    order = Order(counts, seed=1, weights=weights, window=window)
    samples = defaultdict(list)
    for dataset, sample in drawn(order, 600):
        samples[dataset].append(sample)
    for dataset, shards in enumerate(counts):
        size, epochs = sum(shards), samples[dataset]
        assert len(epochs) >= size
        for start in range(0, len(epochs) - size + 1, size):
            assert sorted(epochs[start : start + size]) == list(range(size))


def test_the_order_is_the_recorded_one():
    order = Order(SHARDS, seed=5, weights=(0.75, 0.25), window=3)
    assert drawn(order, 24) == [
        (0, 6), (0, 5), (1, 36), (0, 4), (0, 10), (0, 0), (0, 7), (1, 37), (0, 3), (0, 2),
        (0, 1), (1, 17), (0, 8), (0, 9), (1, 19), (0, 13), (0, 15), (0, 20), (1, 33), (0, 21),
        (0, 14), (1, 30), (0, 23), (0, 22),
    ]  # fmt: skip
    assert drawn(order, 4, start=10**12) == [(1, 42), (0, 19), (0, 17), (0, 4)]
    substitutes = [order.at(9, attempt=n) for n in (1, 2, 11, 12)]
    assert substitutes == [(0, 5), (0, 10), (0, 14), (0, 14)]
    partners = [order.partner(position) for position in range(4)]
    assert partners == [(0, 7), (0, 0), (1, 32), (0, 1)]


def test_the_order_of_equal_data_sets_is_the_recorded_one():
    order = Order([[6], [4]], seed=5)
    assert drawn(order, 12) == [
        (1, 1), (0, 3), (0, 2), (1, 2), (1, 0), (0, 1), (0, 4), (1, 3), (0, 0), (1, 2), (0, 5),
        (1, 1),
    ]  # fmt: skip


def test_a_window_at_a_time_is_read_and_all_shards_in_another_order_each_epoch():
    count, window = 20, 4
    order = Order([[5] * count], seed=2, window=window)
    firsts = []
    for epoch in range(3):
        shards = [key.sample // 5 for key in drawn(order, 100, start=100 * epoch)]
        groups = [shards[start : start + 20] for start in range(0, 100, 20)]
        for group in groups:
            assert Counter(group) == dict.fromkeys(set(group), 5) and len(set(group)) == window
            assert len(set(group[:5])) > 1  # mixed, not one shard after the other
        firsts.append([tuple(sorted(set(group))) for group in groups])
    assert len({tuple(first) for first in firsts}) == 3
    assert len({frozenset(first) for first in firsts}) == 3  # others are together, too


def test_a_window_of_all_shards_mixes_them_wholly_and_a_larger_one_is_the_same():
    counts = [[50] * 20]
    order = Order(counts, seed=0, window=20)
    keys = drawn(order, 1000)
    assert keys == drawn(Order(counts, seed=0, window=99), 1000)
    samples = np.array([key.sample for key in keys])
    assert abs(np.corrcoef(samples, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(samples[1:], samples[:-1])[0, 1]) < 0.1
    assert len(set(samples[:100] // 50)) > 15


def test_epochs_and_seeds_differ():
    counts = [[100] * 10]
    a, b = (drawn(Order(counts, seed=0), 1000, start=start) for start in (0, 1000))
    c = drawn(Order(counts, seed=1), 1000)
    for other in (b, c):
        assert np.mean([x == y for x, y in zip(a, other, strict=True)]) < 0.01


@pytest.mark.parametrize(
    "weights, turns",
    [
        ([0.5, 0.25, 0.25], (2, 1, 1)),
        ([1] * 7, (1,) * 7),
        ([7, 2, 1], (7, 2, 1)),
        ([1 / 3, 2 / 3], (1, 2)),
        ([1e300, 3e300], (1, 3)),
        ([0.999, 0.001], (995, 1)),
    ],
)
def test_a_cycle_is_the_shortest_that_holds_the_shares(weights, turns):
    assert turns_of(weights) == turns
    shares = np.array(turns) / sum(turns)
    assert np.allclose(shares, np.array(weights) / sum(weights), rtol=0.005, atol=0)


@pytest.mark.parametrize(
    "weights",
    [
        None,
        (0.6123, 0.2, 0.1877),
        (0.9, 0.05, 0.05),
        (0.5, 0.3, 0.02, 0.18),
        tuple(np.random.default_rng(0).uniform(0.2, 1, 17)),
    ],
)
def test_shares_of_the_mixture_are_within_one_percent_over_ten_thousand_samples(weights):
    sizes = len(weights) if weights else 5
    order = Order([[3]] * (sizes - 1) + [[400] * 50], seed=3, weights=weights)
    want = np.array(weights or [1] * 5) / sum(weights or [1] * 5)
    datasets = np.array([key.dataset for key in drawn(order, 10_000)])
    seen = (datasets[:, None] == np.arange(sizes)).cumsum(axis=0)
    assert np.allclose(seen[-1] / 10_000, want, rtol=0.01, atol=0)
    # And nowhere before is one far behind or ahead of its share.
    assert np.abs(seen - want * np.arange(1, 10_001)[:, None]).max() < 10


def test_no_data_set_always_comes_first_in_its_cycle():
    order = Order([[3], [1000], [40]], seed=0)
    keys = drawn(order, 3000)
    assert set(Counter(key.dataset for key in keys).values()) == {1000}
    assert min(Counter(key.dataset for key in keys[::3]).values()) > 280


@pytest.mark.parametrize(
    "weights, what",
    [
        ((1, 0), r"weight 1 of \(1, 0\) is 0: leave the folder out"),
        ((-1, 2), r"weight 0 of \(-1, 2\) is not positive"),
        ((1, float("nan")), "weight 1 .* not positive and finite"),
        ((float("inf"), 1), "weight 0 .* not positive and finite"),
        ((1, 1, 1), "3 weights for 2 data sets"),
        ((1,), "1 weights for 2 data sets"),
        ((), "0 weights for 2 data sets"),
        ((1, 1e-6), r"weight 1 .* too small: less than one sample in 10000"),
    ],
)
def test_weights_that_cannot_be_are_named(weights, what):
    with pytest.raises(ConfigError, match=what):
        Order([[1], [2]], seed=0, weights=weights)


def test_what_does_not_exist_is_refused():
    for counts in ([], [[]], [[3], [0, 0]], [[4, -1]]):
        with pytest.raises(ValueError, match="no sample in one of"):
            Order(counts, seed=0)
    with pytest.raises(ConfigError, match="window is a number of shards >= 1, got 0"):
        Order([[1]], seed=0, window=0)
    order = Order([[1]], seed=0)
    for ask in (order.at, order.partner, order.window_of):
        with pytest.raises(ValueError, match="no sample at position -1"):
            ask(-1)


@pytest.mark.parametrize("draw", ["at", "partner"])
def test_substitutes_are_of_other_shards_first_of_the_window_then_of_all(draw):
    order = Order(SHARDS, seed=4, window=3)
    seen = set()
    for position in range(100):
        key = order.at(position)
        window = {order.shard_of(k) for k in order.upcoming(order.window_of(position), ahead=0)}
        assert order.shard_of(key) in window
        for attempt in range(1, 40):
            other = getattr(order, draw)(position, attempt=attempt - (draw == "partner"))
            assert other.dataset == key.dataset
            shard = order.shard_of(other)
            assert 0 <= shard < len(SHARDS[key.dataset])
            if attempt <= 10 and len(window) > 1:
                assert shard in window - {order.shard_of(key)}
            else:
                assert shard != order.shard_of(key)
                seen.add((key.dataset, shard))
    assert len(seen) == 17  # every shard may stand in


def test_substitutes_in_a_single_shard_are_other_samples_where_there_are_any():
    order = Order([[5], [1]], seed=4)
    for position in range(20):
        key = order.at(position)
        others = {order.at(position, attempt=n).sample for n in range(1, 60)}
        if key.dataset == 0:
            assert others == set(range(5)) - {key.sample}
        else:
            assert others == {0}


def test_substitutes_and_partners_are_spread_and_not_the_same():
    order = Order([[100] * 8], seed=0)
    substitutes = [order.at(position, attempt=1) for position in range(800)]
    partners = [order.partner(position) for position in range(800)]
    for keys in (substitutes, partners):
        assert len(set(keys)) > 450  # 1 - 1/e of 800 is 506
        assert min(Counter(order.shard_of(key) for key in keys).values()) > 60
    assert sum(a == b for a, b in zip(substitutes, partners, strict=True)) < 10


def test_upcoming_are_the_shards_of_this_window_and_the_next():
    order = Order(SHARDS, seed=6, window=3)
    per_set = defaultdict(list)
    for position in range(400):
        key = order.at(position)
        per_set[key.dataset].append((order.window_of(position), order.shard_of(key)))
    for dataset, reads in per_set.items():
        windows = list(dict.fromkeys(window for window, _ in reads))
        shards = {w: {shard for x, shard in reads if x == w} for w in windows}
        for now, after in zip(windows[:-2], windows[1:-1], strict=True):
            both = [order.shard_of(key) for key in order.upcoming(now, ahead=9)]
            assert set(both) == shards[now] | shards[after] and len(set(both)) == len(both)
            assert set(both[: len(shards[now])]) == shards[now]
            assert len(order.upcoming(now, ahead=1)) <= len(shards[now]) + 1
            assert all(key.dataset == dataset for key in order.upcoming(now, ahead=1))


def test_threads_at_other_places_get_the_same_order():
    counts = [[10] * 30, [7] * 11, [3]]
    order, alone = (Order(counts, seed=9, weights=(5, 2, 1), window=4) for _ in range(2))
    starts, got = range(0, 4000, 500), {}
    threads = [
        threading.Thread(target=lambda s=start: got.update({s: drawn(order, 300, start=s)}))
        for start in starts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {start: drawn(alone, 300, start=start) for start in starts}


def test_ten_thousand_shards_are_no_burden():
    order = Order([[1000] * 10_000], seed=0)
    keys = drawn(order, 2000, start=10**7 - 1000)  # across the end of an epoch
    assert len({order.shard_of(key) for key in keys}) <= 32
