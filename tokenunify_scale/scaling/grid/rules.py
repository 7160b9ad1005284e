"""What a study derives for each size: learning rates by a rule, steps from an equal budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.grid.axes import merged

BACKWARD = 2  # forward passes that a backward pass costs
PATCH = (4, 16, 16)  # voxels (z, y, x) of a token, where the objectives do not say another


@dataclass(frozen=True, kw_only=True)
class LrRule:
    """Learning rates that fall with the size: lr (parameters of ``size`` / own) ^ power."""

    lr: float
    """Peak learning rate at ``size``."""

    size: str
    """As the study's sizes are written; it need not be one of them."""

    power: float = 0.25
    """With parameters; they grow as the square of the width, so that 0.25 is the inverse root of
    the width, and 0 one rate for all."""

    stages: tuple[str, ...] = ("pretrain", "finetune")
    """Whose learning rates it sets."""

    def __post_init__(self) -> None:
        """Refuse rates that are not positive, and stages that do not train."""
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not self.stages or not {*self.stages} <= {"pretrain", "finetune"}:
            raise ValueError(f"stages are pretrain and finetune, got {list(self.stages)}")

    def rate(self, model: str, *, reference: str) -> float:
        """Of one model, to two digits; ``reference`` is the model of ``size``."""
        ratio = parameters(reference) / parameters(model)
        return float(f"{self.lr * ratio**self.power:.2g}")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each training of a stage may use, whatever its size: one of these."""

    crops: float | None = None
    tokens: float | None = None
    """Patches that the network is shown."""
    voxels: float | None = None
    pflop: float | None = None
    """1e15 floating-point operations of the network, 6 for a multiply-accumulate of its forward
    pass; objectives with several passes a step use more."""

    def __post_init__(self) -> None:
        """Refuse anything but one positive amount."""
        given = [value for value in vars(self).values() if value is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError("a budget is one of crops, tokens, voxels and pflop, greater than 0")

    def steps(self, settings: Mapping[str, Any], *, model: str, stage: str) -> int:
        """Optimizer steps that the budget allows, at least one.

        Args:
            settings: of the stage; ``global_batch`` and ``crop`` are read.
            model: registry name.
            stage: for errors.

        Raises:
            ConfigError: settings that lack one of the two, or say how many steps.
        """
        if "steps" in settings:
            raise ConfigError(f"{stage}.steps is decided by budget.{stage}")
        for key in ("global_batch", "crop"):
            if key not in settings:
                raise ConfigError(f"budget.{stage} needs {stage}.{key}: it counts crops")
        crop = tuple(int(side) for side in settings["crop"])
        batch = int(settings["global_batch"])
        patch = (settings.get("objective") or {}).get("patch", PATCH)
        if self.crops is not None:
            each = self.crops
        elif self.pflop is not None:
            each = self.pflop / (2e-6 * (1 + BACKWARD) * gmac(model, crop))
        else:
            voxels = crop[0] * crop[1] * crop[2]
            token = patch[0] * patch[1] * patch[2]
            each = self.voxels / voxels if self.voxels else self.tokens * token / voxels
        return max(1, round(each / batch))


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Budgets of the stages that train, in place of their steps."""

    pretrain: Budget | None = None
    finetune: Budget | None = None


def ruled(
    settings: Mapping[str, Any], rule: LrRule | None, *, stage: str, model: str, reference: str
) -> dict[str, Any]:
    """Settings of a stage with the learning rate that the rule gives, if it is for that stage.

    Raises:
        ConfigError: the settings have a rate too.
    """
    if rule is None or stage not in rule.stages:
        return dict(settings)
    if "lr" in (settings.get("optim") or {}):
        raise ConfigError(f"{stage}.optim.lr is decided by lr; by_size and axes may change it")
    return merged(settings, {"optim": {"lr": rule.rate(model, reference=reference)}})


@cache
def parameters(model: str) -> int:
    """Parameters of a registered model that gives affinities, counted without allocating them.

    Raises:
        ConfigError: unknown model.
    """
    import torch

    from tokenunify_scale.models import build_model
    from tokenunify_scale.models.load import parameters_of

    with torch.device("meta"):
        return parameters_of(build_model(model))


@cache
def gmac(model: str, crop: tuple[int, int, int]) -> float:
    """Multiply-accumulates of a crop's forward pass, in 1e9.

    Raises:
        ConfigError: unknown model, or a crop that it cannot take.
    """
    import torch

    from tokenunify_scale.models import build_model
    from tokenunify_scale.models.count import cost

    with torch.device("meta"):
        return cost(build_model(model), crop=crop).gmac
