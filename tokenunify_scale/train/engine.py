"""The only door to DeepSpeed: one engine for one rank and a thousand, CPU and GPU."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError, DataError, HostError, did_you_mean
from tokenunify_scale.train.distributed import World, barrier, leave, meet, place
from tokenunify_scale.train.optim import OptimConfig, parameter_groups

MICRO = "train_micro_batch_size_per_gpu"
OWNED = ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping", "optimizer")
STAGES = (0, 1, 2, 3)
NEVER_IN_A_FILE = (*OWNED, "scheduler")


class Step(NamedTuple):
    """What one optimizer step measured, summed over this rank's micro-batches."""

    loss: Tensor
    """Mean loss of this rank's micro-batches."""

    parts: dict[str, Tensor]
    """Terms as [sum, count]."""

    grad_norm: float
    """Global gradient norm before clipping."""


def strategies() -> Path:
    """The folder of ds_configs: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "ds_configs"
    return inside if inside.is_dir() else package.parent / "ds_configs"


def load_strategy(name: str) -> dict[str, Any]:
    """A DeepSpeed strategy: a name of ``ds_configs``, or the path of a file of one's own.

    Raises:
        ConfigError: no such name or file, not JSON, or it holds a key that is derived
            (batch arithmetic, clipping, optimizer, scheduler), or lacks stage or micro-batch.
    """
    path = Path(name) if name.endswith(".json") else strategies() / f"{name}.json"
    if not path.is_file():
        names = sorted(file.stem for file in strategies().glob("*.json"))
        raise ConfigError(f"strategy {name!r}: no file {path}: {did_you_mean(name, names)}")
    try:
        strategy = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    wrong = [key for key in NEVER_IN_A_FILE if key in strategy]
    if wrong:
        raise ConfigError(f"{path} holds {', '.join(wrong)}: these are derived from the run")
    micro, zero = strategy.get(MICRO), strategy.get("zero_optimization")
    if not isinstance(micro, int) or micro < 1:
        raise ConfigError(f"{path}: {MICRO} is {micro!r}, expected the largest that fits, >= 1")
    if not isinstance(zero, dict) or zero.get("stage") not in STAGES:
        raise ConfigError(f"{path}: zero_optimization must hold a stage, one of {STAGES}")
    return strategy


def ds_config(
    strategy: dict[str, Any], *, global_batch: int, clip: float, world: int
) -> dict[str, Any]:
    """DeepSpeed's config for a run: the strategy plus batch arithmetic.

    The micro-batch is the largest divisor of a rank's share that the strategy says fits.

    Args:
        strategy: as ``load_strategy`` returns it.
        global_batch: crops of one optimizer step over all ranks.
        clip: largest gradient norm, 0 for none.
        world: number of ranks.

    Raises:
        ConfigError: the global batch cannot be shared equally.
    """
    if global_batch < 1 or global_batch % world:
        raise ConfigError(f"global_batch {global_batch} is not a multiple of {world} ranks")
    share = global_batch // world
    micro = max(m for m in range(1, share + 1) if share % m == 0 and m <= strategy[MICRO])
    return {
        **strategy,
        MICRO: micro,
        "train_batch_size": global_batch,
        "gradient_accumulation_steps": share // micro,
        "gradient_clipping": float(clip),
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def with_stage(strategy: dict[str, Any], stage: int | None) -> dict[str, Any]:
    """The strategy with another ZeRO stage; None leaves it.

    Raises:
        ConfigError: not a stage.
    """
    if stage is None:
        return strategy
    if stage not in STAGES:
        raise ConfigError(f"zero is {stage}, valid: {', '.join(map(str, STAGES))}")
    return {**strategy, "zero_optimization": {**strategy["zero_optimization"], "stage": stage}}


def state_bytes(parameters: int, *, stage: int, world: int) -> dict[str, float]:
    """Bytes of model state a rank holds: fp32 weights, gradients and AdamW's two moments.

    Activations, buckets and the allocator's slack come on top.

    Source: Rajbhandari et al. 2020 (ZeRO), Fig. 1, for fp32 parameters.
    """
    word = 4.0 * parameters
    return {
        "parameters": word / (world if stage >= 3 else 1),
        "gradients": word / (world if stage >= 2 else 1),
        "optimizer": 2 * word / (world if stage >= 1 else 1),
    }


def join() -> World:
    """Join the job's other ranks: nccl on GPUs, gloo on CPUs. Compiles nothing.

    Raises:
        HostError: DeepSpeed is not installed.
    """
    world = place()
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = _deepspeed()
    if world.device.type == "cpu":
        # Its shared-memory all-reduce would be built with a compiler at every first use, leaks
        # /dev/shm, and a rank killed while building leaves a lock that later runs wait on.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    meet(world, backend=backend)
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # DeepSpeed insists
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return world


class Engine:
    """An objective under DeepSpeed: steps, checkpoints, gathered weights."""

    def __init__(
        self, objective: nn.Module, *, optim: OptimConfig, config: dict[str, Any], world: World
    ) -> None:
        """Wrap the objective; ``config`` is what ``ds_config`` returned."""
        groups = parameter_groups(objective, optim)
        adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
        self.world, self.objective = world, objective
        self.micro_batch = config[MICRO]
        self.accumulation = config["gradient_accumulation_steps"]
        self.stage = config["zero_optimization"]["stage"]
        self._engine, self._optimizer, _, _ = _deepspeed().initialize(
            model=objective, optimizer=adamw, config=config, dist_init_required=False
        )

    def step(self, batches: Sequence[dict[str, Tensor]], *, lr: float, progress: float) -> Step:
        """One optimizer step over this rank's micro-batches.

        Args:
            batches: each a dict of tensors; ``crops`` uint8 [B, C, D, H, W].
            lr: the step's learning rate.
            progress: share of training done, handed to the objective.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        loss, parts, norm = torch.zeros((), device=self.world.device), {}, None
        for batch in batches:
            output = self._engine(self._place(batch), progress=progress)
            self._engine.backward(output.loss)
            if self.stage == 0 and self._engine.is_gradient_accumulation_boundary():
                norm = self._norm()  # without ZeRO DeepSpeed clips, but does not tell
            self._engine.step()
            loss += output.loss.detach() / len(batches)
            for name, value in output.parts.items():
                parts[name] = parts.get(name, 0) + value
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return Step(loss, parts, float(norm))

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor], *, progress: float) -> Step:
        """The objective on one micro-batch, in evaluation mode and without a gradient."""
        self._engine.eval()
        try:
            output = self._engine(self._place(batch), progress=progress)
        finally:
            self._engine.train()
        return Step(output.loss, output.parts, 0.0)

    def save(self, folder: Path, *, tag: str, state: dict[str, Any]) -> None:
        """Write a checkpoint of all ranks; complete when this returns on any of them."""
        self._engine.save_checkpoint(str(folder), tag=tag, client_state=state, save_latest=False)
        barrier()

    def load(self, folder: Path, *, tag: str) -> dict[str, Any]:
        """Restore weights and optimizer from a checkpoint, and return the state saved with it.

        Raises:
            DataError: DeepSpeed finds no usable checkpoint there, or one of another world size.
        """
        try:
            path, state = self._engine.load_checkpoint(str(folder), tag=tag)
        except Exception as error:  # DeepSpeed raises bare classes of many kinds here
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise DataError(f"checkpoint {folder / tag} cannot be restored: {reason}") from error
        if path is None:
            raise DataError(f"checkpoint {folder / tag} cannot be restored: nothing was read")
        return state

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Whole parameters and buffers of a part of the objective, on rank 0's CPU; {} elsewhere.

        Collective: every rank must call it. One parameter is gathered at a time. Buffers (the
        running statistics of a batch norm) are those of rank 0.
        """
        zero = _deepspeed().zero
        whole: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            with zero.GatheredParameters([parameter], enabled=self.stage == 3):
                if self.world.is_main:
                    whole[name] = parameter.detach().float().cpu().clone()
        if self.world.is_main:
            whole.update((name, buffer.cpu().clone()) for name, buffer in module.named_buffers())
        return whole

    def close(self) -> None:
        """Leave the job."""
        leave()

    def _norm(self) -> Tensor:
        """Norm of the gradients, which every rank holds whole and averaged."""
        grads = [p.grad for p in self.objective.parameters() if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))

    def _place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move to the device; uint8 crops become floats in [0, 1] there."""
        device = self.world.device
        placed = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        return {**placed, "crops": placed["crops"].float() / 255}


def _deepspeed() -> Any:
    """DeepSpeed, quiet."""
    try:
        import deepspeed
    except ImportError as error:
        raise HostError(f"DeepSpeed cannot be imported ({error}): pip install deepspeed") from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed
