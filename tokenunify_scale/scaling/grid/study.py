"""What a study recipe says: a grid, names for what is learned, and the settings of its stages."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tokenunify_scale.config import ConfigError, did_you_mean
from tokenunify_scale.registry import Entry, Registry
from tokenunify_scale.scaling.grid.axes import NAME, read_axes
from tokenunify_scale.scaling.grid.rules import Budgets, LrRule

RANDOM = "random"
WORDS = ("size", "init", "seed", "model")
MEASURED = (  # columns of a study's table, which no axis may be called
    "parameters", "missing", "seconds", "pretrain_loss", "finetune_loss", "pretrain_crops",
    "finetune_crops", "voi", "voi_split", "voi_merge", "arand",
)  # fmt: skip
TRAINS = ("pretrain", "finetune")  # stages that train, and can be spread over hosts
# What the grid tells each stage. {stage} is the folder of that stage's run in the same cell.
# The objective of a pretraining is not here: objectives_of has it.
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {"model": {"name": "{model}"}, "seed": "{seed}"},
    "finetune": {"model": {"name": "{model}"}, "init": "{pretrain}", "seed": "{seed}"},
    "predict": {"model": "{finetune}"},
    "segment": {"affinities": "{predict}"},
    "evaluate": {"segmentation": "{segment}", "affinities": "{predict}"},
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of sizes, initialisations and seeds, and what every run of it shares."""

    name: str
    """What the study is called; its results go to runs/NAME unless --out says otherwise."""

    sizes: tuple[str, ...]
    """Model sizes, as in emmamba_SIZE. Runs start in this order, so the slowest size goes first."""

    inits: tuple[str, ...]
    """What a model starts from: pretraining objectives, by their names or those of `objectives`, or
    random for none."""

    objectives: Mapping[str, Any] = field(default_factory=dict)
    """Objectives under names of the study's own: NAME to its settings, {name: mae, ratio: 0.9}."""

    seeds: tuple[int, ...] = (0,)
    """Each cell of the grid is run once for each of these."""

    only: Mapping[str, Any] = field(default_factory=dict)
    """Sizes that do not start from everything: SIZE to the inits it has."""

    axes: Mapping[str, Any] = field(default_factory=dict)
    """More axes, of anything: a setting with its values, {finetune.optim.lr: [1e-3, 5e-3]}, or NAME
    to named values, {parts: {mamba: {finetune: {train: [mamba]}}}}. A run that an axis does not
    change, nor anything before it, is shared by its values. Settings may write the value's name as
    {NAME}, and so may `model`."""

    by_size: Mapping[str, Any] = field(default_factory=dict)
    """SIZE to settings of stages that it has beyond those of all: {atto: {finetune: {...}}}."""

    lr: LrRule | None = None
    """Learning rates of all sizes from that of one; without it, as the stages' settings say."""

    budget: Budgets = field(default_factory=Budgets)
    """How much each training may use, in crops, tokens, voxels or FLOPs, in place of its steps."""

    words: Mapping[str, Any] = field(default_factory=dict)
    """What settings write as {NAME}, such as the folder of the data: --set words.data=DIR."""

    model: str = "emmamba_{size}"
    """Registry name of the model, with the size and any axis filled in."""

    models: Mapping[str, str] = field(default_factory=dict)
    """Names of the study's own for models: {100M: emmamba_small}; what it lacks is registered."""

    threads: int = 1
    """Threads a job gets where several run side by side."""

    prepare: Mapping[str, Any] = field(default_factory=dict)
    """Data made once: NAME to settings of `prepare`. Other stages write its folder as {NAME}."""

    pretrain: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every pretraining; model, objective and seed come from the grid. Those of its
    `objective` go to every objective that has them, below what `objectives` says."""

    finetune: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every fine-tuning; model, init and seed come from the grid."""

    predict: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every prediction; the model comes from the grid."""

    segment: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every segmentation; the affinities come from the grid."""

    evaluate: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every evaluation; segmentation and affinities come from the grid."""

    def __post_init__(self) -> None:
        """Refuse empty or repeating axes, and data or objectives without a usable name."""
        for axis, values in (("sizes", self.sizes), ("inits", self.inits), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{axis} must be one or more different values, got {list(values)}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        taken = (*WORDS, *STAGES, *self.prepare)
        read_axes(self.axes, stages=(*STAGES,), taken=(*taken, *self.words, *MEASURED))
        for name, value in self.words.items():
            if name in taken or not re.fullmatch(r"\w+", str(name)):
                raise ValueError(
                    f"words.{name} is {value!r}: names are letters, digits, _; taken: "
                    f"{', '.join(taken)}"
                )
        taken = (*WORDS, *STAGES)
        for name, settings in self.prepare.items():
            if name in taken or not re.fullmatch(r"\w+", str(name)):
                raise ValueError(f"prepare.{name}: names are letters, digits, _; taken: {taken}")
            if not isinstance(settings, Mapping):
                raise ValueError(f"prepare.{name} is {settings!r}, expected settings of `prepare`")
        if self.objectives:
            self._check_objectives()
        for size, inits in self.only.items():
            known = isinstance(inits, list) and inits and {*inits} <= {*self.inits}
            if size not in self.sizes or not known:
                raise ValueError(
                    f"only.{size} is {inits!r}: expected a size of {list(self.sizes)} and a list "
                    f"of some of {list(self.inits)}"
                )
        for size, stages in self.by_size.items():
            known = isinstance(stages, Mapping) and {*stages} <= {*STAGES}
            if size not in self.sizes or not known:
                raise ValueError(
                    f"by_size.{size} is {stages!r}: expected a size of {list(self.sizes)} and "
                    f"settings of some of {list(STAGES)}"
                )

    @cached_property
    def grid(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The axes: for each, settings of stages by the labels of its values."""
        return read_axes(self.axes, stages=(*STAGES,), taken=WORDS)

    def _check_objectives(self) -> None:
        known = _registered().names()
        for name, settings in self.objectives.items():
            where = f"objectives.{name}"
            if name in (RANDOM, *known):
                raise ValueError(
                    f"{where}: the name is taken, as are {', '.join((RANDOM, *known))}"
                )
            if not re.fullmatch(NAME, str(name), re.ASCII):
                raise ValueError(f"{where}: names are letters, digits, _, + and -")
            if not isinstance(settings, Mapping) or "name" not in settings:
                raise ValueError(f"{where} is {settings!r}, expected {{name: OBJECTIVE, ...}}")
            if settings["name"] not in known:
                hint = did_you_mean(str(settings["name"]), known)
                raise ValueError(f"{where}.name is {settings['name']!r}: {hint}")
        valid = [*self.objectives, *known, RANDOM]
        for init in self.inits:
            if init not in valid:
                raise ValueError(f"inits has {init!r}: {did_you_mean(init, valid)}")


