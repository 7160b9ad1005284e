"""An objective under DeepSpeed: one engine for one rank and a thousand, CPU and GPU."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenunify_scale.config import DataError
from tokenunify_scale.train.atoms import ORDER, read_save
from tokenunify_scale.train.construct import materialise
from tokenunify_scale.train.distributed import World, barrier
from tokenunify_scale.train.door import deepspeed, leave
from tokenunify_scale.train.optim import OptimConfig, parameter_groups
from tokenunify_scale.train.portable import restore
from tokenunify_scale.train.strategy import MICRO, computed_in, is_narrow, offload_of
from tokenunify_scale.train.zero import Filler, in_parts, refuse, settle, sharder


class Step(NamedTuple):
    """What one optimizer step measured, summed over this rank's micro-batches."""

    loss: Tensor
    """Mean loss of this rank's micro-batches."""

    parts: dict[str, Tensor]
    """Terms as [sum, count]."""

    grad_norm: float
    """Global gradient norm before clipping; not finite where the step was refused for it."""

    applied: bool = True
    """Whether the step was taken."""


class Engine:
    """An objective under DeepSpeed: steps, checkpoints, gathered weights."""

    def __init__(
        self,
        objective: nn.Module,
        *,
        optim: OptimConfig,
        config: dict[str, Any],
        world: World,
        seed: int = 0,
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Wrap the objective.

        Args:
            objective: what of it lies on the meta device is drawn here, unit by unit; under ZeRO-3
                each rank keeps its part of a unit at once, and no rank ever holds the whole. Its
                modules that have a method ``refused`` or ``restored`` are told so, of a step that
                was not taken and of a checkpoint.
            optim: of AdamW.
            config: what ``ds_config`` returned.
            world: this process's place.
            seed: of what is drawn.
            given: tensors by name, in place of drawn ones.
        """
        sharded = config["zero_optimization"]["stage"] == 3
        keep = sharder(config, world) if sharded else None
        materialise(objective, seed=seed, given=given, keep=keep)
        self._narrow = is_narrow(config)
        if self._narrow:  # 16-bit weights beside float crops, and norms and losses in float
            objective.forward = partial(_narrowly, objective.forward, device=world.device.type)
        groups = parameter_groups(objective, optim)
        adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
        self.world, self.objective, self._settings = world, objective, config
        self.micro_batch = config[MICRO]
        self.accumulation = config["gradient_accumulation_steps"]
        self.stage = config["zero_optimization"]["stage"]
        self.offload = offload_of(config)
        self.precision = {"computed_in": computed_in(config), "device": world.device.type}
        parts = config["zero_optimization"].get("sub_group_size") if sharded else None
        self.layout = {"world": world.size, "stage": self.stage, "sub_group_size": parts}
        self.layout |= {"bf16": self._narrow}
        self._engine, self._optimizer, _, _ = deepspeed().initialize(
            model=objective, optimizer=adamw, config=config, dist_init_required=False
        )

    def step(
        self,
        batches: Sequence[dict[str, Tensor]],
        *,
        lr: float,
        progress: float,
        accept: Callable[[Tensor], bool],
    ) -> Step:
        """One optimizer step over this rank's micro-batches, unless it must not be taken.

        A step whose gradient norm is not finite is never taken; nor is one that ``accept`` refuses.

        Args:
            batches: each a dict of tensors; ``crops`` uint8 [B, C, D, H, W].
            lr: the step's learning rate.
            progress: share of training done, handed to the objective.
            accept: called once with this rank's mean loss, after the backward pass; the same
                answer on all ranks.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        # What a forward pass changes beside gradients: statistics of norms.
        before = [buffer.clone() for buffer in self.objective.buffers()]
        loss, parts, last = torch.zeros((), device=self.world.device), {}, len(batches) - 1
        for number, batch in enumerate(batches):
            output = self._engine(self._place(batch), progress=progress)
            self._engine.backward(output.loss)
            loss += output.loss.detach() / len(batches)
            for name, value in output.parts.items():
                parts[name] = parts.get(name, 0) + value
            if number < last:
                self._engine.step()
        # Without ZeRO DeepSpeed clips, but does not tell; nor does it refuse.
        norm = float(self._norm()) if self.stage == 0 else 0.0
        if accept(loss) and math.isfinite(norm):
            self._engine.step()
            norm = norm if self.stage == 0 else float(self._engine.get_global_grad_norm())
            applied = self.stage == 0 or self._engine.was_step_applied()
        else:
            refuse(self._engine, stage=self.stage)
            applied = False
        if not applied:
            settle(self._engine.optimizer, stage=self.stage)
            for buffer, kept in zip(self.objective.buffers(), before, strict=True):
                buffer.copy_(kept)
            self._tell("refused")
        return Step(loss, parts, norm, applied)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor], *, progress: float) -> Step:
        """The objective on one micro-batch, in evaluation mode and without a gradient."""
        with self._evaluating():
            output = self._engine(self._place(batch), progress=progress)
        return Step(output.loss, output.parts, 0.0)

    @torch.no_grad()
    def probe(self, batch: dict[str, Tensor], *, progress: float) -> float:
        """The loss as ``evaluate`` gives it, in fp32: stages round differently in 16 bits."""
        with self._evaluating():
            return float(self.objective(self._place(batch), progress=progress).loss)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode; afterwards all is as a training step expects it."""
        self._engine.eval()
        try:
            yield
        finally:
            self._engine.train()
            in_parts(self._engine.optimizer, stage=self.stage)

    def save(self, folder: Path, *, tag: str, state: dict[str, Any]) -> None:
        """Write a checkpoint of all ranks; complete when this returns on any of them."""
        if self.stage == 0:  # the one stage whose files do not say which state is whose
            names = {p: name for name, p in self.objective.named_parameters()}
            groups = self._optimizer.param_groups
            state = {**state, ORDER: [names[p] for group in groups for p in group["params"]]}
        self._engine.save_checkpoint(str(folder), tag=tag, client_state=state, save_latest=False)
        barrier()

    def load(self, folder: Path, *, tag: str, alike: bool = True) -> dict[str, Any]:
        """Restore weights and optimizer from a checkpoint, and return the state saved with it.

        Args:
            folder: where checkpoints are.
            tag: which one.
            alike: whether an engine of the same ``layout`` saved it: then each rank reads its own
                file. Otherwise all ranks read all files, one parameter at a time.

        Raises:
            ConfigError: this run's config cannot take up a checkpoint that is not alike.
            DataError: it is damaged, of another network, or of a kind that cannot be restored.
        """
        state = self._load_alike(folder, tag) if alike else self._load_other(folder / tag)
        self._tell("restored")
        return state

    def _load_alike(self, folder: Path, tag: str) -> dict[str, Any]:
        try:
            path, state = self._engine.load_checkpoint(str(folder), tag=tag)
        except Exception as error:  # DeepSpeed raises bare classes of many kinds here
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise DataError(f"checkpoint {folder / tag} cannot be restored: {reason}") from error
        if path is None:
            raise DataError(f"checkpoint {folder / tag} cannot be restored: nothing was read")
        return state

    def _load_other(self, folder: Path) -> dict[str, Any]:
        """Restore what another number of ranks saved, or another stage."""
        saved = read_save(folder)
        filler = Filler(
            self._engine.optimizer,
            stage=self.stage,
            rank=self.world.rank,
            step=saved.step() if self.stage else None,
        )
        with filler:
            restore(saved, self.objective, settings=self._settings, place=filler.place)
        for name, count in saved.counts.items():
            setattr(self._engine, name, count)
        barrier()
        return saved.state

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Whole parameters and buffers of a part of the objective, on rank 0's CPU; {} elsewhere.

        Collective: every rank must call it. One parameter is gathered at a time. Buffers (the
        running statistics of a batch norm) are those of rank 0.
        """
        whole: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            with self._gathered(parameter) as value:
                if self.world.is_main:
                    whole[name] = value.detach().float().cpu().clone()
        if self.world.is_main:
            whole.update((name, buffer.cpu().clone()) for name, buffer in module.named_buffers())
        return whole

    @contextmanager
    def _gathered(self, parameter: nn.Parameter) -> Iterator[Tensor]:
        """A whole parameter; its copy in fp32 where weights have 16 bits and it is trained."""
        if self._narrow and parameter.requires_grad:
            yield deepspeed().utils.safe_get_full_fp32_param(parameter)
            return
        with deepspeed().zero.GatheredParameters([parameter], enabled=self.stage == 3):
            yield parameter

    def forget(self) -> None:
        """Free what only further steps need, AdamW's moments: half of the state, and more."""
        outer = self._engine.optimizer
        getattr(outer, "optimizer", outer).state.clear()

    def close(self) -> None:
        """Leave the job."""
        leave()

    def _tell(self, what: str) -> None:
        """Call a method of all parts of the objective that have it, such as a teacher's."""
        for module in self.objective.modules():
            if (told := getattr(module, what, None)) is not None:
                told()

    def _norm(self) -> Tensor:
        """Norm of the gradients, which every rank holds whole and averaged."""
        grads = [p.grad for p in self.objective.parameters() if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))

    def _place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move to the device; uint8 crops become floats in [0, 1] there."""
        device = self.world.device
        placed = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        return {**placed, "crops": placed["crops"].float() / 255}


def _narrowly(forward: Callable[..., Any], *inputs: Any, device: str, **options: Any) -> Any:
    """A forward pass with 16-bit weights, each operation in the type that suits it."""
    with torch.autocast(device, dtype=torch.bfloat16):
        return forward(*inputs, **options)
