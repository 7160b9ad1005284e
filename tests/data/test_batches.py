import threading
from itertools import islice

import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.batches import batches, shares


class Numbers:
    """Batches that are just what was asked for; at ``fault`` an error."""

    def __init__(self, fault=None):
        self.fault, self.asked, self.lock = fault, [], threading.Lock()

    def batch(self, position, size):
        with self.lock:
            self.asked.append(position)
        if position == self.fault:
            raise DataError("shard-000001.tar is damaged")
        return position, size


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
def test_a_batch_that_cannot_be_split_is_refused_at_once(split):
    with pytest.raises(ConfigError):
        batches(Numbers(), 0, global_batch=12, **split)


@pytest.mark.parametrize("workers, prefetch", [(0, 1), (1, 1), (1, 5), (4, 1), (4, 9)])
def test_the_order_is_that_of_the_shares_for_any_number_of_threads(workers, prefetch):
    split = {"global_batch": 12, "rank": 1, "world": 2, "micro": 3}
    iterator = batches(Numbers(), 24, workers=workers, prefetch=prefetch, **split)
    assert list(islice(iterator, 20)) == list(islice(shares(24, **split), 20))
    iterator.close()


@pytest.mark.parametrize("workers, prefetch, most", [(0, 5, 1), (1, 5, 5), (2, 1, 2)])
def test_no_more_is_loaded_ahead_than_was_asked_for(workers, prefetch, most):
    source = Numbers()
    iterator = batches(source, 0, global_batch=1, workers=workers, prefetch=prefetch)
    next(iterator)
    iterator.close()
    assert 1 <= len(source.asked) <= most


def test_threads_load_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)

    class Source:
        def batch(self, position, size):
            meeting.wait()  # passes when three are here
            return position

    iterator = batches(Source(), 0, global_batch=1, workers=3)
    assert list(islice(iterator, 3)) == [0, 1, 2]
    meeting.abort()  # the batches ahead are errors that nobody asks for
    iterator.close()


def test_loading_ahead_ends_with_the_iterator():
    before = threading.active_count()
    iterator = batches(Numbers(), 0, global_batch=2, workers=2)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_error_is_raised_where_its_batch_would_stand(workers):
    before = threading.active_count()
    iterator = batches(Numbers(fault=4), 0, global_batch=2, workers=workers)
    assert [next(iterator), next(iterator)] == [(0, 2), (2, 2)]
    with pytest.raises(DataError, match="shard-000001.tar"):
        next(iterator)
    assert threading.active_count() == before
