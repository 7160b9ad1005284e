import os

import pytest
import torch

from tokenunify_scale.measure import memory


@pytest.mark.skipif(not os.access(memory.RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_a_scans_peak_is_some_times_its_input_and_less_than_the_states_of_all_steps():
    times = memory.peak_extra(channels=64, length=25600, states=16, threads=1)
    assert 1 < times < 16  # y at least; B E L N would be 16 times


def test_what_the_system_cannot_tell_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "RESET", tmp_path / "clear_refs")
    assert memory.peak_extra(channels=1, length=1, states=1, threads=1) is None


@pytest.mark.skipif(not os.access(memory.RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_the_peak_of_work_is_what_it_held_at_once(monkeypatch, capsys):
    def work():
        first = torch.ones(2**26)  # 256 MiB each: never from memory that was used before
        del first
        return torch.ones(2**26)

    memory.print_peak(work)
    assert 250 * 2**20 < int(capsys.readouterr().out) < 300 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_the_peak_is_what_tensors_held_at_once():
    device = torch.device("cuda")
    kept = torch.ones(2**20, device=device)
    assert memory.peak_on_gpu(lambda: (kept + 1) * 2) == 2 * 2**22
