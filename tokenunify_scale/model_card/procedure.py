"""How weights were trained: a table with a column for each training."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.shards.index import INDEX, read_index
from tokenunify_scale.model_card.records import NONE, Lineage, Record
from tokenunify_scale.model_card.sources import times, told
from tokenunify_scale.models.load import strategy_of
from tokenunify_scale.models.published import published
from tokenunify_scale.train.strategy import load_strategy, with_stage

UNKNOWN = "not measured"
VERBS = {"pretrain": "pretraining", "finetune": "fine-tuning", "import_official": "import"}
Cell = Callable[[Record], str | None]


def kind(stage: Record) -> str:
    """What a run did, in a word."""
    return VERBS.get(stage.verb, stage.verb)


def procedure(line: Lineage) -> str:
    """How the weights were trained: a table, and what it does not hold."""
    trained = [stage for stage in line.stages if stage.verb != "import_official"]
    parts = [_imported(stage) for stage in line.stages if stage.verb == "import_official"]
    if line.lost:
        parts.append(
            f"The first weights came from `{line.lost}`, whose own records were not there any more "
            "when this card was written: how those were made is not known here."
        )
    if trained:
        cells = {**CELLS, "started from": lambda stage: _start(stage, line=line)}
        parts += [table(trained, cells), *filter(None, map(_ending, trained))]
    return "\n\n".join(parts)


def table(stages: Sequence[Record], cells: dict[str, Cell]) -> str:
    """Rows by name; what no record tells is not measured."""
    heads = ["", *map(kind, stages)]
    rows = [
        [name, *(told if (told := cell(stage)) is not None else UNKNOWN for stage in stages)]
        for name, cell in cells.items()
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _imported(stage: Record) -> str:
    file = told(str(stage.result.get("file") or stage.config.get("file")))
    sha256 = stage.result.get("sha256", UNKNOWN)
    return f"Trained elsewhere; read from `{file}` (sha256 `{sha256}`)."


def _ending(stage: Record) -> str | None:
    """What is to be said of weights that are not those of the last step of a finished run."""
    if stage.tag is not None:
        state = "" if stage.result else ": training had not finished"
        return f"The weights of the {kind(stage)} are those of checkpoint `{stage.tag}`{state}."
    if best := stage.result.get("best"):
        scores = ", ".join(f"{k} {v:.4g}" for k, v in best.items() if isinstance(v, float))
        return (
            f"The weights of the {kind(stage)} are those of step {best['step']:,} of "
            f"{stage.result['steps']:,}, the best on sections that it was validated on ({scores})."
        )
    return None


def _start(stage: Record, *, line: Lineage) -> str:
    place = stage.config.get("init")
    if place in NONE:
        return "fresh weights"
    before = line.stages.index(stage) - 1
    name = f"`{told(str(place))}`" if before < 0 else f"the {kind(line.stages[before])}"
    parts = stage.config.get("load")
    return name + (f" ({', '.join(parts)})" if parts else "")


def _objective(stage: Record) -> str | None:
    options = stage.config.get("objective") or {}
    told = [
        f"{key} {_word(value)}"
        for key, value in options.items()
        if key != "name" and not isinstance(value, dict) and value is not None
    ]
    return (stage.objective or "") + (f" ({'; '.join(told)})" if told else "") or None


def _word(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    numbers = all(isinstance(each, int | float) for each in value)
    return times(value) if numbers else ", ".join(map(_word, value))


def _steps(stage: Record) -> str | None:
    asked = stage.config.get("steps")
    if stage.steps is None or stage.steps == asked:
        return None if asked is None else f"{asked:,}"
    return f"{stage.steps:,} of {asked:,}" if asked else f"{stage.steps:,}"


def crop_of(stage: Record) -> list[int] | None:
    """Size (z, y, x) in voxels of a training crop; None where it is not known any more."""
    if crop := stage.config.get("crop"):
        return crop
    if stage.verb == "finetune":
        name = _model(stage)
        return [*published(name).crop] if name else None
    try:
        crops = {read_index(stage.find(s) / INDEX).crop for s in stage.listed("shards")}
    except (ConfigError, OSError, ValueError):
        return None
    return [*crops.pop()] if len(crops) == 1 else None


def _crop(stage: Record) -> str | None:
    crop = crop_of(stage)
    return crop and f"{times(crop)} voxels"


def _model(stage: Record) -> str | None:
    noted = (stage.environment.get("weights") or {}).get("model")
    named = stage.result.get("model") or stage.config.get("model") or noted or {}
    return named.get("name")


def _rate(stage: Record) -> str | None:
    optim = stage.config.get("optim")
    if not optim:
        return None
    fall = "" if optim["schedule"] == "constant" else f" to {100 * optim['final']:g} % of it"
    return (
        f"{optim['lr']:g} at its peak, reached after {100 * optim['warmup']:g} % of the steps, "
        f"then {optim['schedule']}{fall}"
    )


def _optimizer(stage: Record) -> str | None:
    optim = stage.config.get("optim")
    if not optim:
        return None
    first, second = optim["betas"]
    clip = f"gradient norm clipped at {optim['clip']:g}" if optim["clip"] else "no clipping"
    return f"AdamW, betas {first:g} and {second:g}, weight decay {optim['weight_decay']:g}, {clip}"


def _changes(stage: Record) -> str | None:
    augment = stage.config.get("augment")
    if augment is None:
        return None
    names = [k for k, each in augment.items() if isinstance(each, dict) and each.get("p")]
    return ", ".join(names).replace("_", " ") or "none"


def _adapted(stage: Record) -> str | None:
    if rank := (stage.config.get("lora") or {}).get("rank"):
        return f"thin matrices of rank {rank} beside frozen ones (LoRA), added in"
    return ", ".join(stage.config.get("train") or []) or "all"


def _strategy(stage: Record) -> dict[str, Any]:
    """DeepSpeed's settings of a run; {} where its file is not there."""
    name = stage.config.get("strategy") or (_model(stage) and strategy_of(_model(stage)))
    try:
        return with_stage(load_strategy(name), stage.config.get("zero")) if name else {}
    except ConfigError:
        return {}


