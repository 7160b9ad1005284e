"""Released EMmamba weights: what network they are of, and their tensors under our names and back.

The release has 291 tensors, we have 179: what it keeps in three tensors, one a direction of the
Mamba layer, is stacked in one here. All else differs in names only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenunify_scale.config import ConfigError, DataError, Named
from tokenunify_scale.models.emmamba import SIZES, SMALL_SIZES, EMmamba

Weights = Mapping[str, Tensor]
Shape = tuple[int | str, ...]

DIRECTIONS = ("", "_b", "_s")  # forward, backward, inter-slice: the order in which we stack
STACKED = {  # a tensor of our mixer: the three of theirs
    "conv1d": "conv1d{}.weight",
    "conv1d_bias": "conv1d{}.bias",
    "x_proj": "x_proj{}.weight",
    "dt_proj": "dt_proj{}.weight",
    "dt_bias": "dt_proj{}.bias",
    "A_log": "A{}_log",
    "D": "D{}",
}
RENAMED = (  # how a name begins, ours and theirs; the first rule that fits
    (r"downsample\.0\.", r"vit.downsample_layers.0.0."),
    (r"downsample\.(\d)\.", r"vit.downsample_layers.\1.1."),
    (r"(gscs|stages|mlps)\.", r"vit.\1."),
    (r"(encoder\d|decoder1)\.(conv\d)\.", r"\1.layer.\2.conv."),
    (r"(decoder\d\.(?:transp_conv|conv_block\.conv\d))\.", r"\1.conv."),
    (r"out\.", r"out.conv.conv."),
)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What a profiler left behind, and heads of other tasks; the spelling is the release's.
UNNEEDED = re.compile(r".*(total_ops|total_params)$|(preciever)\.")
# What tells the network, with letters for what is read off. What was read before must agree.
TELLING: dict[str, Shape] = {
    "vit.downsample_layers.0.0.weight": ("f0", "in", 1, 7, 7),
    "vit.downsample_layers.1.1.weight": ("f1", "f0", 1, 2, 2),
    "vit.downsample_layers.2.1.weight": ("f2", "f1", 1, 2, 2),
    "vit.downsample_layers.3.1.weight": ("f3", "f2", 1, 2, 2),
    "encoder1.layer.conv1.conv.weight": ("f0", "in", 1, "k", "k"),
    "encoder5.layer.conv1.conv.weight": ("hidden", "f3", 1, "k", "k"),
    "vit.stages.0.0.mamba.A_log": ("E", "N"),
    "vit.stages.0.0.mamba.conv1d.weight": ("E", 1, "K"),
    "out.conv.conv.weight": ("out", "f0", 1, 1, 1),
}


@dataclass(frozen=True)
class Released:
    """The network that released weights are of."""

    model: Named
    """Our name for its size, and options: official preset, depths, kernels."""

    in_channels: int
    """Channels of the input."""

    out_channels: int
    """Channels of the output: 1 after pretraining, 3 after fine-tuning."""


def clean(weights: Mapping[str, Any], *, file: object) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Leave out what is not of the network: ``module.``, a profiler's counters, other heads.

    Args:
        weights: names to tensors, as they stand in the file.
        file: what an error calls them.

    Returns:
        The network's tensors, and how many were left out of each kind.

    Raises:
        DataError: something else than a tensor of floating-point numbers, or a name stands twice.
    """
    kept: dict[str, Tensor] = {}
    dropped: dict[str, int] = {}
    for name, value in weights.items():
        key = str(name).removeprefix("module.")
        unneeded = UNNEEDED.match(key)
        if unneeded:
            kind = unneeded[1] or unneeded[2]
            dropped[kind] = dropped.get(kind, 0) + 1
            continue
        if key in kept:
            raise DataError(f"{file}: {key!r} stands twice, with module. before it and without")
        if not isinstance(value, Tensor):
            raise DataError(f"{file}: {key!r} is of type {type(value).__name__}, expected a tensor")
        plain = value.layout == torch.strided and not value.is_nested and not value.is_meta
        if not plain or value.dtype not in FLOATS:
            kind = f"{value.dtype}, {value.layout}"
            raise DataError(f"{file}: {key!r} is no plain tensor of floating-point numbers: {kind}")
        kept[key] = value.detach()
    return kept, dropped


def infer(weights: Weights, *, file: object) -> Released:
    """Read size, depth, kernels and channels off the shapes of released weights.

    Args:
        weights: as ``clean`` returns them.
        file: what an error calls them.

    Raises:
        DataError: a tensor that tells is missing or of an impossible shape, or stages differ in
            their numbers of layers.
        ConfigError: widths that no size of ours has.
    """
    known: dict[str, int] = {}
    for key, pattern in TELLING.items():
        if key not in weights:
            raise DataError(f"{file}: {key} is missing, expected shape {_text(pattern, known)}")
        shape = tuple(weights[key].shape)
        if not _agree(shape, pattern, known):
            expected = _text(pattern, known)
            raise DataError(f"{file}: {key} has shape {shape}, expected {expected}")
    widths, hidden = tuple(known[f"f{i}"] for i in range(4)), known["hidden"]
    sizes = {**SMALL_SIZES, **SIZES}
    table = {(config.features, config.hidden): size for size, config in sizes.items()}
    if (widths, hidden) not in table:
        rows = ", ".join(f"{size} {f} {h}" for (f, h), size in table.items())
        raise ConfigError(f"{file}: no size has features {widths} and hidden {hidden}: {rows}")
    size = table[widths, hidden]
    depths = (_depth(weights, widths, file=file),) * 4
    kernels = {"state": known["N"], "kernel": known["K"], "skip_kernel": known["k"]}
    try:
        config = replace(sizes[size], depths=depths, **kernels, preset="official")
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return Released(Named(f"emmamba_{size}", config), known["in"], known["out"])


