import itertools
import os
import shutil
import sys
import sysconfig
import types
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tokenunify_scale.ops.selective_scan import _scan, _stock, selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
OPTIONAL = ("D", "z", "delta_bias")
OURS = ("cpu", "chunked")
ORDERS = ({}, {"reverse": True}, {"interleave": 5})
LONG = [(length, order, leave_out)
        for length, chunks in ((1, 1), (7, 7), (400, 5), (1600, 16), (25600, 16))
        for order in ({}, {"reverse": True}, {"interleave": chunks})
        for leave_out in ((), OPTIONAL)]
CAN_COMPILE = (shutil.which(os.environ.get("CXX", "g++")) is not None
               and Path(sysconfig.get_path("include"), "Python.h").is_file())
COMPILERS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.skipif(
    not CAN_COMPILE, reason="no C++ compiler, or no headers of Python, here"))]


def inputs(batch=2, channels=20, length=40, states=16, *, dtype=torch.float64, leave_out=()):
    """Random numbers of float32, [B, E, L] as transposed views of contiguous [B, L, E]."""
    draw = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).double()

    def along(width):
        return normal(batch, length, width).to(dtype).transpose(1, 2)

    values = {
        "u": along(channels), "delta": along(channels) / 2,
        "A": -torch.rand(channels, states, generator=draw).to(dtype) * 4,
        "B": along(states), "C": along(states), "D": normal(channels).to(dtype),
        "z": along(channels), "delta_bias": (normal(channels).float() - 3).to(dtype),
    }
    return {k: v.requires_grad_() for k, v in values.items() if k not in leave_out}


