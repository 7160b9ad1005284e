import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenunify_scale.ops import kernels, simd
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan

PACKAGE = Path(kernels.__file__).parents[1]
PROGRAM = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout)
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan
x, column = torch.ones(1, 3, 5, requires_grad=True), torch.ones(1, 1, 5)
y = causal_conv1d(x, torch.ones(3, 2))
z = selective_scan(y, torch.ones_like(x), torch.zeros(3, 1), column, column)
z.sum().backward()
print("sums", z.sum().item(), x.grad.sum().item())
"""
RESULT = "sums 75.0 75.0"


def start(cache, *, root=PACKAGE.parent, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], text=True, cwd=root, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(root), **environment,
                                       "OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(cache)})


def finished(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.splitlines()


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
    for lines in [finished(p) for p in (start(tmp_path), start(tmp_path))]:
        assert lines == [RESULT]
    assert {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")} == {
        "conv_cpu.conv_forward", "conv_cpu.conv_backward", "scan_kernels.scan_forward",
        "scan_adjoint.scan_backward"}


def test_where_no_folder_takes_the_cache_kernels_compile_and_say_so_once(tmp_path):
    # Files where folders should be: root, too, can write nothing there.
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / PACKAGE.name / "ops" / "__pycache__").touch()
    file = tmp_path / "file"
    file.touch()
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(file))
    warning, result = finished(start(file, root=tmp_path, PYTHONDONTWRITEBYTECODE="1", **folders))
    assert warning.startswith("WARNING") and "NUMBA_CACHE_DIR" in warning
    assert result == RESULT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("register", [16, 32])
def test_other_vector_widths_give_the_same_numbers(monkeypatch, register, dtype):
    draw = torch.Generator().manual_seed(0)
    u, delta, b, c = (torch.randn(1, n, 40, generator=draw) for n in (10, 10, 3, 3))
    given = [t.to(dtype).requires_grad_() for t in (u, delta, -torch.ones(10, 3), b, c)]

    def value_and_gradients():
        y = selective_scan(*given, delta_softplus=True, reverse=True)
        return y, *torch.autograd.grad(y.square().sum(), given)

    expected = value_and_gradients()
    monkeypatch.setattr(simd, "host_register", lambda: register)
    kernels.lanes_for.cache_clear()
    kernels._compiled.cache_clear()
    try:
        results = value_and_gradients()
        assert kernels.lanes_for(torch.float32).width == register // 4
    finally:
        monkeypatch.undo()
        kernels.lanes_for.cache_clear()
        kernels._compiled.cache_clear()
    for result, value in zip(results, expected, strict=True):
        rounding = 1e-5 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(result, value, rtol=rounding, atol=rounding)
