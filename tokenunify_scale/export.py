"""Write a run as a Hugging Face folder: weights, code, settings and card, and check it."""

import json
import logging
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from tokenunify_scale.config import ConfigError, DataError, Named, to_dict
from tokenunify_scale.hub.code import code_of
from tokenunify_scale.hub.configs import config_json, preprocessing
from tokenunify_scale.hub.probe import compare
from tokenunify_scale.hub.push import push, require
from tokenunify_scale.hub.settings import POSTPROCESSOR, PREPROCESSOR, scored_model, used
from tokenunify_scale.hub.source import Origin, open_source, tag_of_export
from tokenunify_scale.hub.writer import write_weights
from tokenunify_scale.model_card import SCORES, card
from tokenunify_scale.models.load import build_described, parameters_of
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import HEADER, ROOT, Description, Weights
from tokenunify_scale.train.runlog import RunFolder, read_result, write_atomically
from tokenunify_scale.train.sealed import SUMS, sums_text

log = logging.getLogger(__name__)
TOLD = 3  # names of what an evaluation has in place of scores
GB = 10**9
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Config:
    """One export."""

    run: Path | None = None
    """A run of pretrain, finetune or import-official, or an exported folder. Of one that has not
    finished, the newest whole checkpoint is taken, of any ZeRO stage and number of ranks."""

    model: Annotated[Named, MODELS] | None = None
    """A network with fresh weights, in the place of a run."""

    seed: int = 0
    """Of fresh weights."""

    checkpoint: str | None = None
    """A checkpoint of the run instead: its tag, such as step-200, or latest."""

    out: Path = Path("runs/export")
    """The folder to write."""

    evaluation: tuple[Path, ...] = ()
    """Finished evaluations, against labels, of segmentations that this model made; their scores and
    settings go into the card and beside the weights."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the stored weights."""

    shard_GB: float = 5.0
    """The largest file of weights, in 1e9 bytes."""

    check: bool = True
    """Whether transformers loads the folder in a fresh process, to be compared with the run."""

    push: str | None = None
    """A repository of the Hugging Face hub, OWNER/NAME, to which the folder is uploaded when it is
    written; nothing leaves this machine without it."""

    private: bool = True
    """Whether a repository that the upload makes is private."""

    def __post_init__(self) -> None:
        """Refuse two sources or none, files without room, and what is no repository."""
        if (self.run is None) == (self.model is None):
            raise ValueError("name what is exported: --run FOLDER, or --size for fresh weights")
        if not self.shard_GB > 0:
            raise ValueError(f"shard_GB must be > 0, got {self.shard_GB}")
        if self.push is not None and self.push.count("/") != 1:
            raise ValueError(f"push must be OWNER/NAME, got {self.push!r}")


def plan(config: Config) -> dict[str, Any]:
    """What would be written.

    Raises:
        ConfigError: an evaluation has no scores of a segmentation.
        DataError: there are no weights, or they are damaged; or an evaluation has not finished.
        HostError: a package is missing for the check or the upload.
    """
    origin = _look(config)
    with open_source(origin) as source:
        stored = _stored(source, dtype=getattr(torch, config.dtype))
        name = source.description.model["name"]
    size = sum(tensor.nbytes for tensor in stored.values())
    return {
        "weights_of": str(origin),
        "model": name,
        "parameters": f"{_parameters(source.description):,}",
        "MiB": round(size / MIB, 1),
        "files": ["config.json", "weights", *code_of(name), "README.md", SUMS],
        "push": config.push or "no",
    }


def run(config: Config) -> dict[str, Any]:
    """Write the folder, load it in a fresh process, and compare it with the run on a fixed input.

    Returns:
        What result.json holds: the largest difference found, what the dtype alone changes, and the
        peak of memory of this process and of those that compare, in MiB.

    Raises:
        ConfigError, DataError, HostError: as ``plan``; or the disk is full; or what was written
            does not compute what the run's weights do. Nothing is deleted.
    """
    origin = _look(config)
    dtype = getattr(torch, config.dtype)
    folder = RunFolder.create(config.out, verb="export", config=to_dict(config))
    with open_source(origin) as source:
        about = source.description
        texts = _texts(config, about, tag=origin.tag)
        (config.out / SUMS).unlink(missing_ok=True)
        for name, text in texts.items():
            write_atomically(config.out / name, text)
        sums = write_weights(
            config.out,
            _stored(source, dtype=dtype),
            lambda name: source.read(name.removeprefix(ROOT)),
            header={"format": "pt", HEADER: json.dumps(asdict(about))},
            limit=int(config.shard_GB * GB),
        )
    write_atomically(config.out / SUMS, sums_text(sums))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    parameters = _parameters(about)
    measured: dict[str, Any] = {"export_MiB": peak}
    if config.check:
        found = compare(origin, config.out, dtype=dtype)
        if found["parameters"] != parameters:
            raise DataError(f"{config.out} loads with {found['parameters']:,} parameters, the run "
                            f"has {parameters:,}")  # fmt: skip
        measured |= found
    if config.push:
        measured["pushed"] = push(config.out, config.push, private=config.private)
    return folder.finish(
        model={"name": about.model["name"], "parameters": parameters},
        checkpoint=origin.tag,
        files=sorted(sums),
        metrics=measured,
    )


def _texts(config: Config, about: Description, *, tag: str | None) -> dict[str, str]:
    """All files of the folder but the weights and their sums, by name."""
    before, after = used(config.evaluation[0]) if config.evaluation else ({}, {})
    return {
        "config.json": _json(config_json(about, dtype=config.dtype, run=config.run)),
        PREPROCESSOR: _json({**preprocessing(about), **before}),
        **({POSTPROCESSOR: _json(after)} if after else {}),
        **code_of(about.model["name"]),
        "README.md": card(
            model=about.model["name"],
            parameters=_parameters(about),
            folder=config.push or config.out.name,
            run=config.run,
            checkpoint=tag,
            evaluations=config.evaluation,
            dtype=config.dtype,
            postprocessing=after or None,
        ),
    }


def _look(config: Config) -> Origin:
    """What is exported, once it is known that all that is asked for can be had."""
    require(check=config.check, push=config.push)
    for folder in config.evaluation:
        _check_scores(folder)
    if config.run is None:
        return Origin(model=to_dict(config.model), seed=config.seed)
    tag = tag_of_export(config.run, config.checkpoint)
    for folder in config.evaluation:
        model = scored_model(folder)
        if model and model.resolve() != config.run.resolve():
            log.warning("%s scored what %s predicts, not %s", folder, model, config.run)
    return Origin(run=str(config.run.resolve()), tag=tag)


def _check_scores(folder: Path) -> None:
    """Refuse an evaluation that has not scored a segmentation."""
    scores = read_result(folder)
    if scores is None:
        raise DataError(f"{folder} is not a finished evaluation")
    measured = list(scores.get("metrics") or ["no numbers"])
    if scores["verb"] != "evaluate" or not {*SCORES} & {*measured}:
        more = ", ..." if len(measured) > TOLD else ""
        raise ConfigError(
            f"evaluation {folder}: {scores['verb']} left {', '.join(measured[:TOLD])}{more} there; "
            f"a card shows the scores of a segmentation ({', '.join(SCORES)}), which "
            "evaluate --segmentation ... --labels ... measures"
        )


def _stored(source: Weights, *, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What is written: numbers in the type that was asked for, counters as they are."""
    return {
        ROOT + name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in source.like.items()
    }


def _parameters(about: Description) -> int:
    with torch.device("meta"):
        return parameters_of(build_described(about))


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2) + "\n"
