"""The shards of one request: what they will be, and the run that writes them, whole and once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenunify_scale.data.content import rate_lines
from tokenunify_scale.data.shards.index import Sample
from tokenunify_scale.data.shards.pack import finished, plan_shards, write_shards
from tokenunify_scale.data.shards.target import run_folder
from tokenunify_scale.data.team import Team
from tokenunify_scale.train.runlog import read_result

Find = Callable[[], tuple[Sequence[Sample], dict[str, Any]]]
"""Samples, and what index.json says of them: crop, voxel_size, volumes, channels if not 1."""


def plan_request(
    volumes: list[dict], *, out: Path, samples: int, per_shard: int, stored: tuple[int, int, int]
) -> dict[str, Any]:
    """What ``write_request`` would write: counts, bytes before compression, first and last tar.

    Args:
        volumes: facts of the sources.
        out: the folder.
        samples: of all sources.
        per_shard: samples a tar.
        stored: shape of a sample's array, as ``Index.stored``.
    """
    files = plan_shards(samples, per_shard=per_shard, crop=stored)
    shown = [files[0][0]] if len(files) == 1 else [files[0][0], "...", files[-1][0]]
    return {
        "volumes": volumes,
        "samples": samples,
        "shards": len(files),
        "bytes": sum(size for _, size in files),
        "files": [name if name == "..." else str(out / name) for name in shown],
    }


def write_request(
    find: Find, *, out: Path, config: dict[str, Any], request: dict[str, Any], team: Team
) -> dict[str, Any]:
    """Write a request's shards and result.json, unless all are there; rank 0 says what was done.

    Args:
        find: looks for the samples; called only where there is work to do, by all processes.
        out: the folder, which is a run's.
        config: all that was asked for, as plain data, for config.yaml.
        request: what of it decides the shards, as plain data: ``volumes``, ``crops`` a source,
            ``per_shard``, and more.
        team: the processes that write; all of them call this.

    Returns:
        What result.json holds.

    Raises:
        ConfigError: the folder holds what another request wrote.
        HostError: the disk is full; another process writes there.
    """

    def there() -> dict | None:
        index, result = finished(out, request=request), read_result(out)
        if index is None or result is None:
            return None
        print(f"{out}: all {index.count} crops are there already, nothing to do")
        return result

    if (result := team.ask(there)) is not None:
        return result
    samples, known = find()
    described, per_shard = {**known, "request": request}, request["per_shard"]
    with run_folder(out, config=config, results="shard-*.tar", team=team) as folder:
        index = write_shards(samples, out, per_shard=per_shard, index=described, team=team)
        size = sum(shard.bytes for shard in index.shards)
        written = {"samples": index.count, "shards": len(index.shards), "bytes": size}
        result = team.ask(lambda: folder.finish(**written, volumes=request["volumes"]))
    if team.leads:
        counts = f"crops: {index.count}, shards: {len(index.shards)}"
        rates = rate_lines(index.volumes, count=request["crops"])
        print("\n".join([*rates, f"{out}: {counts}, {size / 1e6:.1f} MB"]))
    return result
