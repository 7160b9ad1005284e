import pytest
import torch
from torch.nn import functional

from tokenunify_scale.ops import instance_norm as module
from tokenunify_scale.ops.instance_norm import _norm, instance_norm

LAST = torch.channels_last_3d
SHAPES = [
    (2, 32, 3, 4, 5),
    (1, 4, 8, 6, 6),  # four voxels fill a vector
    (2, 3, 3, 5, 7),  # no number of voxels does
    (1, 48, 2, 2, 1),
    (1, 2, 16, 40, 40),  # several blocks
    (1, 12, 8, 30, 31),
    (3, 20, 6),
]


def volumes(shape, count=2, *, dtype=torch.float64):
    """Random tensors with channels last, mean 5 and deviation 3."""
    draw = torch.Generator().manual_seed(sum(shape))
    made = (torch.randn(shape, generator=draw, dtype=torch.float64) * 3 + 5 for _ in range(count))
    return [last(t.to(dtype)).requires_grad_() for t in made]


def last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def oracle(x, add=None, *, activation=None, slope=0.01):
    """The definition, in plain torch."""
    sides = tuple(range(2, x.ndim))
    mean, var = x.mean(sides, keepdim=True), x.var(sides, keepdim=True, unbiased=False)
    y = (x - mean) / (var + 1e-5).sqrt() + (0 if add is None else add)
    if activation is None:
        return y
    return torch.relu(y) if activation == "relu" else functional.leaky_relu(y, slope)


def value_and_gradients(function, given, **options):
    y = function(given[0], **options, **({"add": given[1]} if len(given) > 1 else {}))
    # Not nearly constant within a channel: that part of a gradient cancels.
    wave = torch.arange(y.numel(), dtype=torch.float64).sin().reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, wave)]


def assert_close(results, expected, *, tolerance):
    for result, value in zip(results, expected, strict=True):
        off = (result.to(value.dtype) - value).abs().max()
        assert off <= tolerance * value.abs().max()


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_definition_in_value_and_every_gradient(shape, activation, adds):
    given = volumes(shape, 1 + adds)
    expected = value_and_gradients(oracle, given, activation=activation)
    results = value_and_gradients(instance_norm, given, activation=activation)
    assert_close(results, expected, tolerance=1e-12)
    assert all(t.movedim(1, -1).is_contiguous() for t in results[:2])
    single = [t.detach().float().requires_grad_() for t in given]
    results = value_and_gradients(instance_norm, single, activation=activation)
    assert_close(results, expected, tolerance=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_give_halves_normed_in_single_precision(dtype):
    given = volumes((2, 32, 3, 4, 5), dtype=dtype)
    results = value_and_gradients(instance_norm, given, activation="leaky_relu")
    assert all(t.dtype == dtype for t in results)
    wide = [t.detach().double().requires_grad_() for t in given]
    expected = value_and_gradients(oracle, wide, activation="leaky_relu")
    assert_close(results, expected, tolerance=0.01)


def test_the_variance_is_right_beside_a_large_mean():
    x = volumes((1, 8, 16, 32, 32), 1, dtype=torch.float32)[0].detach() + 1000
    far = x.clone()
    far[0, :, 0, 0, 0] = -5000  # a first value unlike the others
    for given in (x, far):
        torch.testing.assert_close(instance_norm(given), oracle(given.double()).float(),
                                   rtol=1e-4, atol=1e-4)


def test_other_memory_layouts_and_gradients_of_any_strides_give_the_same_result():
    x, add = volumes((2, 5, 3, 4, 6))
    expected = value_and_gradients(instance_norm, [x, add], activation="leaky_relu")
    for layouts in ((False, False), (False, True), (True, False)):
        given = [t.detach().contiguous(memory_format=LAST if keep else torch.contiguous_format)
                 .requires_grad_() for t, keep in zip((x, add), layouts, strict=True)]
        results = value_and_gradients(instance_norm, given, activation="leaky_relu")
        assert_close(results, expected, tolerance=1e-12)
    one, = torch.autograd.grad(instance_norm(x, activation="relu").sum(), x)  # of stride 0
    other, = torch.autograd.grad(oracle(x, activation="relu").sum(), x)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("batch", [1, 2])
def test_plain_torch_takes_gradients_of_any_layout(batch):
    (x,) = volumes((batch, 4, 3, 5, 6), 1)
    draw = torch.Generator().manual_seed(0)
    dy = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    expected, = torch.autograd.grad(oracle(x), x, dy)
    for given in (dy, last(dy)):
        found, = torch.autograd.grad(module._plain(x, None, None), x, given)
        torch.testing.assert_close(found, expected)


def test_without_numba_plain_torch_gives_the_same(monkeypatch):
    given = volumes((2, 5, 3, 4, 6))
    expected = value_and_gradients(instance_norm, given, activation="relu")
    monkeypatch.setattr(module, "numba_failure", lambda: "ImportError: no numba")
    monkeypatch.setattr(module, "_norm", None)
    results = value_and_gradients(instance_norm, given, activation="relu")
    assert_close(results, expected, tolerance=1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_a_nan_reaches_its_channel_and_no_other(activation):
    x, add = (t.detach() for t in volumes((2, 5, 3, 4, 6)))
    broken = x.clone()
    broken[1, 2, 0, 1, 2] = torch.nan
    y = instance_norm(broken, activation=activation)
    assert y[1, 2].isnan().all() and y.isnan().sum() == y[1, 2].numel()
    add[0, 1, 2, 3, 4] = torch.nan
    y = instance_norm(x, activation=activation, add=add)
    assert y[0, 1, 2, 3, 4].isnan() and y.isnan().sum() == 1


@pytest.mark.parametrize("adds", [False, True])
def test_gradients_are_the_derivatives(adds):
    given = volumes((2, 3, 2, 2, 3), 1 + adds)
    assert torch.autograd.gradcheck(
        lambda x, *add: instance_norm(x, activation="leaky_relu", add=add[0] if add else None),
        given)


@pytest.mark.parametrize("adds", [False, True])
def test_the_operator_is_registered_correctly(adds):
    x, add = volumes((2, 5, 2, 3, 4), dtype=torch.float32)
    torch.library.opcheck(_norm, (x, add if adds else None, 0.01))


def test_compiling_makes_no_graph_break():
    x, add = volumes((2, 5, 2, 3, 4), dtype=torch.float32)
    compiled = torch.compile(instance_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, activation="relu", add=add),
                               instance_norm(x, activation="relu", add=add))


def test_wrong_requests_are_refused():
    x, add = volumes((2, 5, 3, 4, 6))
    with pytest.raises(ValueError, match="activation"):
        instance_norm(x, activation="gelu")
    with pytest.raises(ValueError, match=r"add must be \[2, 5, 3, 4, 6\]"):
        instance_norm(x, add=add[:1])
    with pytest.raises(ValueError, match="more than one value"):
        instance_norm(x[:, :, :1, :1, :1])
