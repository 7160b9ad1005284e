import gc

import numpy as np
import pytest
import torch

from tokenunify_scale.data.buffers import Buffers


def test_memory_is_used_again_once_nothing_refers_to_it():
    buffers = Buffers(keep=2)
    tensor = buffers.take((2, 3, 4))
    assert tensor.dtype == torch.uint8 and tensor.shape == (2, 3, 4) and tensor.is_contiguous()
    address = tensor.data_ptr()
    assert buffers.take((24,)).data_ptr() != address
    for view in (tensor[1], tensor.numpy()[0], tensor.view(-1).numpy().reshape(4, 6).T):
        tensor = None
        assert buffers.take((2, 3, 4)).data_ptr() != address
        tensor = view
    del tensor, view
    assert buffers.take((4, 6)).data_ptr() == address


def test_what_is_held_is_never_overwritten():
    buffers, held = Buffers(keep=3), []
    for number in range(200):
        batch = buffers.take((1000,))
        batch.fill_(number)
        held = [*held[-(number % 7) :], batch] if number % 7 else [batch]
        assert all(len(set(part.tolist())) == 1 for part in held)
        assert len({part.data_ptr() for part in held}) == len(held)


def test_no_more_than_asked_for_is_kept_and_other_sizes_are_served():
    buffers = Buffers(keep=2)
    held = [buffers.take((n,)) for n in (8, 8, 8, 8)]
    del held
    gc.collect()
    assert len(buffers._free) == 2
    assert len(buffers.take((9,))) == 9 and len(buffers.take((8,))) == 8


def test_tensors_can_be_written_through_numpy():
    tensor = Buffers(keep=1).take((2, 2))
    tensor.numpy()[...] = np.array([[1, 2], [3, 4]])
    assert tensor.tolist() == [[1, 2], [3, 4]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_pinned_memory_is_pinned():
    tensor = Buffers("pinned", keep=1).take((2, 3))
    assert tensor.is_pinned() and tensor.shape == (2, 3) and tensor.dtype == torch.uint8
