"""What only prints: the registries, the networks, run folders."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from tokenunify_scale.config import ConfigError, dump_yaml
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


def status(run: str) -> int:
    """Print what a run folder holds: the result, or the last line of the log.

    Returns:
        The exit code 0.

    Raises:
        ConfigError: not a run folder.
    """
    from tokenunify_scale.train.runlog import read_metrics, read_result

    if not (Path(run) / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a run folder: it has no config.yaml")
    result, records = read_result(run), read_metrics(run)
    state = "finished" if result else "not finished"
    print(dump_yaml({"run": str(run), "state": state, **(result or {})}), end="")
    if records and not result:
        print(dump_yaml({"last": records[-1]}), end="")
    return 0
