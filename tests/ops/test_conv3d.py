import pytest
import torch
from torch.nn import functional

from tokenunify_scale.ops import conv3d as module
from tokenunify_scale.ops.conv3d import channels_last, conv3d, double, formulation

ONE, LAST = (1, 1, 1), torch.channels_last_3d
# x [B, C, D, H, W]; O; kernel; stride; padding; how float32 is convolved
CASES = [
    ((2, 5, 3, 4, 6), 7, (1, 1, 1), ONE, (0, 0, 0), "pointwise"),
    ((1, 1, 2, 5, 6), 4, (1, 1, 1), ONE, (0, 0, 0), "pointwise"),
    ((2, 3, 4, 6, 8), 5, (1, 5, 5), ONE, (0, 2, 2), "sections"),
    ((1, 1, 4, 6, 8), 5, (1, 5, 5), ONE, (0, 2, 2), "sections"),
    ((1, 1, 4, 6, 8), 5, (1, 7, 7), (1, 2, 2), (0, 3, 3), "sections"),
    ((1, 1, 4, 6, 8), 5, (1, 7, 7), (2, 2, 2), (0, 3, 3), "sections"),
    ((2, 3, 4, 6, 8), 5, (1, 2, 2), (2, 2, 2), (0, 0, 0), "sections"),
    ((2, 3, 2, 4, 4), 40, (1, 5, 5), ONE, (0, 2, 2), "planes"),
    ((2, 3, 1, 2, 3), 150, (1, 5, 5), ONE, (0, 2, 2), "patches"),
    ((1, 3, 2, 2, 2), 100, (1, 3, 3), ONE, (0, 1, 1), "patches"),
    ((1, 3, 4, 6, 8), 5, (3, 3, 3), ONE, (1, 1, 1), "halves"),
    ((1, 3, 5, 6, 8), 5, (3, 3, 3), ONE, (1, 1, 1), "halves"),
    ((1, 3, 2, 6, 8), 5, (3, 3, 3), ONE, (1, 1, 1), "halves"),
    ((1, 3, 1, 9, 9), 5, (3, 3, 3), ONE, (1, 1, 1), "sections"),
    ((1, 3, 1, 2, 2), 50, (3, 3, 3), ONE, (1, 1, 1), "patches"),
    ((2, 3, 4, 6, 8), 5, (3, 3, 3), ONE, (1, 1, 1), "volume"),
    ((1, 3, 4, 6, 8), 5, (3, 3, 3), (2, 2, 2), (1, 1, 1), "volume"),
    ((1, 3, 5, 6, 8), 5, (5, 3, 3), ONE, (2, 1, 1), "volume"),
    ((1, 3, 5, 6, 8), 5, (3, 3, 3), ONE, (0, 1, 1), "volume"),
    ((1, 3, 5, 6, 8), 5, (1, 3, 3), ONE, (1, 1, 1), "volume"),
    ((2, 16, 2, 6, 8), 16, (3, 3, 3), ONE, (1, 1, 1), "volume"),  # fewer sections than the kernel
    ((1, 16, 4, 6, 8), 16, (5, 3, 3), ONE, (2, 1, 1), "volume"),
]


def random(*shape, dtype=torch.float64):
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()


def value_and_gradients(function, given, **options):
    y = function(*given, **options)
    wave = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, wave)]


def assert_close(results, oracle, *, tolerance):
    for result, expected in zip(results, oracle, strict=True):
        assert result.shape == expected.shape
        off = (result.to(expected.dtype) - expected).abs().max()
        assert off <= tolerance * expected.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[5]}")
def test_every_formulation_is_torchs_convolution_in_value_and_every_gradient(case, bias, layout):
    shape, outputs, kernel, stride, padding, _ = case
    options = {"stride": stride, "padding": padding}
    given = [random(*shape), random(outputs, shape[1], *kernel)] + [random(outputs)] * bias
    oracle = value_and_gradients(functional.conv3d, given, **options)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        ours = [t.detach().to(dtype).requires_grad_() for t in given]
        ours[0] = ours[0].detach().contiguous(memory_format=layout).requires_grad_()
        assert_close(value_and_gradients(conv3d, ours, **options), oracle, tolerance=tolerance)
        assert conv3d(*ours, **options).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
@pytest.mark.parametrize("shape, outputs", [((2, 5, 2, 3, 4), 3), ((1, 5, 2, 3, 4), 3),
                                            ((1, 3, 1, 2, 2), 6)])