def _agree(shape: tuple[int, ...], pattern: Shape, known: dict[str, int]) -> bool:
    """Whether a shape is of a pattern; letters not yet in ``known`` are entered there."""
    if len(shape) != len(pattern) or min(shape) < 1:
        return False
    for side, wanted in zip(shape, pattern, strict=True):
        if side != (known.setdefault(wanted, side) if isinstance(wanted, str) else wanted):
            return False
    return True


def _text(pattern: Shape, known: Mapping[str, int]) -> str:
    return f"({', '.join(str(known.get(side, side)) for side in pattern)})"


def _depth(weights: Weights, widths: tuple[int, ...], *, file: object) -> int:
    """Layers of a stage, the same in all four."""
    layers: list[set[int]] = [set() for _ in widths]
    for key in weights:
        found = re.match(r"vit\.stages\.([0-3])\.(0|[1-9]\d{0,8})\.", key)
        if found:
            layers[int(found[1])].add(int(found[2]))
    deepest = max(range(len(widths)), key=lambda stage: max(layers[stage], default=-1))
    last = max(layers[deepest])
    for stage, (there, width) in enumerate(zip(layers, widths, strict=True)):
        if len(there) <= last:
            layer = next(i for i in range(last + 1) if i not in there)
            raise DataError(
                f"{file}: vit.stages.{stage}.{layer}.norm.weight is missing, expected shape "
                f"({width},): stage {deepest} has {last + 1} layers"
            )
    return last + 1


def released_shapes(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The released tensors that a tensor of ours holds, with shapes: one, or one a direction.

    Raises:
        ConfigError: EMmamba has no tensor of this name.
    """
    before, _, last = name.rpartition(".mamba.")
    if before and last in STACKED:
        # A depthwise convolution has one input channel a group.
        inner = (shape[1], 1, *shape[2:]) if last == "conv1d" else shape[1:]
        return {f"vit.{before}.mamba.{STACKED[last].format(way)}": inner for way in DIRECTIONS}
    for ours, theirs in RENAMED:
        if re.match(ours, name):
            return {re.sub(f"^{ours}", theirs, name): shape}
    raise ConfigError(f"{name!r} is not a tensor of EMmamba")


def layout(released: Released) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each tensor of our network, the released ones that it holds, with shapes."""
    with torch.device("meta"):
        network = EMmamba(
            released.model.options,
            in_channels=released.in_channels,
            out_channels=released.out_channels,
        )
    return {name: released_shapes(name, tuple(t.shape)) for name, t in network.state_dict().items()}


def check(weights: Weights, *, released: Released, file: object) -> None:
    """Compare names and shapes of released weights with those of a network.

    Args:
        weights: as ``clean`` returns them.
        released: as ``infer`` returns it.
        file: what an error calls them.

    Raises:
        DataError: a tensor is missing, has another shape, or is of another network.
    """
    shapes = {key: s for parts in layout(released).values() for key, s in parts.items()}
    for key, shape in shapes.items():
        if key not in weights:
            raise DataError(f"{file}: {key} is missing, expected shape {shape}")
        found = tuple(weights[key].shape)
        if found != shape:
            raise DataError(f"{file}: {key} has shape {found}, expected {shape}")
    foreign = [repr(key) for key in weights if key not in shapes]
    if foreign:
        names = ", ".join([*foreign[:3], ".."] if len(foreign) > 3 else foreign)
        raise DataError(f"{file}: {len(foreign)} tensors of another network: {names}")


def from_official(weights: Weights, *, released: Released, file: object) -> dict[str, Tensor]:
    """Released weights under our names, as float32, in memory of their own.

    Args:
        weights: as ``clean`` returns them.
        released: as ``infer`` returns it.
        file: what an error calls them.

    Raises:
        DataError: as ``check``.
    """
    check(weights, released=released, file=file)
    ours = {}
    for name, parts in layout(released).items():
        stack = torch.stack([weights[key].float() for key in parts])
        if len(parts) == 1:
            stack = stack[0]
        ours[name] = stack.squeeze(2) if name.endswith(".conv1d") else stack
    return ours


def to_official(weights: Weights) -> dict[str, Tensor]:
    """Our weights under the release's names, in memory of their own.

    Raises:
        ConfigError: a tensor is not EMmamba's.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        shapes = released_shapes(name, tuple(tensor.shape))
        parts = tensor.detach().reshape(len(shapes), -1)
        for (key, shape), part in zip(shapes.items(), parts, strict=True):
            theirs[key] = part.reshape(shape).clone()
    return theirs
