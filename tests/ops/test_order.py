import pytest
import torch

from tokenunify_scale.ops.order import order_code, unvisit, visit


def test_interleaving_takes_one_of_each_chunk_in_turn():
    code = order_code(6, reverse=False, interleave=2)
    assert visit(torch.arange(6), code).tolist() == [0, 3, 1, 4, 2, 5]


def test_interleaving_follows_its_formula():
    n, m = 4, 3
    expected = [(k % n) * m + k // n for k in range(n * m)]
    assert visit(torch.arange(n * m), n).tolist() == expected


@pytest.mark.parametrize("code", [1, -1, 2, 3, 6])
def test_going_there_and_back_changes_nothing(code):
    x = torch.arange(12).reshape(2, 6)
    assert torch.equal(unvisit(visit(x, code), code), x)


def test_the_reverse_starts_at_the_end():
    code = order_code(3, reverse=True, interleave=None)
    assert visit(torch.arange(3), code).tolist() == [2, 1, 0]


def test_chunks_that_do_not_divide_the_length_are_refused_by_number():
    with pytest.raises(ValueError, match="interleave=4 does not divide the length 6"):
        order_code(6, reverse=False, interleave=4)


def test_two_orders_at_once_are_refused():
    with pytest.raises(ValueError, match="two orders"):
        order_code(6, reverse=True, interleave=2)
