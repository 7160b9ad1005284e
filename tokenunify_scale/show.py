"""What only prints: the registries, the networks, run folders."""

import dataclasses
from pathlib import Path

from tokenunify_scale.config import ConfigError, dump_yaml
from tokenunify_scale.registry import MODELS, OBJECTIVES, POSTPROCESS

LISTS = {"model": MODELS, "objective": OBJECTIVES, "postprocess": POSTPROCESS}


def choices(config: type) -> None:
    """Print the names that a config's registry choices can take, with their sources."""
    for field in dataclasses.fields(config):
        if field.name in LISTS:
            table = LISTS[field.name]
            print(f"{field.name}:")
            for name in table.names():
                print(f"  {name:18} {table.get(name).source}")


def models() -> int:
    """Print every network with its exact number of parameters; returns the exit code 0."""
    import torch

    from tokenunify_scale.models import build_model
    from tokenunify_scale.models.load import parameters_of

    print(f"{'name':18} {'parameters':>15}  source")
    for name in MODELS.names():
        with torch.device("meta"):
            count = parameters_of(build_model(name))
        print(f"{name:18} {count:15,}  {MODELS.get(name).source}")
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