def _zero(stage: Record) -> str | None:
    found = _strategy(stage).get("zero_optimization")
    return found and str(found["stage"])


def _precision(stage: Record) -> str | None:
    settings = _strategy(stage)
    if not settings:
        return None
    if (settings.get("bf16") or {}).get("enabled"):
        return "bfloat16"
    autocast = settings.get("torch_autocast") or {}
    return f"float32, products in {autocast['dtype']}" if autocast.get("enabled") else "float32"


def _versions(stage: Record) -> str | None:
    packages = dict(stage.environment.get("packages") or {})
    words = [f"{name} {version}" for name, version in packages.items()]
    python = stage.environment.get("python")
    return ", ".join([*words, *([f"python {python}"] if python else [])]) or None


def _text(key: str, form: str = "{}") -> Cell:
    """A cell with a number of the config."""
    return lambda stage: None if stage.config.get(key) is None else form.format(stage.config[key])


def world_of(stage: Record) -> int | None:
    """Ranks of a training."""
    return stage.environment.get("world") or stage.result.get("world")


CELLS: dict[str, Cell] = {
    "run": lambda stage: f"`{stage.name}`",
    "objective": _objective,
    "started from": lambda stage: None,
    "trained parts": _adapted,
    "steps": _steps,
    "crops seen": lambda stage: None if stage.crops is None else f"{stage.crops:,}",
    "crop (z, y, x)": _crop,
    "global batch (crops)": _text("global_batch", "{:,}"),
    "learning rate": _rate,
    "optimizer": _optimizer,
    "augmentation": _changes,
    "seed": _text("seed"),
    "ranks": lambda stage: None if world_of(stage) is None else str(world_of(stage)),
    "ZeRO stage": _zero,
    "precision": _precision,
    "versions": _versions,
    "git commit": lambda stage: stage.environment.get("git_commit"),
}