def test_doubling_is_torchs_transposed_convolution(shape, outputs, layout):
    given = [random(*shape), random(shape[1], outputs, 2, 2, 2)]
    oracle = value_and_gradients(functional.conv_transpose3d, given, stride=2)
    given[0] = given[0].detach().contiguous(memory_format=layout).requires_grad_()
    assert_close(value_and_gradients(double, given), oracle, tolerance=1e-12)
    single = [t.detach().float().requires_grad_() for t in given]
    assert_close(value_and_gradients(double, single), oracle, tolerance=3e-6)
    assert double(*given).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[5]}")
def test_the_cases_above_are_of_the_formulations_they_say(monkeypatch, case):
    shape, outputs, kernel, stride, padding, expected = case
    found = []

    def spy(*args, **options):
        found.append(formulation(*args, **options))
        return found[-1]

    monkeypatch.setattr(module, "formulation", spy)
    conv3d(random(*shape), random(outputs, shape[1], *kernel), stride=stride, padding=padding)
    assert found == [expected]


@pytest.mark.parametrize("weight, sides, single, half", [
    ((32, 32, 1, 5, 5), (16, 160, 160), "sections", "sections"),
    ((256, 512, 1, 5, 5), (2, 20, 20), "planes", "planes"),
    ((512, 512, 1, 5, 5), (1, 10, 10), "planes", "patches"),
    ((1536, 1536, 1, 5, 5), (1, 10, 10), "patches", "patches"),
    ((32, 32, 3, 3, 3), (8, 80, 80), "halves", "volume"),
    ((64, 64, 3, 3, 3), (8, 80, 80), "volume", "volume"),
    ((32, 64, 1, 1, 1), (16, 160, 160), "pointwise", "pointwise"),
])
def test_the_rule_takes_what_was_fastest_at_the_shapes_of_the_network(weight, sides, single, half):
    padding = tuple(side // 2 for side in weight[2:])
    for narrow, expected in ((False, single), (True, half)):
        assert formulation(weight, stride=ONE, padding=padding, batch=1, sides=sides,
                           narrow=narrow) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}-{case[5]}")
def test_under_autocast_all_is_done_and_given_in_bfloat16(case):
    shape, outputs, kernel, stride, padding, _ = case
    given = [random(*shape, dtype=torch.float32),
             random(outputs, shape[1], *kernel, dtype=torch.float32)]
    options = {"stride": stride, "padding": padding}
    with torch.autocast("cpu", torch.bfloat16):
        results = value_and_gradients(conv3d, given, **options)
    assert [t.dtype for t in results] == [torch.bfloat16, torch.float32, torch.float32]
    assert_close(results, value_and_gradients(functional.conv3d, given, **options), tolerance=0.03)


def test_elsewhere_it_is_torchs_own(monkeypatch):
    monkeypatch.setattr(module, "formulation", None)
    x, weight = torch.empty(1, 2, 4, 6, 8, device="meta"), torch.empty(3, 2, 3, 3, 3, device="meta")
    assert conv3d(x, weight, padding=(1, 1, 1)).shape == (1, 3, 4, 6, 8)
    assert double(x, weight[:2, :, :2, :2, :2]).shape == (1, 2, 8, 12, 16)


def test_one_channel_is_last_by_its_strides_too():
    x = torch.rand(2, 1, 3, 4, 5)
    assert channels_last(x).stride() == (60, 1, 20, 5, 1)
    assert channels_last(x).data_ptr() == x.data_ptr() and torch.equal(channels_last(x), x)


def test_compiling_makes_no_graph_break():
    x, weight = random(1, 3, 4, 6, 8, dtype=torch.float32), random(5, 3, 3, 3, 3,
                                                                   dtype=torch.float32)
    compiled = torch.compile(conv3d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, padding=ONE), conv3d(x, weight, padding=ONE))


def test_the_gradient_of_a_wide_16_bit_weight_is_that_of_32_bits():
    # torch 2.13's own, of this shape in three dimensions, has NaN on processors with AMX.
    shape, weight, padding = (1, 512, 2, 20, 20), (256, 512, 1, 5, 5), (0, 2, 2)
    form = formulation(weight, stride=ONE, padding=padding, batch=1, sides=shape[2:], narrow=True)
    assert form == "planes"
    given = [random(*shape, dtype=torch.float32), random(*weight, dtype=torch.float32)]
    oracle = value_and_gradients(conv3d, given, padding=padding)
    narrow = [each.detach().bfloat16().requires_grad_() for each in given]
    assert_close(value_and_gradients(conv3d, narrow, padding=padding), oracle, tolerance=0.02)
