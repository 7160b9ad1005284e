"""What every training asks for: how long, how fast, how often it writes, what it survives."""

from dataclasses import dataclass, field
from typing import Any

from tokenunify_scale.train.guard import GuardConfig
from tokenunify_scale.train.optim import OptimConfig
from tokenunify_scale.train.retention import SaveConfig
from tokenunify_scale.train.strategy import ds_config, load_strategy, with_stage
from tokenunify_scale.train.telemetry import TelemetryConfig


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training verb asks for."""

    steps: int = 1000
    """Optimizer steps of the whole run."""

    global_batch: int = 8
    """Crops of one optimizer step, over all ranks."""

    seed: int = 0
    """Of weights, order, masks and augmentation."""

    expect_world: int | None = None
    """Ranks that the job must have, else it refuses to train; with --dry-run, that it would have.
    The environment's TOKENUNIFY_EXPECT_WORLD promises too."""

    hostfile: str | None = None
    """With --dry-run: the hosts of the job that is planned, as DeepSpeed's launcher reads them."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its schedule."""

    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    """Where the run can be watched."""

    strategy: str | None = None
    """A name of ds_configs or a JSON file; by default the one named as the model's size."""

    recompute: tuple[str, ...] = ()
    """Blocks whose activations are computed again in the backward pass, not kept: decoder2, mamba,
    all."""

    zero: int | None = None
    """ZeRO stage, where it is to differ from the strategy's."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; each line is the mean since the one before."""

    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""

    saves: SaveConfig = field(default_factory=SaveConfig)
    """Which checkpoints stay."""

    guard: GuardConfig = field(default_factory=GuardConfig)
    """Which steps are skipped, and when the run goes back to a checkpoint."""

    hang_after: float = 1800.0
    """Seconds without a sign of life after which a rank ends itself, saying where it stood; 0 waits
    for ever. Loading and saving may take four times as long."""

    def __post_init__(self) -> None:
        """Refuse counts below 1, negative times, and to keep saves that are never written."""
        for name in ("steps", "global_batch", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.expect_world is not None and self.expect_world < 1:
            raise ValueError(f"expect_world must be >= 1, got {self.expect_world}")
        if not self.hang_after >= 0:
            raise ValueError(f"hang_after must be >= 0, got {self.hang_after}")
        if self.saves.keep_every % self.save_every:
            raise ValueError(
                f"saves.keep_every {self.saves.keep_every} is not a multiple of save_every "
                f"{self.save_every}"
            )


def deepspeed_config(training: Training, *, size: str, world: int) -> dict[str, Any]:
    """DeepSpeed's config for a training of a model of this size on ``world`` ranks.

    Raises:
        ConfigError: unknown strategy or stage, or a batch that ``world`` ranks cannot share.
    """
    strategy = with_stage(load_strategy(training.strategy or size), training.zero)
    return ds_config(
        strategy, global_batch=training.global_batch, clip=training.optim.clip, world=world
    )
