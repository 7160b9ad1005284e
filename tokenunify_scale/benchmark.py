"""Measure the scan, a training step or the loader beside what the machine can do."""

import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from tokenunify_scale.config import ConfigError, HostError, Named, to_dict
from tokenunify_scale.data.shards.pack import shard_bytes
from tokenunify_scale.measure import loader, scan, tables
from tokenunify_scale.measure.calls import collect
from tokenunify_scale.measure.clock import medians, threads
from tokenunify_scale.measure.layers import step_in_parts
from tokenunify_scale.measure.memory import peak_extra
from tokenunify_scale.measure.picture import draw_breakdown
from tokenunify_scale.measure.report import Finding, verdicts
from tokenunify_scale.measure.step import PRECISIONS, training_step
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.emmamba import SIZES
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.models.mamba import MambaLayer
from tokenunify_scale.ops import backend
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.runlog import describe_environment, track, write_atomically

CHANNELS = 1  # in and out, as in pretraining
EXPAND = 2  # channels of a scan for each of its stage
Measured = tuple[dict[str, Any], str, list[Finding]]
PASSES = 3  # of multiply-adds in a step: forward, and backward to inputs and to weights


@dataclass(frozen=True, kw_only=True)
class Config:
    """One benchmark."""

    what: Literal["scan", "step", "loader"]
    """What is measured: the scan at the network's shapes, a training step, or reading crops."""

    out: Path = Path("runs/benchmark")
    """Where scan.json, step.json and step.png, or loader.json and its shards, are written."""

    model: Annotated[Named, MODELS] = field(
        default_factory=lambda: Named("emmamba_tiny", SIZES["tiny"])
    )
    """The network; --size tiny is short for --set model.name=emmamba_tiny."""

    crop: tuple[int, int, int] = (16, 160, 160)
    """Size (z, y, x) in voxels of what the network is given."""

    short: int = 1600
    """Steps at which the per-step loop runs too; its time grows with their square."""

    volume: str = "synthetic:seed=7,shape=250x250x250"
    """The volume that the loader's crops are cut from."""

    crops: int = 600
    """How many of them."""

    repeats: int = 5
    """How often everything takes its turn; medians are reported."""

    threads: int | None = None
    """Threads on a CPU; torch's number (OMP_NUM_THREADS) unless said."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to measure; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("short", "crops", "repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if min(self.crop) < 1:
            raise ValueError(f"crop {self.crop} is empty")


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
    return {
        "device": device,
        "backend": backend.describe(device)["backend"],
        "threads": config.threads or torch.get_num_threads(),
        "scans_batch_channels_length": [[1, *shape] for shape in _scan_shapes(config)],
    }


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
        ("loader", "cpu"): _loader,
        ("loader", "cuda"): _loader,
        ("scan", "cpu"): _scan,
        ("step", "cpu"): _step,
        ("scan", "cuda"): _scan_on_gpu,
        ("step", "cuda"): _step_on_gpu,
    }[config.what, device]
    with threads(config.threads) as count:
        measured, text, findings = measure(config)
        if not _is_asked(config):
            findings = [replace(finding, judged=False) for finding in findings]
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads: {count}"
    of = "" if config.what == "loader" else f" of {config.model.name}"
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
        "metrics": _counts(findings),
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


def _counts(findings: list[Finding]) -> dict[str, int]:
    judged = [finding.met for finding in findings if finding.judged]
    return {"targets_met": sum(judged), "targets": len(judged)} if judged else {}


def _device(config: Config) -> str:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise HostError("benchmark: device is cuda, and torch finds no CUDA device here")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    return found if config.device == "auto" else config.device


def _is_asked(config: Config) -> bool:
    """Whether this is the network, and are the sizes, that the targets are for."""
    asked = Config(what=config.what)
    return all(getattr(config, name) == getattr(asked, name) for name in ("model", "crop", "short"))


def _network(config: Config) -> nn.Module:
    return build_chosen(config.model, in_channels=CHANNELS, out_channels=CHANNELS)


def _scan_shapes(config: Config) -> list[scan.Shape]:
    """The distinct scans of the network's layers, fine to coarse."""
    with torch.device("meta"):
        model, crops = _network(config), torch.empty(1, CHANNELS, *config.crop)
        calls = collect(model, crops, kinds=(MambaLayer,), dtype=torch.float32)
    if not calls:
        raise ConfigError(f"benchmark: {config.model.name} has no Mamba layer")
    shapes = (scan.Shape(EXPAND * call.x.shape[1], math.prod(call.x.shape[2:])) for call in calls)
    return list(dict.fromkeys(shapes))


def _scan(config: Config) -> Measured:
    stages, states = _scan_shapes(config), config.model.options.state
    short, long = scan.Shape(stages[0].channels, config.short), stages[0]
    often = {"repeats": config.repeats}
    measured = {
        "stages": len(stages),
        "memory": peak_extra(**long._asdict(), states=states, threads=torch.get_num_threads()),
        "floors": [
            scan.beside_floor(shape, states=states, **often)
            for shape in track([*stages, short], description="scan", unit="shape")
        ],
        "causal_convolutions": [scan.beside_torch_convolution(shape, **often) for shape in stages],
        "baselines": [
            scan.beside_baselines(shape, names, states=states, **often)
            for shape, names in (
                (short, ["per-step loop", "parallel scan"]),
                (long, ["parallel scan"]),
            )
        ],
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
    steps = {
        name: training_step(model, crops, dtype=dtype) for name, dtype in PRECISIONS.items()
    }
    seconds = medians(steps, repeats=config.repeats)
    flop = 2e9 * PASSES * gmac
    rows = {name: {"seconds": spent, "flop": flop} for name, spent in seconds.items()}
    return {"steps": rows}, tables.gpu_step_table(rows, device=torch.cuda.get_device_name()), []
