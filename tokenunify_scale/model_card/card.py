"""Put a card together."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenunify_scale.config import dump_yaml
from tokenunify_scale.model_card import texts
from tokenunify_scale.model_card.compute import compute
from tokenunify_scale.model_card.licences import licence
from tokenunify_scale.model_card.procedure import procedure
from tokenunify_scale.model_card.records import Lineage, lineage
from tokenunify_scale.model_card.scores import Evaluation, index, open_evaluation, results
from tokenunify_scale.model_card.sources import Source, sources
from tokenunify_scale.models.published import published
from tokenunify_scale.registry import MODELS

TAGS = ["electron-microscopy", "connectomics", "3d"]
CODE = ["pytorch", "custom_code", "tokenunify_scale"]  # the first two as the hub writes them
PAPER_MODEL = "emmamba_"


def card(
    *,
    model: str,
    parameters: int,
    folder: str,
    run: Path | None = None,
    evaluations: Sequence[Path] = (),
    dtype: str = "float32",
    postprocessing: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
) -> str:
    """A card with YAML metadata as the hub reads it, from the records of runs and nothing else.

    Args:
        model: registry name.
        parameters: of the network.
        folder: what a user would load.
        run: the folder of the run that left the weights, finished or not, or an exported one; None
            for weights nobody trained.
        evaluations: finished evaluations of segmentations that the model made.
        dtype: of the stored weights.
        postprocessing: name and settings of what made the segmentation that was scored.
        checkpoint: tag of the run's checkpoint that the weights are of; None for those with which
            it finished.

    Raises:
        ConfigError: unknown model.
        DataError: a record is damaged, or an evaluation has no scores.
    """
    entry = MODELS.get(model)
    line = lineage(run, tag=checkpoint)
    found = [sources(stage) for stage in line.stages]
    measured = [open_evaluation(each) for each in evaluations]
    terms, why = licence(line, found)
    objective = line.last.objective if line.last else None
    text = texts.template().format(
        title=f"{model}{f' ({objective})' if objective else ''}",
        summary=inspect.getdoc(entry.factory).splitlines()[0],
        model=model,
        parameters=f"{parameters:,}",
        source=entry.source,
        dtype=dtype,
        training=texts.training(line),
        channels=_channels(texts.channels_in(line)),
        output=texts.output(objective, line, margin=entry.factory.margin),
        intended=texts.intended(objective),
        data=texts.data(line, found),
        licence=why,
        procedure=procedure(line) or "None: the weights are random.",
        compute=compute(line),
        results=results(measured, line, postprocessing=postprocessing),
        limits=texts.limits(line, found, measured, dtype=dtype),
        usage=texts.usage(model, objective, folder, channels=texts.channels_in(line)),
        architecture=published(model).cite,
    )
    facts = {**terms, **_metadata(model, line, found, measured)}
    return f"---\n{dump_yaml(facts)}---\n{text}"


def _metadata(
    model: str,
    line: Lineage,
    found: Sequence[Sequence[Source]],
    measured: Sequence[Evaluation],
) -> dict[str, Any]:
    """What the hub reads beside the licence; a field that is not known is left out."""
    objective = line.last.objective if line.last else None
    segments = objective in (None, "affinity")
    kind = "mamba" if model.startswith(PAPER_MODEL) else model.partition("_")[0]
    repositories = {s.repository: None for each in found for s in each if s.repository}
    facts: dict[str, Any] = {
        # What an exported folder is loaded with, by the code in it.
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation" if segments else "image-feature-extraction",
        "tags": [*TAGS, kind, *CODE],
    }
    if repositories:
        facts["datasets"] = [*repositories]
    if line.base:
        facts["base_model"] = line.base
    if measured:
        facts["model-index"] = index(model, measured)
    return facts


def _channels(count: int) -> str:
    return "one grey channel" if count == 1 else f"{count} channels"
