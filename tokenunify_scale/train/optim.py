"""AdamW's parameter groups and the learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

POWER = 0.9  # of the polynomial; source: Chen et al. 2017 (DeepLab)
NO_DECAY = ("A_log", "D", "dt_bias", "bias")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and decay."""

    lr: float = 1e-3
    """Peak learning rate."""

    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; state matrices, norms and biases have none."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moment estimates."""

    warmup: float = 0.05
    """Share of the steps over which the rate rises from 0."""

    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """How the rate falls after the warm-up; ``poly`` is (1 - share of the steps)^0.9."""

    final: float = 0.05
    """Where the rate ends, as a share of its peak."""

    clip: float = 1.0
    """Largest gradient norm; 0 clips nothing."""

    def __post_init__(self) -> None:
        """Refuse rates and shares outside their ranges."""
        if self.lr <= 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError(
                "lr must be > 0, weight_decay and clip >= 0, "
                f"got {self.lr}, {self.weight_decay}, {self.clip}"
            )
        if not 0 <= self.warmup < 1 or not 0 <= self.final <= 1:
            raise ValueError(
                f"warmup must be in [0, 1) and final in [0, 1], got {self.warmup}, {self.final}"
            )


def learning_rate(config: OptimConfig, *, step: int, steps: int) -> float:
    """The rate of a step, counted from 0, of a run of ``steps``."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    share = (step - warmup) / max(steps - warmup, 1)
    low, share = config.lr * config.final, min(share, 1.0)
    if config.schedule == "poly":
        return low + (config.lr - low) * (1 - share) ** POWER
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * share))


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices with weight decay, all else without."""
    decay, plain = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            # Under ZeRO-3 a parameter may be partitioned already; ds_shape is its whole shape.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            exempt = last in NO_DECAY or last.endswith("_bias") or len(shape) < 2
            (plain if exempt else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
