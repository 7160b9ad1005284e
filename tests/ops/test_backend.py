import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenunify_scale.config import ConfigError, HostError
from tokenunify_scale.ops import backend
from tokenunify_scale.ops.selective_scan import selective_scan

WITHOUT_NUMBA = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout)
sys.modules["numba"] = None
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan
x, column = torch.ones(1, 2, 40, requires_grad=True), torch.ones(1, 1, 40)
y = selective_scan(causal_conv1d(x, torch.ones(2, 1)), x, torch.zeros(2, 1), column, column)
y.sum().backward()
print("sum", y.sum().item(), x.grad.sum().item())
"""


@pytest.fixture(autouse=True)
def no_wish_in_the_environment(monkeypatch):
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    backend.numba_failure.cache_clear()
    backend._say_once.cache_clear()
    yield
    backend.numba_failure.cache_clear()
    backend._say_once.cache_clear()


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


def scan_of_ones(**options):
    x, rate = torch.ones(1, 2, 3), -torch.ones(2, 1)
    return selective_scan(x, x, rate, torch.ones(1, 1, 3), torch.ones(1, 1, 3), **options)


def test_tensors_on_the_cpu_take_the_numba_kernels():
    assert backend.choose("cpu") == ("cpu", "tensors are on cpu", False)


def test_the_environment_wins_over_the_device_and_the_argument_over_both(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "reference")
    assert backend.choose("cpu").name == "reference"
    assert backend.VARIABLE in backend.choose("cpu").reason
    assert backend.choose("cpu", "cpu").name == "cpu"


@pytest.mark.parametrize("place", ["argument", "environment"])
def test_an_unknown_backend_is_refused_with_the_list_and_the_place(monkeypatch, place):
    if place == "environment":
        monkeypatch.setenv(backend.VARIABLE, "gpu")
    with pytest.raises(ConfigError, match=f"{place}.*'gpu'.*auto, cuda, cpu, chunked, reference"):
        backend.choose("cpu", "gpu" if place == "argument" else "auto")


@pytest.mark.parametrize("device, name", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_backend_of_another_device_is_refused(device, name):
    with pytest.raises(ConfigError, match=f"{name}.*tensors are on {device}"):
        backend.choose(device, name)


@pytest.mark.parametrize("name", ["auto", "cuda", "cpu", "chunked", "reference"])
def test_shapes_alone_need_no_kernel_whatever_is_asked_for(no_numba, name):
    assert backend.choose("meta", name).name == "cpu"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["chunked", "reference"])
def test_plain_torch_runs_on_any_device(device, name):
    assert backend.choose(device, name) == (name, "asked for by the argument backend", False)


def test_cuda_without_its_packages_names_the_extra(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError, match=r"pip install 'tokenunify-scale\[gpu\]'"):
        backend.choose("cuda")


def test_without_numba_the_chunked_form_runs_and_a_warning_is_logged_once(no_numba, caplog):
    with caplog.at_level(logging.INFO):
        first, second = scan_of_ones(), scan_of_ones()
    assert torch.equal(first, second) and torch.equal(first, scan_of_ones(backend="chunked"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    warning = caplog.records[0].message
    assert "numba cannot be used" in warning and "ten times slower" in warning


def test_nothing_but_the_cpu_kernels_needs_numba():
    root = str(Path(backend.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True,
                          timeout=120, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    warning, result = done.stdout.splitlines()
    assert warning.startswith("WARNING") and "backend chunked" in warning
    assert result == "sum 1640.0 3280.0"


def test_asking_for_the_cpu_kernels_without_numba_is_an_error(no_numba):
    with pytest.raises(HostError, match="numba"):
        scan_of_ones(backend="cpu")


def test_the_choice_is_logged_once_with_its_reason(caplog):
    with caplog.at_level(logging.INFO):
        scan_of_ones()
        scan_of_ones()
    said = [record.message for record in caplog.records if record.name == backend.__name__]
    assert said == ["sequence operations run on backend cpu: tensors are on cpu"]


def test_the_description_says_what_runs_and_why_even_when_nothing_can(monkeypatch):
    here = backend.describe("cpu")
    assert here["backend"] == "cpu" and here["reason"] and here["numba"]
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    there = backend.describe("cuda")
    assert there["backend"] == "none" and "tokenunify-scale[gpu]" in there["reason"]
