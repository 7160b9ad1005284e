import gc

import pytest
import torch

from tokenunify_scale.inference import heap
from tokenunify_scale.measure.memory import STATUS


def resident():
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


@pytest.mark.skipif(heap._trim() is None, reason="needs glibc")
def test_free_pages_between_what_is_in_use_go_back_to_the_system():
    # Of 64 KiB, below every threshold of mmap: they lie in the heap, one beside the other.
    tensors = [torch.ones(2**14) for _ in range(4096)]
    full = resident()
    del tensors[::2]
    gc.collect()
    heap.give_back()
    assert resident() < full - 60
    assert all(tensor[0] == 1 for tensor in tensors)


def test_another_c_library_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr(heap, "_trim", lambda: None)
    assert heap.give_back() is False
