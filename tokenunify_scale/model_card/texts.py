"""The parts of a card that are prose: what comes out, what to expect of it, how to load it."""

from collections.abc import Sequence
from pathlib import Path

from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.model_card.procedure import crop_of, kind
from tokenunify_scale.model_card.records import Lineage, Record
from tokenunify_scale.model_card.scores import Evaluation, seen
from tokenunify_scale.model_card.sources import Source, times
from tokenunify_scale.volumes.geometry import Triple

SIZE = "emmamba_"  # before what --size takes
NO_EDGES = "None: it was not trained for them"


def template_path() -> Path:
    """The text with places to fill: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "model_cards" / "TEMPLATE.md"
    return inside if inside.is_file() else package.parent / "model_cards" / "TEMPLATE.md"


def template() -> str:
    """The text with places to fill."""
    return template_path().read_text()


def training(line: Lineage) -> str:
    """Who trained the weights, in a phrase."""
    last = line.last
    if last is None:
        return "records of it are gone" if line.lost else "nobody: weights are random numbers"
    if last.verb == "import_official":
        return "others: the weights are of the paper's release"
    before = [f"{kind(stage)} ({stage.objective})" for stage in reversed(line.stages[:-1])]
    before += [f"`{line.lost}`"] if line.lost else []
    start = f", started from {', after '.join(before)}" if before else ""
    return f"{kind(last)}, objective {last.objective or 'not known'}{start}"


def channels_in(line: Lineage) -> int:
    """Channels of the input."""
    return _weights(line.last).get("in_channels", 1)


def output(objective: str | None, line: Lineage, *, margin: Triple) -> str:
    """What a prediction is."""
    if objective != "affinity":
        return "the reconstructed crop, in (0, 1)" if objective else "depends on the training"
    lost = f"; not of the outer {margin} voxels (z, y, x) of a crop" if any(margin) else ""
    offsets = [tuple(each) for each in _weights(line.last).get("offsets") or NEAREST]
    if offsets == [*NEAREST]:
        edges = "three affinities in (0, 1), axes c, z, y, x: channel c at voxel p is the edge "
        return f"{edges}(p, p - e_c), e = z, y, x{lost}"
    return (
        f"{len(offsets)} affinities in (0, 1), axes c, z, y, x: channel c at voxel p is the edge "
        f"(p, p - offset c), offsets {', '.join(map(str, offsets))}{lost}"
    )


def intended(objective: str | None) -> str:
    """What the weights are good for."""
    if objective == "affinity":
        return (
            "Segmentation of neurons in electron-microscopy volumes: the affinities are what a\n"
            "watershed and an agglomeration make segments of."
        )
    if objective:
        return (
            "A start for fine-tuning on electron-microscopy volumes, and features of them. These\n"
            "weights do not segment."
        )
    return "A start for training on electron-microscopy volumes."


def data(line: Lineage, found: Sequence[Sequence[Source]]) -> str:
    """What each training saw."""
    parts = []
    if line.lost:
        parts.append(f"Behind `{line.lost}`, which the first weights came from: not known.")
    for stage, sources in zip(line.stages, found, strict=True):
        if stage.verb == "import_official":
            parts.append("Not known: the weights come from a file of the paper's release.")
            continue
        listed = "\n".join(map(str, sources)) or "Not known."
        parts.append(f"{kind(stage).capitalize()} (`{stage.name}`):\n\n{listed}")
    return "\n\n".join(parts) or "None."


def limits(
    line: Lineage,
    found: Sequence[Sequence[Source]],
    evaluations: Sequence[Evaluation],
    *,
    dtype: str,
) -> str:
    """What not to expect."""
    last = line.last
    if last is None and not line.lost:
        return (
            "Nobody has trained these weights: what they predict means nothing. No trained weights "
            "of this size are released."
        )
    lines = []
    if last is not None and last.verb == "import_official":
        lines.append(
            "What the file's weights were trained on and how they do is not measured here."
        )
    else:
        lines.append(
            "Trained on what stands above and nothing else. How it does on other tissue, species, "
            "staining or voxel sizes is not measured."
        )
    if last is not None and last.tag is not None and not last.result:
        lines.append(f"Training had not finished: these are the weights of checkpoint {last.tag}.")
    if last is not None and last.verb != "import_official" and (crop := crop_of(last)):
        sizes = {times(s.voxel_size): None for s in found[-1] if s.voxel_size}
        of = f" of {' and '.join(sizes)} nm" if sizes else ""
        lines.append(f"The last training saw crops of {times(crop)} voxels{of} (z, y, x).")
    if not evaluations:
        lines.append("How good its predictions are is not measured.")
    if any(seen(each, line) for each in evaluations):
        lines.append("Scores on sections that a training has read say little about others.")
    if any(source.synthetic for each in found for source in each):
        lines.append(
            "Synthetic volumes are no tissue: what was learned from them need not hold for tissue."
        )
    if dtype != "float32":
        lines.append(f"Stored in {dtype}: scores are of the weights before they were rounded.")
    return "\n".join(f"- {line}" for line in lines)


def usage(model: str, objective: str | None, folder: str, *, channels: int) -> str:
    """How to load a folder, in transformers, in this package, and on the command line."""
    hub = (
        "```python\n"
        "from transformers import AutoModel\n\n"
        f'model = AutoModel.from_pretrained("{folder}", trust_remote_code=True).eval()\n'
        f"output = model(pixel_values)  # float [B, {channels}, D, H, W] in [0, 1], or uint8\n"
        "output.prediction  # [B, C, D, H, W]\n"
        f"output.affinities  # {'the same' if objective == 'affinity' else NO_EDGES}\n"
        "output.hidden_states  # feature maps, fine to coarse\n"
        "```"
    )
    if objective is None:
        size = model.removeprefix(SIZE)
        word = f"--size {size}" if model.startswith(SIZE) else f"--set model.name={model}"
        return (
            "```python\n"
            "from tokenunify_scale import build_model\n\n"
            f'model = build_model("{model}")  # fresh weights: there are no trained ones\n'
            "```\n\n"
            f"`tokenunify export {word} --out {folder}` writes such weights as a folder that\n"
            f"transformers loads, without this package:\n\n{hub}"
        )
    result = "affinities" if objective == "affinity" else "reconstruction"
    own = (
        "```python\n"
        "from tokenunify_scale import load_model\n\n"
        f'model = load_model("{folder}")  # evaluation mode, on the CPU\n'
        f"{result} = model(crops)  # crops: float [B, {channels}, D, H, W] in [0, 1]\n"
        "```"
    )
    parts = ["With transformers alone:", hub, "With tokenunify_scale:", own]
    if objective == "affinity":
        parts += [
            "From a volume to neurons:",
            f"```bash\ntokenunify segment --model {folder} --volume your.tif --out neurons\n```",
        ]
    return "\n\n".join(parts)


def _weights(stage: Record | None) -> dict:
    """What a run noted of its network."""
    return (stage.environment.get("weights") or {}) if stage is not None else {}
