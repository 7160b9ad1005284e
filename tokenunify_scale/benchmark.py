"""Measure the scan, a step, loop and loader, objectives, memory, scores: beside the possible."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from tokenunify_scale.config import HostError, Named, to_dict
from tokenunify_scale.data.shards.pack import shard_bytes
from tokenunify_scale.measure import (
    growth,
    inferer,
    loader,
    loop,
    noise,
    objectives,
    planned,
    scan,
    scores,
    tables,
)
from tokenunify_scale.measure.clock import threads
from tokenunify_scale.measure.layers import step_in_parts
from tokenunify_scale.measure.memory import peak_extra
from tokenunify_scale.measure.picture import draw_breakdown, draw_noise
from tokenunify_scale.measure.report import Finding, counts, verdicts
from tokenunify_scale.measure.step import steps_on_gpu
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.emmamba import SIZES
from tokenunify_scale.models.load import build_chosen, strategy_of
from tokenunify_scale.objectives import build_objective, needs_labels
from tokenunify_scale.ops import backend
from tokenunify_scale.registry import MODELS, OBJECTIVES
from tokenunify_scale.train.runlog import describe_environment, write_atomically

NANO = "emmamba_nano"  # what the targets of the inferer are for: tiny would take hours
CHANNELS = 1  # in and out, as in pretraining
ASKED = ("model", "crop", "short", "patches", "labels", "shape", "noisy")
Measured = tuple[dict[str, Any], str, list[Finding]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One benchmark."""

    what: Literal[
        "scan", "step", "loop", "loader", "objectives", "memory", "scores", "noise", "inferer"
    ]
    """The scan at the network's shapes, a training step, the loop around it, reading crops, what is
    learned, what real ranks hold, for all sizes up to the network's, beside what --dry-run
    foretells, how fast a segmentation is scored, what wrong affinities do to it, or predict beside
    MONAI's inferer."""

    out: Path = Path("runs/benchmark")
    """Where scan.json, step.json, step.png and so on are written, and the loader's shards."""

    model: Annotated[Named, MODELS] = field(
        default_factory=lambda: Named("emmamba_tiny", SIZES["tiny"])
    )
    """The network; --size tiny is short for --set model.name=emmamba_tiny."""

    crop: tuple[int, int, int] = (16, 160, 160)
    """Size (z, y, x) in voxels of what the network is given."""

    short: int = 1600
    """Steps at which the per-step loop runs too; its time grows with their square."""

    patches: int = 6400
    """Most patches that are predicted at once; their time and memory are measured from 100 up."""

    volume: str = "synthetic:seed=7,shape=250x250x250"
    """The volume that the loader's crops are cut from."""

    crops: int = 600
    """How many of them."""

    labels: tuple[int, int, int] = (100, 1024, 1024)
    """Size (z, y, x) in voxels of the volume that is scored."""

    shape: tuple[int, int, int] = (256, 512, 512)
    """Size (z, y, x) in voxels of the volume that is predicted."""

    noisy: tuple[int, int, int] = (32, 192, 192)
    """Size (z, y, x) in voxels of the volume whose affinities are made wrong."""

    repeats: int = 5
    """How often everything takes its turn; medians are reported."""

    threads: int | None = None
    """Threads on a CPU; torch's number (OMP_NUM_THREADS) unless said."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("short", "patches", "crops", "repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name in ("crop", "labels", "shape", "noisy"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is empty")


def plan(config: Config) -> dict[str, Any]:
    """What would be measured, and where.

    Raises:
        ConfigError: the network cannot take the crop, or has no Mamba layer.
        HostError: there is no GPU, and one is asked for.
    """
    device = _device(config)
    if config.what == "loader":
        size = shard_bytes(config.crops, crop=config.crop)
        return {"volume": config.volume, "crops": config.crops, "bytes": size}
    if config.what == "scores":
        return {"labels": list(config.labels), "threads": scores.threads()}
    if config.what == "noise":
        return {"volume": list(config.noisy), "flipped": list(noise.SHARES), "ways": [*noise.WAYS]}
    if config.what == "inferer":
        look = inferer.look_at(config.model, shape=config.shape, tile=config.crop)
        tile, overlap = list(look.tile), list(look.overlap)
        return {"model": config.model.name, "volume": list(config.shape), "tile": tile,
                "overlap": overlap, "turns": _turns(config)}  # fmt: skip
    if config.what == "loop":
        return {"model": config.model.name, "crop": list(config.crop), "steps": _steps(config)}
    if config.what == "memory":
        sizes = planned.ladder(config.model.name)
        return {"sizes": sizes, "zero": [*planned.STAGES], "ranks": [*planned.WORLDS]}
    place = {
        "device": device,
        "backend": backend.describe(device)["backend"],
        "threads": config.threads or torch.get_num_threads(),
    }
    if config.what == "objectives":
        sizes = [list(size.grid) for size in _sizes(config)]
        return {**place, "patches_zyx": sizes, "objectives": _names()}
    shapes = [[1, *shape] for shape in _scan_shapes(config)]
    return {**place, "scans_batch_channels_length": shapes}


def run(config: Config) -> dict[str, Any]:
    """Measure, print tables and what was asked of the numbers, and write both as JSON.

    Returns:
        What the file holds.

    Raises:
        ConfigError: the network cannot take the crop, or has no Mamba layer.
        HostError: there is no GPU and one is asked for, or its kernels are not installed.
    """
    started = time.time()
    device = _device(config)
    measure = {
        "inferer": _inferer,
        "loader": _loader,
        "loop": _loop,
        "memory": _memory,
        "noise": _noise,
        "objectives": _objectives,
        "scores": _scores,
        "scan": _scan_on_gpu if device == "cuda" else _scan,
        "step": _step_on_gpu if device == "cuda" else _step,
    }[config.what]
    with threads(config.threads) as count:
        measured, text, findings = measure(config)
        if not _is_asked(config):
            findings = [replace(finding, judged=False) for finding in findings]
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads: {count}"
    of = "" if config.what in ("loader", "scores", "noise") else f" of {config.model.name}"
    print(f"benchmark {config.what}{of} on {name}\n\n{text}\n")
    if findings:
        print(f"{verdicts(findings)}\n")
    result = {
        "verb": "benchmark",
        "seconds": round(time.time() - started, 2),
        "config": to_dict(config),
        "environment": {**describe_environment(), "scan": backend.describe(device)},
        "device": name,
        "threads": count,
        "metrics": counts(findings),
        "findings": [finding.record() for finding in findings],
        "measured": measured,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(config.out / f"{config.what}.json", json.dumps(result, indent=1) + "\n")
    return result


def _loader(config: Config) -> Measured:
    data = loader.make_data(
        config.out / "loader", volume=config.volume, crop=config.crop, count=config.crops
    )
    measured = loader.compare(data, repeats=config.repeats)
    return measured, loader.loader_table(measured), loader.loader_findings(measured)


def _steps(config: Config) -> int:
    """Steps of the loop that are timed."""
    return 2 * config.repeats


def _loop(config: Config) -> Measured:
    torch.manual_seed(0)
    folder = config.out / "loop"
    data = loader.make_data(
        folder / "data", volume=config.volume, crop=config.crop, count=config.crops
    )
    measured = loop.compare(
        build_objective(_choice("tokenunify"), backbone=_network(config), seed=0),
        shards=data.shards,
        strategy=strategy_of(config.model.name),
        steps=_steps(config),
        out=folder / "run",
    )
    return measured, loop.loop_table(measured), loop.loop_findings(measured)


def _memory(config: Config) -> Measured:
    folder = config.out / "memory"
    data = loader.make_data(
        folder / "data", volume=config.volume, crop=config.crop, count=planned.CROPS
    )
    sizes = planned.ladder(config.model.name)
    measured = planned.compare(sizes, shards=data.shards, folder=folder, crop=config.crop)
    return measured, planned.memory_table(measured), planned.memory_findings(measured)


def _turns(config: Config) -> int:
    """How often a volume is predicted; it takes minutes."""
    return (config.repeats + 1) // 2


def _inferer(config: Config) -> Measured:
    measured = inferer.compare(
        config.model,
        shape=config.shape,
        tile=config.crop,
        repeats=_turns(config),
        threads=torch.get_num_threads(),
        folder=config.out / "inferer",
    )
    return measured, inferer.inferer_table(measured), inferer.inferer_findings(measured)


def _scores(config: Config) -> Measured:
    measured = scores.compare(config.labels, repeats=config.repeats)
    return measured, scores.scores_table(measured), scores.scores_findings(measured)


def _noise(config: Config) -> Measured:
    measured = noise.compare(config.noisy, folder=config.out / "noise")
    draw_noise(
        config.out / "noise.png",
        measured["voi"],
        shares=noise.SHARES,
        worst=measured["everything_merged"],
        title="True affinities of synthetic neurites, some flipped",
    )
    return measured, noise.noise_table(measured), noise.noise_findings(measured)


def _device(config: Config) -> str:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise HostError("benchmark: device is cuda, and torch finds no CUDA device here")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return found if config.device == "auto" else config.device


def _is_asked(config: Config) -> bool:
    """Whether this is the network, and are the sizes, that the targets are for."""
    asked = Config(what=config.what)
    if config.what == "inferer":
        asked = replace(asked, model=Named(NANO, MODELS.get(NANO).config))
    return all(getattr(config, name) == getattr(asked, name) for name in ASKED)


def _network(config: Config) -> nn.Module:
    return build_chosen(config.model, in_channels=CHANNELS, out_channels=CHANNELS)


def _scan_shapes(config: Config) -> list[scan.Shape]:
    with torch.device("meta"):
        return scan.shapes_of(_network(config), torch.empty(1, CHANNELS, *config.crop))


def _scan(config: Config) -> Measured:
    stages, states = _scan_shapes(config), config.model.options.state
    one = {**stages[0]._asdict(), "states": states, "threads": torch.get_num_threads()}
    measured = {
        "stages": len(stages),
        "memory": peak_extra(**one),
        **scan.compare(stages, short=config.short, states=states, repeats=config.repeats),
    }
    return measured, tables.scan_tables(measured), tables.scan_findings(measured)


def _scan_on_gpu(config: Config) -> Measured:
    stages = _scan_shapes(config)
    shapes = [*stages, scan.Shape(stages[0].channels, config.short)]
    rows = [
        scan.beside_stock(shape, states=config.model.options.state, repeats=config.repeats)
        for shape in shapes
    ]
    return {"stock": rows}, tables.stock_table(rows, device=torch.cuda.get_device_name()), []


def _step(config: Config) -> Measured:
    torch.manual_seed(0)
    model, crops = _network(config), torch.rand(1, CHANNELS, *config.crop)
    measured = {"steps": step_in_parts(model, crops, repeats=config.repeats)}
    sides = "x".join(map(str, config.crop))
    draw_breakdown(
        config.out / "step.png",
        {name: step["breakdown"] for name, step in measured["steps"].items()},
        title=f"A training step of {config.model.name} on one crop of {sides}",
    )
    return measured, tables.step_tables(measured), tables.step_findings(measured)


def _step_on_gpu(config: Config) -> Measured:
    with torch.device("meta"):
        gmac = cost(_network(config), crop=config.crop, in_channels=CHANNELS).gmac
    model, crops = _network(config).cuda(), torch.rand(1, CHANNELS, *config.crop, device="cuda")
    rows = steps_on_gpu(model, crops, gmac=gmac, repeats=config.repeats)
    return {"steps": rows}, tables.gpu_step_table(rows, device=torch.cuda.get_device_name()), []


def _names() -> list[str]:
    """The objectives of pretraining."""
    return [name for name in OBJECTIVES.names() if not needs_labels(name)]


def _choice(name: str) -> Named:
    """An objective as it is by default."""
    return Named(name, OBJECTIVES.get(name).config)


def _sizes(config: Config) -> list[growth.Given]:
    with torch.device("meta"):
        return growth.sizes_of(_network(config), most=config.patches)


def _objectives(config: Config) -> Measured:
    torch.manual_seed(0)
    device, often = _device(config), {"repeats": config.repeats}
    model = _network(config).to(device)
    choices = [_choice(name) for name in _names()]
    learned = {
        choice.name: build_objective(choice, backbone=model, seed=0).to(device)
        for choice in choices
    }
    measured = {
        "steps": objectives.steps(learned, crop=config.crop, device=device, **often),
        "growth": growth.compare(_sizes(config), device=device, **often),
        "crop": config.crop,
    }
    objectives.draw(config.out / "cost.png", measured["growth"])
    return measured, objectives.tables(measured), objectives.findings(measured)
