"""Model cards from what was measured; "not measured" where nothing was."""

import inspect
from pathlib import Path
from typing import Any

from tokenunify_scale.config import dump_yaml
from tokenunify_scale.models.published import published
from tokenunify_scale.registry import MODELS

UNKNOWN = "not measured"
SCORES = {
    "voi_split": "VOI split (bits)",
    "voi_merge": "VOI merge (bits)",
    "voi": "VOI (bits)",
    "arand": "adapted Rand error",
}
LICENSES = (
    "The card states no licence: what derives from a data set is bound by that data set's terms."
)


def template() -> str:
    """The text with places to fill: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "model_cards" / "TEMPLATE.md"
    return (inside if inside.is_file() else package.parent / "model_cards/TEMPLATE.md").read_text()


def card(
    *,
    model: str,
    parameters: int,
    folder: str,
    trained: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
) -> str:
    """A card with YAML metadata as the hub reads it.

    Args:
        model: registry name.
        parameters: of the network.
        folder: what a user would load.
        trained: result.json of the run; None for weights nobody trained.
        scores: result.json of an evaluation of the model, if there was one.

    Raises:
        ConfigError: unknown model.
    """
    entry = MODELS.get(model)
    kind = "mamba" if model.startswith("emmamba_") else model.partition("_")[0]
    metadata = {
        "library_name": "tokenunify_scale",
        "pipeline_tag": "image-segmentation",
        "tags": ["electron-microscopy", "connectomics", "3d", kind, "pytorch"],
    }
    if scores:
        metadata["model-index"] = [_index(model, scores)]
    objective = trained["objective"] if trained else None
    text = template().format(
        title=f"{model}{f' ({objective})' if objective else ''}",
        summary=inspect.getdoc(entry.factory).splitlines()[0],
        model=model,
        parameters=f"{parameters:,}",
        source=entry.source,
        training=_training(trained),
        output=_output(objective, margin=entry.factory.margin),
        data=_data(trained),
        procedure=_procedure(trained),
        results=_results(scores),
        limits=_limits(trained),
        usage=_usage(model, objective, folder),
        architecture=published(model).cite,
    )
    return f"---\n{dump_yaml(metadata)}---\n{text}"


def _index(model: str, scores: dict[str, Any]) -> dict[str, Any]:
    """The hub's record of measured scores."""
    values = [
        {"type": key, "name": name, "value": scores["metrics"][key]}
        for key, name in SCORES.items()
        if key in scores["metrics"]
    ]
    task = {"type": "image-segmentation", "name": "neuron segmentation"}
    labels = str(scores.get("labels", UNKNOWN))
    dataset = {"type": "electron-microscopy", "name": labels}
    return {"name": model, "results": [{"task": task, "dataset": dataset, "metrics": values}]}


def _training(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return "nothing yet: no trained weights are released"
    if trained["verb"] == "import_official":
        return "others: the weights are of the paper's release"
    start = f", started from {trained['init']}" if "init" in trained else ""
    return f"{trained['verb']}, objective {trained['objective']}{start}"


def _output(objective: str | None, *, margin: tuple[int, int, int]) -> str:
    if objective == "affinity":
        lost = f"; not of the outer {margin} voxels (z, y, x) of a crop" if any(margin) else ""
        return (
            "three affinities in (0, 1), axes c, z, y, x: channel c at voxel p is the edge "
            f"(p, p - e_c), e = z, y, x{lost}"
        )
    return "the reconstructed crop, in (0, 1)" if objective else "depends on what it is trained for"


def _usage(model: str, objective: str | None, folder: str) -> str:
    if objective is None:
        return (
            "from tokenunify_scale import build_model\n\n"
            f'model = build_model("{model}")  # fresh weights: there are no trained ones'
        )
    result = "affinities" if objective == "affinity" else "reconstruction"
    return (
        "from tokenunify_scale import load_model\n\n"
        f'model = load_model("{folder}")  # evaluation mode, on the CPU\n'
        f"{result} = model(crops)  # crops: float [B, 1, D, H, W] in [0, 1]"
    )


def _data(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return "None."
    if trained["verb"] == "import_official":
        return f"Not known: the weights come from a file of the paper's release.\n\n{LICENSES}"
    told = [trained.get(key) or () for key in ("volume", "labels", "shards")]
    # Runs of earlier versions have one volume, not a list.
    names = [name for some in told for name in ([some] if isinstance(some, str) else some)]
    return "\n".join([*(f"- `{name}`" for name in names), "", LICENSES])


def _procedure(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return UNKNOWN.capitalize() + "."
    if trained["verb"] == "import_official":
        return f"Trained elsewhere; read from `{trained['file']}` (sha256 `{trained['sha256']}`)."
    return (
        f"{trained['steps']} steps, {trained['crops_seen']} crops, seed {trained['seed']}, "
        f"{trained['world']} rank(s), {trained['seconds']:.0f} s of wall time. The run folder's "
        "config.yaml repeats it; environment.json has versions and the git commit."
    )


def _results(scores: dict[str, Any] | None) -> str:
    measured = (scores or {}).get("metrics", {})
    rows = [
        f"| {name} | {measured[key]:.4f} |" if key in measured else f"| {name} | {UNKNOWN} |"
        for key, name in SCORES.items()
    ]
    note = f"\nMeasured on `{scores.get('labels', UNKNOWN)}`." if scores else ""
    return "\n".join(["| score, lower is better | |", "|---|---|", *rows, note]).rstrip()


def _limits(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return "No weights exist; the counts above are of the architecture."
    if trained["verb"] == "import_official":
        return "What the file's weights were trained on and how they do is not measured here."
    return (
        "Trained on what stands above and nothing else. How it does on other tissue, species, "
        "staining or voxel sizes is not measured."
    )
