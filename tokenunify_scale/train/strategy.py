"""How a network is sharded over its ranks: ds_configs' files, and batch arithmetic."""

import json
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import ConfigError, did_you_mean

MICRO = "train_micro_batch_size_per_gpu"
OWNED = ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping", "optimizer")
STAGES = (0, 1, 2, 3)
NEVER_IN_A_FILE = (*OWNED, "scheduler")


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
        ConfigError: the global batch cannot be shared equally, or precision, offload and stage do
            not go together.
    """
    _refuse_discord(strategy)
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


def _refuse_discord(strategy: dict[str, Any]) -> None:
    """What DeepSpeed would take and ignore, or compute otherwise than the names say."""
    zero, optimizer, param = (strategy["zero_optimization"], *_offloads(strategy).values())
    stage, narrow = zero["stage"], is_narrow(strategy)
    autocast = strategy.get("torch_autocast", {}).get("enabled")
    accumulated = strategy.get("data_types", {}).get("grad_accum_dtype")
    paths = [zero[key].get("nvme_path") for key, at in _offloads(strategy).items() if at == "nvme"]
    wrong = {
        "fp16 overflows: take bf16 or torch_autocast": strategy.get("fp16", {}).get("enabled"),
        "bf16 and torch_autocast are two ways to the same: take one": narrow and autocast,
        "bf16 needs ZeRO stage 1, 2 or 3, which keep weights in fp32 too": narrow and stage == 0,
        "grad_accum_dtype with bf16 needs stage 2 or 3": narrow and stage == 1 and accumulated,
        "offload_optimizer needs ZeRO stage 1, 2 or 3": optimizer != "none" and stage == 0,
        "offload_optimizer to nvme needs ZeRO stage 3": optimizer == "nvme" and stage < 3,
        "offload_param needs ZeRO stage 3": param != "none" and stage < 3,
        "offload to nvme needs nvme_path, a folder on a local disk": not all(paths),
    }
    if found := [what for what, there in wrong.items() if there]:
        raise ConfigError(f"strategy at ZeRO stage {stage}: {'; '.join(found)}")


def _offloads(config: dict[str, Any]) -> dict[str, str]:
    """Where optimizer and parameters are kept between uses: none, cpu or nvme."""
    zero = config["zero_optimization"]
    parts = ("offload_optimizer", "offload_param")
    return {part: zero.get(part, {}).get("device", "none") for part in parts}


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


def is_narrow(config: dict[str, Any]) -> bool:
    """Whether weights and gradients have 16 bits beside a master copy in fp32: mode ``bf16``."""
    return bool(config.get("bf16", {}).get("enabled"))


def computed_in(config: dict[str, Any]) -> str:
    """The type that matrix products and convolutions are computed in under a strategy."""
    autocast = config.get("torch_autocast", {})
    if autocast.get("enabled"):
        return autocast.get("dtype", "bfloat16")
    return "bfloat16" if is_narrow(config) else "float32"


def offload_of(config: dict[str, Any]) -> Literal["none", "cpu", "nvme"]:
    """The slowest place where model state is kept under a strategy."""
    places = {*_offloads(config).values()}
    return "nvme" if "nvme" in places else "cpu" if "cpu" in places else "none"
