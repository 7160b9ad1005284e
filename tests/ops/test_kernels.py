import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenunify_scale.ops import causal_conv1d, kernels, selective_scan, simd

PROGRAM = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout)
from tokenunify_scale.ops import causal_conv1d
x = torch.ones(1, 3, 5, requires_grad=True)
causal_conv1d(x, torch.ones(3, 2)).sum().backward()
print("sum", x.grad.sum().item())
"""


def start(cache, **environment):
    root = str(Path(kernels.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1",
                                       "NUMBA_CACHE_DIR": str(cache), **environment})


def finished(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_positions_follow_the_orders():
    def visited(code):
        return [kernels.position(k, 6, code) for k in range(6)]

    assert visited(1) == [0, 1, 2, 3, 4, 5]
    assert visited(-1) == [5, 4, 3, 2, 1, 0]
    assert visited(2) == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("batch, channels", [(1, 64), (3, 64), (4, 8), (7, 100)])
def test_tasks_cover_batch_and_channels_once(threads, batch, channels, count):
    threads(count)
    seen = torch.zeros(batch, channels)
    for task in kernels.split(batch, channels, 10**6, lanes=kernels.lanes_for(torch.float32)):
        seen[task.b_first:task.b_stop, task.e_first:task.e_stop] += 1
    assert (seen == 1).all()


def test_little_work_stays_in_one_thread(threads):
    threads(4)
    assert len(kernels.split(4, 16, 10, lanes=kernels.lanes_for(torch.float32))) == 1


def test_an_error_in_any_task_is_raised_here():
    tasks = [kernels.Task(0, 1, 0, 1, group) for group in range(3)]

    def work(task):
        if task.group == 2:
            raise ArithmeticError("in the third")

    with pytest.raises(ArithmeticError, match="third"):
        kernels.run_tasks(work, tasks)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_work_again_in_a_forked_child(threads):
    threads(2)
    # Small enough for torch itself to stay in one thread: its OpenMP pool does not survive a fork.
    x, weight = torch.ones(2, 16, 1000), torch.ones(16, 2)
    tasks = kernels.split(2, 16, 1000, lanes=kernels.lanes_for(torch.float32))
    assert len(tasks) == 2
    expected = causal_conv1d(x, weight)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if torch.equal(causal_conv1d(x, weight), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_two_processes_started_together_with_an_empty_cache_both_finish(tmp_path):
    for output in [finished(p) for p in (start(tmp_path), start(tmp_path))]:
        assert output == "sum 27.0\n"
    assert list(tmp_path.rglob("*.nbi"))


def test_without_a_place_for_the_cache_kernels_compile_and_say_so_once(monkeypatch, caplog):
    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda kernel: lambda *args: None

    monkeypatch.setattr(kernels, "njit", njit)
    kernels.say_uncached.cache_clear()
    for name in ("one", "two"):
        kernels.compiled.__wrapped__(name, torch.float32, arrays=(1,), integers=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("register", [16, 32])
def test_other_vector_widths_give_the_same_numbers(monkeypatch, register):
    draw = torch.Generator().manual_seed(0)
    u, delta, b, c = (torch.randn(1, n, 40, generator=draw) for n in (10, 10, 3, 3))
    given = [t.requires_grad_() for t in (u, delta, -torch.ones(10, 3), b, c)]

    def value_and_gradients():
        y = selective_scan(*given, delta_softplus=True, reverse=True)
        return y, *torch.autograd.grad(y.square().sum(), given)

    expected = value_and_gradients()
    monkeypatch.setattr(simd, "host_register", lambda: register)
    kernels.lanes_for.cache_clear()
    kernels.compiled.cache_clear()
    try:
        results = value_and_gradients()
        assert kernels.lanes_for(torch.float32).width == register // 4
    finally:
        monkeypatch.undo()
        kernels.lanes_for.cache_clear()
        kernels.compiled.cache_clear()
    for result, value in zip(results, expected, strict=True):
        torch.testing.assert_close(result, value, rtol=1e-5, atol=1e-5)