def objectives_of(study: Study) -> dict[str, dict[str, Any]]:
    """Name and settings of the objective that each init of a study stands for, without random.

    ``pretrain.objective`` is for all: each objective gets what it has of it, setting by setting,
    where ``objectives`` does not say another. A mapping such as a curriculum is one setting.

    Raises:
        ConfigError: it names an objective, or has a setting that no objective knows.
    """
    shared = study.pretrain.get("objective", {})
    if not isinstance(shared, Mapping) or "name" in shared:
        raise ConfigError(f"pretrain.objective.name is decided by the grid, not by {shared!r}")
    named = [init for init in study.inits if init != RANDOM]
    own = {init: {"name": init, **study.objectives.get(init, {})} for init in named}
    if not shared:
        return own
    registry = _registered()
    has = {name: _settings_of(registry.get(name)) for name in registry.names()}
    valid = sorted({key for keys in has.values() for key in keys})
    for key in shared:
        if key not in valid:
            raise ConfigError(f"unknown key pretrain.objective.{key}: {did_you_mean(key, valid)}")
    return {
        # What is no objective has nothing, and is told when its config is built.
        init: {key: shared[key] for key in shared if key in has.get(settings["name"], ())}
        | settings
        for init, settings in own.items()
    }


def _settings_of(entry: Entry) -> list[str]:
    return [one.name for one in dataclasses.fields(entry.config)] if entry.config else []


def _registered() -> Registry:
    """The registry of the package that fills it, which is slow to load: most studies need none."""
    from tokenunify_scale.objectives import OBJECTIVES

    return OBJECTIVES
