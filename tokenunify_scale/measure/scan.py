"""The scan and the convolution of Mamba beside other formulations, the floor and stock kernels."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.measure.calls import collect
from tokenunify_scale.measure.clock import medians
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.ops.baselines import parallel_scan, per_step, stock
from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.rates import Rates, floor_seconds, loads, needs, roofline_seconds
from tokenunify_scale.ops.selective_scan import selective_scan
from tokenunify_scale.train.runlog import track

SECTIONS = 8  # that the third order interleaves, as far as they divide the sequence
TAPS = 4
EXPAND = 2  # channels of a scan for each of its stage
SOFTPLUS = {"delta_softplus": True}
SLOPE = 0.05  # of the steps after softplus, about what training starts with


class Shape(NamedTuple):
    """Channels E and length L of one scan; the batch is 1."""

    channels: int
    length: int

    @property
    def orders(self) -> dict[str, dict[str, Any]]:
        """The three visiting orders of this sequence, as options of the scan."""
        sections = math.gcd(SECTIONS, self.length)
        return {
            "forward": {},
            "reverse": {"reverse": True},
            "interleaved": {"interleave": sections},
        }


def shapes_of(network: nn.Module, crops: Tensor) -> list[Shape]:
    """The distinct scans of a network's Mamba layers, fine to coarse.

    Args:
        network: on the meta device, like ``crops`` [1, C, D, H, W].
        crops: its input.

    Raises:
        ConfigError: it cannot take the crop, or has no Mamba layer.
    """
    calls = collect(network, crops, kinds=(MambaLayer,), dtype=torch.float32)
    if not calls:
        raise ConfigError(f"benchmark: {type(network).__name__} has no Mamba layer")
    shapes = (Shape(EXPAND * call.x.shape[1], math.prod(call.x.shape[2:])) for call in calls)
    return list(dict.fromkeys(shapes))


def tensors(*, channels: int, length: int, states: int, device: str = "cpu") -> dict[str, Tensor]:
    """Arguments of a scan as a layer makes them: [1, E, L] views of contiguous [1, L, E]."""
    draw = torch.Generator().manual_seed(0)

    def along(width: int) -> Tensor:
        return torch.randn(1, length, width, generator=draw).to(device).transpose(1, 2)

    given = {
        "u": along(channels),
        "delta": along(channels),
        "A": -torch.arange(1.0, states + 1, device=device).repeat(channels, 1),
        "B": along(states),
        "C": along(states),
        "D": torch.ones(channels, device=device),
        "z": along(channels),
        "delta_bias": torch.full((channels,), math.log(math.expm1(SLOPE)), device=device),
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def forward_backward(
    operation: Callable[..., Tensor], given: Mapping[str, Tensor], **options: Any
) -> Callable[[], tuple[Tensor, ...]]:
    """A call that computes an operation's output and the gradients of all that it was given.

    Args:
        operation: called with ``given`` and ``options``.
        given: tensors by name, the first of the output's shape and layout.
        options: what else the operation takes.
    """
    gradient = torch.randn_like(next(iter(given.values())))

    def work() -> tuple[Tensor, ...]:
        y = operation(**given, **options)
        return y, *torch.autograd.grad(y, given.values(), gradient)

    return work


def compare(
    stages: Sequence[Shape], *, short: int, states: int, repeats: int
) -> dict[str, Sequence[dict[str, Any]]]:
    """On a CPU: the scans of a network beside their floors, and other ways to compute them.

    Args:
        stages: the scans, fine to coarse.
        short: steps at which the per-step loop runs too, at the channels of the first.
        states: N.
        repeats: turns of each.
    """
    few, long, often = Shape(stages[0].channels, short), stages[0], {"repeats": repeats}
    return {
        "floors": [
            beside_floor(shape, states=states, **often)
            for shape in track([*stages, few], description="scan", unit="shape")
        ],
        "causal_convolutions": [beside_torch_convolution(shape, **often) for shape in stages],
        "baselines": [
            beside_baselines(few, ["per-step loop", "parallel scan"], states=states, **often),
            beside_baselines(long, ["parallel scan"], states=states, **often),
        ],
    }


def beside_floor(shape: Shape, *, states: int, repeats: int) -> dict[str, Any]:
    """Our scan in all orders, and the floor that its rates, measured in turn with it, give."""
    given = tensors(**shape._asdict(), states=states)
    need = needs(batch=1, **shape._asdict(), states=states)
    rated = loads(footprint=need.footprint)
    works = {
        name: forward_backward(selective_scan, given, **SOFTPLUS, **options)
        for name, options in shape.orders.items()
    }
    seconds = medians(
        {**works, **{name: load.run for name, load in rated.items()}}, repeats=repeats
    )
    rates = Rates.of(rated, seconds)
    return {
        **shape._asdict(),
        "seconds": {name: seconds[name] for name in works},
        "floor": floor_seconds(need, rates),
        "rates": rates._asdict(),
        "roofline": roofline_seconds(need, rates),
    }


def beside_baselines(
    shape: Shape, names: Sequence[str], *, states: int, repeats: int
) -> dict[str, Any]:
    """Our scan beside formulations of ``ops.baselines``, by name."""
    baselines = {"per-step loop": per_step, "parallel scan": parallel_scan}
    given = tensors(**shape._asdict(), states=states)
    works = {name: forward_backward(baselines[name], given, **SOFTPLUS) for name in names}
    ours = forward_backward(selective_scan, given, **SOFTPLUS)
    seconds = medians({"ours": ours, **works}, repeats=repeats)
    return {**shape._asdict(), "seconds": seconds}


def beside_torch_convolution(shape: Shape, *, repeats: int) -> dict[str, Any]:
    """Our causal convolution beside torch's, which wants channels first and another pass."""
    given = {
        "x": torch.randn(1, shape.length, shape.channels).transpose(1, 2).requires_grad_(),
        "weight": torch.randn(shape.channels, TAPS, requires_grad=True),
        "bias": torch.zeros(shape.channels, requires_grad=True),
    }
    works = {
        "ours": forward_backward(causal_conv1d, given, activation="silu"),
        "torch": forward_backward(_torch_convolution, given),
    }
    seconds = medians(works, repeats=repeats)
    return {**shape._asdict(), "seconds": seconds}


def _torch_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels, taps = weight.shape
    y = torch.nn.functional.conv1d(
        x.contiguous(), weight[:, None], bias, padding=taps - 1, groups=channels
    )[..., : x.shape[2]]
    y = torch.nn.functional.silu(y)
    return y.transpose(1, 2).contiguous().transpose(1, 2)


def beside_stock(shape: Shape, *, states: int, repeats: int) -> dict[str, Any]:
    """On CUDA: our call beside mamba-ssm's kernel itself, on inputs laid out as each likes."""
    given = tensors(**shape._asdict(), states=states, device="cuda")
    plain = {name: tensor.detach().contiguous().requires_grad_() for name, tensor in given.items()}
    works = {
        "ours": forward_backward(selective_scan, given, **SOFTPLUS),
        "mamba-ssm": forward_backward(stock, plain, **SOFTPLUS),
    }
    need = needs(batch=1, **shape._asdict(), states=states)
    return {
        **shape._asdict(),
        "seconds": medians(works, repeats=repeats),
        "flop": 2 * need.multiply_adds,
    }
