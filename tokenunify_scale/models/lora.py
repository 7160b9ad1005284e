"""Low-rank adaptation: a frozen matrix plus the trained product of two thin ones.

Only weights are adapted, never what is done with them: a layer computes with the sum W + s B A, so
each kernel takes it as it takes W, and the sum is what is written to a weight file. B begins as
zero, so that the network begins as what was loaded.

Source: Hu et al. 2021 (LoRA), its initialisation and its scale s = alpha / rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models.mamba import TriOrientedMamba

DOWN, UP = "_lora_down", "_lora_up"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices are adapted, and how richly."""

    rank: int = 0
    """Rows of the thin matrices; 0 adapts nothing. A matrix with a shorter side takes that."""

    alpha: float | None = None
    """Strength of the product, which is divided by the rank; by default twice the rank."""

    targets: tuple[Literal["mamba", "linear"], ...] = ("mamba", "linear")
    """``mamba``: the projections of the Mamba layers (in, x, dt, out); ``linear``: all other linear
    maps, such as a transformer's."""

    def __post_init__(self) -> None:
        """Refuse a negative rank, a strength that is not positive, and no targets."""
        if self.rank < 0 or (self.alpha is not None and not self.alpha > 0) or not self.targets:
            raise ValueError(
                f"rank must be >= 0, alpha > 0 and targets not empty, got {self.rank}, "
                f"{self.alpha}, {self.targets}"
            )

    @property
    def scale(self) -> float:
        """By what the product of the thin matrices is multiplied."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


class LowRankLinear(nn.Linear):
    """A linear map with an adapted weight."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return nn.functional.linear(x, _summed(self, "weight"), self.bias)

    def reset_parameters(self) -> None:
        """Draw the weight as ever, and the thin matrices."""
        super().reset_parameters()
        _draw(self, "weight")


class LowRankMamba(TriOrientedMamba):
    """A tri-oriented Mamba layer with adapted projections to steps, B and C; a product a direction.

    What ZeRO-3 needs: the thin matrices lie on the module that uses them.
    """

    def reset_parameters(self) -> None:
        """Draw all as ever, and the thin matrices."""
        super().reset_parameters()
        _draw(self, "x_proj", "dt_proj")

    def projections(self) -> tuple[Tensor, Tensor]:
        """``x_proj`` and ``dt_proj`` with what was learned on top."""
        return _summed(self, "x_proj"), _summed(self, "dt_proj")


def adapt(network: nn.Module, config: LoraConfig) -> set[str]:
    """Give matrices of a network their thin ones, in place; what they are and compute stays.

    Args:
        network: also on the meta device.
        config: of which the rank is at least 1.

    Returns:
        Names of the adapted weights, which are not to be trained any more.

    Raises:
        ConfigError: the network has none of the targets.
    """
    adapted: set[str] = set()
    mambas = {n: m for n, m in network.named_modules() if isinstance(m, TriOrientedMamba)}
    for name, module in network.named_modules():
        of_mamba = name in mambas or name.rpartition(".")[0] in mambas
        if ("mamba" if of_mamba else "linear") not in config.targets:
            continue
        # The class alone changes: names, tensors and all who hold the module stay.
        if name in mambas:
            module.__class__, weights = LowRankMamba, ("x_proj", "dt_proj")
        elif type(module) is nn.Linear:
            module.__class__, weights = LowRankLinear, ("weight",)
        else:
            continue
        _join(module, *weights, config=config)
        adapted |= {f"{name}.{weight}" for weight in weights}
    if not adapted:
        raise ConfigError(
            f"lora.rank is {config.rank}: {type(network).__name__} has no layers of "
            f"{' or '.join(config.targets)}; emmamba has mamba, unetr has linear"
        )
    return adapted


def thin(name: str) -> bool:
    """Whether a parameter of this name is one of the thin matrices."""
    return name.endswith((DOWN, UP))


def merged(weights: Mapping[str, Tensor], *, config: LoraConfig) -> dict[str, Tensor]:
    """Whole weights in which each product is added to its matrix, as a plain network has them."""
    plain = {name: tensor for name, tensor in weights.items() if not thin(name)}
    for name, down in weights.items():
        if name.endswith(DOWN):
            stem = name.removesuffix(DOWN)
            plain[stem] = weights[stem] + config.scale * (weights[stem + UP] @ down)
    return plain


def _join(module: nn.Module, *names: str, config: LoraConfig) -> None:
    """Add thin matrices [..., rank, in] and [..., out, rank] to those of shape [..., out, in]."""
    module.lora_scale = config.scale
    for name in names:
        weight = getattr(module, name)
        *stack, rows, columns = weight.shape
        rank = min(config.rank, rows, columns)
        down = weight.new_empty(*stack, rank, columns)
        up = weight.new_empty(*stack, rows, rank)
        setattr(module, name + DOWN, nn.Parameter(down))
        setattr(module, name + UP, nn.Parameter(up))
    _draw(module, *names)


def _draw(module: nn.Module, *names: str) -> None:
    """Draw the thin matrices: one uniform, the other zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # others get the numbers they got
        for name in names:
            down = getattr(module, name + DOWN)
            bound = down.shape[-1] ** -0.5
            down.uniform_(-bound, bound)
            getattr(module, name + UP).zero_()


def _summed(module: nn.Module, name: str) -> Tensor:
    """W + s B A."""
    down, up = getattr(module, name + DOWN), getattr(module, name + UP)
    return getattr(module, name) + module.lora_scale * (up @ down)
