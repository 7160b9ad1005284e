"""What only prints: the registries, the networks, run folders."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import ConfigError
from tokenunify_scale.registry import MODELS, OBJECTIVES, POSTPROCESS

ROW = " {:>13} {:>9} {:>10} {:>8} {:>6} {:>11}  {}"
LEGEND = (
    "GMAC: one crop forward, in convolutions, linear maps, attention and scans. Activations: what\n"
    "the backward pass of one crop keeps in fp32. Paper: Tables 1 and 6, and Figure 6's x-axis."
)
LISTS = {"model": MODELS, "objective": OBJECTIVES, "postprocess": POSTPROCESS}


def choices(config: type) -> None:
    """Print the names that a config's registry choices can take, with their sources."""
    for field in dataclasses.fields(config):
        if field.name in LISTS:
            table = LISTS[field.name]
            print(f"{field.name}:")
            for name in table.names():
                print(f"  {name:18} {table.get(name).source}")


def models(
    names: Sequence[str] = (),
    *,
    crop: tuple[int, int, int] | None = None,
    draw: Path | None = None,
) -> int:
    """Print networks with what one crop costs, the paper's figures beside ours.

    Args:
        names: which networks; none: all.
        crop: size (z, y, x) in voxels; None: for each network the one it was published with.
        draw: file of a picture of them, if one is wanted.

    Returns:
        The exit code 0.

    Raises:
        ConfigError: an unknown network, or one that cannot take the crop.
    """
    import torch

    from tokenunify_scale.models import build_model, list_models
    from tokenunify_scale.models.count import cost
    from tokenunify_scale.models.picture import Spot, draw_costs
    from tokenunify_scale.models.published import published

    chosen = [MODELS.get(name).name for name in names] or list_models()
    head = ("parameters", "paper (M)", "crop", "GMAC", "paper", "activations", "source")
    print(f"{'name':16}" + ROW.format(*head))
    notes, spots = [], []
    for name in chosen:
        facts = published(name)
        with torch.device("meta"):
            model = build_model(name)
            sides = crop or facts.crop
            try:
                counted = cost(model, crop=sides)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        drawn = facts.gmac if sides == facts.crop else None
        voxels = math.prod(a - 2 * b for a, b in zip(sides, model.margin, strict=True))
        printed = (1e6 * float(facts.parameters), 1e9 * drawn / voxels) if drawn else None
        spots.append(Spot(name, counted.parameters, 1e9 * counted.gmac / voxels, printed))
        row = (
            f"{counted.parameters:,}",
            facts.parameters or "-",
            "x".join(map(str, sides)),
            f"{counted.gmac:,.1f}",
            f"{drawn:,.0f}" if drawn else "-",
            f"{counted.activation_bytes / 2**30:.2f} GiB",
            MODELS.get(name).source,
        )
        print(f"{name:16}" + ROW.format(*row), flush=True)
        if facts.note:
            notes.append(f"{name}: {facts.note}")
    print(LEGEND, *notes, sep="\n")
    if draw:
        draw_costs(draw, spots)
        print(f"picture: {draw}")
    return 0


def status(*runs: Path | str, form: Literal["text", "json"] = "text") -> int:
    """Print how runs stand, live or finished, from their folders: one in full, several as a table.

    Args:
        runs: run folders, or folders of them, as of a study.
        form: json: one object, ``{"runs": [...]}``, of what ``RunState`` holds.

    Returns:
        The exit code 0.

    Raises:
        ConfigError: no run folder, and none in it.
    """
    from tokenunify_scale.train import standing
    from tokenunify_scale.train.state import read_state, runs_in

    folders = [folder for run in runs for folder in runs_in(Path(run))]
    states = [read_state(folder) for folder in folders]
    if form == "json":
        plain = {"runs": [dataclasses.asdict(state) for state in states]}
        print(json.dumps(_finite(plain), indent=1))
    elif len(states) == 1:
        print("\n".join(standing.block(states[0])))
    else:
        print("\n".join(standing.table(states)))
    return 0


def _finite(value: Any) -> Any:
    """Plain data in which a number that JSON cannot write is None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