def wave_like(y):
    """A random gradient, the same numbers in every type."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(-9, 10, y.shape, generator=draw).to(y.dtype) / 4


def value_and_gradients(given, *, delta_softplus=True, **options):
    y = selective_scan(**given, delta_softplus=delta_softplus, **options)
    wave = wave_like(y)
    return {"y": y.detach(), **dict(zip(given, torch.autograd.grad(y, given.values(), wave),
                                        strict=True))}


def assert_close(results, oracle, *, tolerance):
    """The largest difference in a tensor is at most a part of the largest number in it."""
    for name, expected in oracle.items():
        off = (results[name].to(expected.dtype) - expected).abs().max()
        assert off <= tolerance * expected.abs().max(), f"{name}: {off}"


def narrowed(given, dtype):
    return {k: v.detach().to(dtype).requires_grad_() for k, v in given.items()}


def test_one_step_is_the_formula():
    u, delta, b, c = (torch.full((1, 1, 1), v) for v in (2.0, 0.5, 3.0, 5.0))
    y = selective_scan(u, delta, -torch.ones(1, 1), b, c, torch.tensor([7.0]))
    assert y.item() == pytest.approx(5 * (0.5 * 3 * 2) + 7 * 2)


def test_a_state_decays_by_the_exponential_of_step_times_rate():
    u = torch.tensor([[[1.0, 0.0, 0.0]]])
    one = torch.ones(1, 1, 3)
    y = selective_scan(u, one, torch.tensor([[-2.0]]), one, one)
    assert y[0, 0].tolist() == pytest.approx([1, torch.e**-2, torch.e**-4], rel=1e-6)


@pytest.fixture(scope="module", params=LONG, ids=str)
def case(request):
    """Arguments, an order, and what the reference makes of them in float64."""
    length, order, leave_out = request.param
    given = inputs(batch=1, length=length, leave_out=leave_out)
    return given, order, value_and_gradients(given, backend="reference", **order)


@pytest.mark.parametrize("backend", OURS)
def test_float32_equals_the_float64_reference_in_value_and_every_gradient(case, backend):
    given, order, oracle = case
    single = value_and_gradients(narrowed(given, torch.float32), backend=backend, **order)
    assert_close(single, oracle, tolerance=1e-5)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("leave_out", [c for n in range(4) for c in itertools.combinations(
    OPTIONAL, n)], ids=str)
def test_float64_stays_float64_whatever_is_left_out(leave_out, order, backend):
    given = inputs(length=70, channels=5, states=3, leave_out=leave_out)
    oracle = value_and_gradients(given, backend="reference", **order)
    assert_close(value_and_gradients(given, backend=backend, **order), oracle, tolerance=1e-11)


@pytest.mark.parametrize("backend", OURS)
def test_without_softplus_steps_may_be_negative_and_states_may_grow(backend):
    given = inputs(length=42, channels=3, leave_out=["delta_bias"])
    oracle = value_and_gradients(given, backend="reference", delta_softplus=False)
    results = value_and_gradients(given, backend=backend, delta_softplus=False)
    assert_close(results, oracle, tolerance=1e-11)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("channels, states", [(1, 1), (8, 16), (33, 5), (64, 16)])
def test_any_number_of_channels_and_states(channels, states, backend):
    given = inputs(channels=channels, states=states)
    oracle = value_and_gradients(given, backend="reference")
    assert_close(value_and_gradients(given, backend=backend), oracle, tolerance=1e-11)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_memory_layout_gives_the_same_result(dtype, backend):
    tensors = {k: v.detach() for k, v in narrowed(inputs(), dtype).items()}
    expected = selective_scan(**tensors, delta_softplus=True, backend="reference")
    for layout in (
        tensors,
        {k: v.contiguous() for k, v in tensors.items()},
        {k: torch.stack((v, v + 1), -1)[..., 0] for k, v in tensors.items()},
    ):
        y = selective_scan(**layout, delta_softplus=True, backend=backend)
        torch.testing.assert_close(y, expected)
    tensors["u"] = tensors["u"][:, :, :1].expand_as(tensors["u"])
    torch.testing.assert_close(
        selective_scan(**tensors, delta_softplus=True, backend=backend),
        selective_scan(**tensors, delta_softplus=True, backend="reference"))


def test_threads_change_nothing():
    given = inputs(batch=3, channels=64, length=400, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = value_and_gradients(given)
        torch.set_num_threads(4)
        together = value_and_gradients(given)
    finally:
        torch.set_num_threads(before)
    assert_close(together, alone, tolerance=1e-6)
    assert torch.equal(together["y"], alone["y"])


@pytest.mark.parametrize("backend", OURS)
def test_the_result_is_laid_out_as_the_network_wants_it(backend):
    y = selective_scan(**inputs(dtype=torch.float32), backend=backend)
    assert y.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [*OURS, "reference"])
def test_a_nan_in_any_input_reaches_the_output_and_stays_in_the_state(name, backend):
    given = {k: v.detach().clone() for k, v in inputs(dtype=torch.float32).items()}
    given[name][(0,) * given[name].ndim] = torch.nan
    y = selective_scan(**given, delta_softplus=True, backend=backend)
    seen = y[0, 0, :1] if name in ("C", "z") else y[0, 0]
    assert seen.isnan().all() and y[1, 1:].isfinite().all()


@pytest.mark.parametrize("backend", OURS)
def test_a_large_step_forgets_and_does_not_overflow(backend):
    given = {k: v.detach() for k, v in inputs(dtype=torch.float32).items()}
    given["delta"] = given["delta"] + 1e4
    y = selective_scan(**given, delta_softplus=True, backend=backend)
    torch.testing.assert_close(y, selective_scan(**given, delta_softplus=True, backend="reference"),
                               rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("length", [7, 400])
def test_halves_are_computed_in_float32_and_rounded_at_the_end(length, dtype, backend):
    half = narrowed(inputs(length=length), dtype)
    half["A"] = half["A"].detach().float().requires_grad_()
    results = value_and_gradients(half, backend=backend)
    assert {k: v.dtype for k, v in results.items()} == {
        "y": dtype, **{k: v.dtype for k, v in half.items()}}
    oracle = value_and_gradients(narrowed(half, torch.float64), backend="reference")
    assert_close(results, oracle, tolerance=torch.finfo(dtype).eps)
    assert_close(results, {"A": oracle["A"]}, tolerance=1e-5)


@pytest.mark.parametrize("backend", OURS)
def test_autocast_leaves_the_kernel_alone(backend):
    given = inputs(dtype=torch.float32)
    given["delta_softplus"] = True
    expected = selective_scan(**given, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(**given, backend=backend), expected)
        torch.testing.assert_close(selective_scan(**given, backend="reference"), expected)


@pytest.mark.parametrize("backend", [*OURS, "reference"])
def test_gradients_are_the_derivatives(backend):
    given = inputs(1, 2, 6, 2)
    assert torch.autograd.gradcheck(
        lambda *args: selective_scan(*args, True, interleave=3, backend=backend),
        tuple(given.values()))


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("leave_out", [(), OPTIONAL], ids=str)
def test_the_operator_is_registered_correctly(leave_out, backend):
    given = inputs(1, 3, 40, 2, dtype=torch.float32, leave_out=leave_out)
    torch.library.opcheck(_scan, (*(given.get(name) for name in NAMES), True, -1, True, backend))


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiling_makes_no_graph_break(compiler, backend):
    def block(u, **others):
        y = selective_scan(u.sin(), **others, delta_softplus=True, reverse=True, backend=backend)
        return y * u

    given = inputs(dtype=torch.float32)
    expected = block(**given)
    wave = expected.detach().cos()
    gradients = torch.autograd.grad(expected, given.values(), wave)
    y = torch.compile(block, fullgraph=True, backend=compiler)(**given)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, given.values(), wave), gradients)


@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(reentrant, backend):
    given = inputs(dtype=torch.float32)

    def scan(*tensors):
        return selective_scan(*tensors, True, backend=backend)

    plain = torch.autograd.grad(scan(*given.values()).sum(), given.values())
    y = checkpoint(scan, *given.values(), use_reentrant=reentrant)
    y.sum().backward()
    for gradient, tensor in zip(plain, given.values(), strict=True):
        assert torch.equal(gradient, tensor.grad)


def test_meta_tensors_have_shapes_and_no_values():
    given = {k: v.detach().to("meta") for k, v in inputs().items()}
    assert selective_scan(**given).shape == (2, 20, 40)


@pytest.mark.parametrize("name, shape", [("B", (2, 3, 40)), ("D", (7,)), ("z", (2, 20, 39))])
def test_a_wrong_shape_is_refused_by_name(name, shape):
    given = {**inputs(), name: torch.ones(shape)}
    with pytest.raises(ValueError, match=f"{name} must be"):
        selective_scan(**given)


@pytest.mark.parametrize("code", [1, -1, 5])
def test_the_stock_kernel_gets_what_it_demands_and_its_result_is_put_back(monkeypatch, code):
    given = inputs(dtype=torch.bfloat16)

    def stock(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert all(t.dtype == torch.float32 for t in (A, D, delta_bias))
        assert all(t.dtype == u.dtype and t.stride(-1) == 1 for t in (u, delta, B, C, z))
        return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend="cpu")

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = stock
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    order = {1: {}, -1: {"reverse": True}, 5: {"interleave": 5}}[code]
    expected = selective_scan(**given, delta_softplus=True, backend="cpu", **order)
    y = _stock(*(given[name] for name in NAMES), True, code)
    torch.testing.assert_close(y, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_cuda_equals_the_reference_in_value_and_every_gradient(order):
    given = inputs(length=400)
    oracle = value_and_gradients(given, backend="reference", **order)
    on_cuda = {k: v.detach().float().cuda().requires_grad_() for k, v in given.items()}
    y = selective_scan(**on_cuda, delta_softplus=True, **order)
    gradients = torch.autograd.grad(y, on_cuda.values(), wave_like(y.cpu()).cuda())
    results = {"y": y.cpu(), **dict(zip(given, (g.cpu() for g in gradients), strict=True))}
    assert_close(results, oracle, tolerance=1e-4)
