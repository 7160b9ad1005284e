"""Write a finished run as a Hugging Face folder: config.json, model.safetensors, README.md."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tokenunify_scale.config import ConfigError, DataError, to_dict
from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.model_card import SCORES, card
from tokenunify_scale.models.load import load_model
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import (
    Description,
    read_description,
    read_weights,
    save_weights,
)
from tokenunify_scale.train.runlog import RunFolder, read_result, write_atomically

PROBE = (16, 64, 64)  # voxels, at least, of the crop on which source and export are compared
TOLD = 3  # names of what an evaluation has in place of scores


@dataclass(frozen=True, kw_only=True)
class Config:
    """One export."""

    run: Path
    """A finished pretraining or fine-tuning run."""

    out: Path = Path("runs/export")
    """The folder to write."""

    evaluation: Path | None = None
    """A finished evaluation of a segmentation that this model made, against labels; its scores go
    into the card."""


def plan(config: Config) -> dict[str, Any]:
    """What would be written.

    Raises:
        ConfigError: the evaluation has no scores of a segmentation.
        DataError: the run or the evaluation has not finished.
    """
    trained, _ = _results(config)
    model = trained["model"]
    return {
        "files": ["config.json", "model.safetensors", "README.md"],
        "model": model["name"],
        "parameters": f"{model['parameters']:,}",
        "MiB": round(model["parameters"] * 4 / 2**20, 1),
    }


def run(config: Config) -> dict[str, Any]:
    """Write the folder, load it back, and compare it with the run on a fixed input.

    Returns:
        What result.json holds, with the largest difference found, which is 0.

    Raises:
        ConfigError: the evaluation has no scores of a segmentation.
        DataError: the run or the evaluation has not finished, or what was written does not
            compute what the run's weights do. Nothing is deleted.
    """
    trained, scores = _results(config)
    weights, description = read_weights(config.run)
    folder = RunFolder.create(config.out, verb="export", config=to_dict(config))
    save_weights(config.out, weights, description)
    text = json.dumps(hub_config(description), indent=2) + "\n"
    write_atomically(config.out / "config.json", text)
    text = card(
        model=trained["model"]["name"],
        parameters=trained["model"]["parameters"],
        folder=config.out.name,
        trained=trained,
        scores=scores,
    )
    write_atomically(config.out / "README.md", text)
    difference = compare(config.run, config.out)
    if difference != 0:
        raise DataError(f"{config.out} and {config.run} differ by up to {difference} on one input")
    return folder.finish(model=trained["model"], metrics={"largest_difference": difference})


def hub_config(description: Description) -> dict[str, Any]:
    """The content of config.json.

    Args:
        description: of the weights.

    Returns:
        Architecture, channels, what goes in and comes out, and the margin (z, y, x) in voxels by
        which the output is smaller on either side.
    """
    facts = asdict(description)
    network = MODELS.get(description.model["name"]).factory
    architecture = network.__name__
    output = {"offsets": facts.pop("offsets") or NEAREST, "axes": "czyx"}
    output["convention"] = "edge (p, p - offset)"
    return {
        "model_type": architecture.lower(),
        "architectures": [architecture],
        "library_name": "tokenunify_scale",
        **facts,
        "margin": network.margin,
        "preprocessing": {"axes": "zyx", "scale": 1 / 255, "range": [0, 1]},
        "output": output if description.objective == "affinity" else {"axes": "czyx"},
    }


@torch.inference_mode()
def compare(source: Path, exported: Path) -> float:
    """Largest absolute difference of two folders' networks on one random crop of fixed seed."""
    generator = torch.Generator().manual_seed(0)
    one, other = load_model(source), load_model(exported)
    channels = read_description(source).in_channels
    crop = torch.rand(1, channels, *one.legal(PROBE), generator=generator)
    return float((one(crop) - other(crop)).abs().max())


def _results(config: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    trained = read_result(config.run)
    if trained is None or "model" not in trained or "objective" not in trained:
        raise DataError(f"{config.run} is not a finished pretraining or fine-tuning run")
    if config.evaluation is None:
        return trained, None
    scores = read_result(config.evaluation)
    if scores is None:
        raise DataError(f"{config.evaluation} is not a finished evaluation")
    measured = list(scores.get("metrics") or ["no numbers"])
    if scores["verb"] != "evaluate" or not {*SCORES} & {*measured}:
        more = ", ..." if len(measured) > TOLD else ""
        raise ConfigError(
            f"evaluation {config.evaluation}: {scores['verb']} left {', '.join(measured[:TOLD])}"
            f"{more} there; a card shows the scores of a segmentation ({', '.join(SCORES)}), which "
            "evaluate --segmentation ... --labels ... measures"
        )
    return trained, scores
