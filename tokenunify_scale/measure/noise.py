"""What wrong affinities do to a segmentation: true ones of synthetic neurites, some flipped.

No network is asked: the affinities come from labels without background, so that all that is lost is
lost behind them.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenunify_scale.data.affinities import NEAREST, Offset, affinities_from_labels
from tokenunify_scale.measure.report import Finding, table
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess.blockwise import segment_blocks
from tokenunify_scale.postprocess.phases import POSTPROCESS
from tokenunify_scale.postprocess.stages import Job
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.synthetic import SyntheticConfig, synthesize

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1)
FAR: tuple[Offset, ...] = ((2, 0, 0), (0, 5, 0), (0, 0, 5))
"""What the mutex watershed has beside the nearest: it needs edges that keep voxels apart."""
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "waterz": ("waterz", {}),
    "waterz, scoring paper": ("waterz", {"scoring": "paper", "doubt": 0.0}),
    "multicut": ("multicut", {}),
    "mutex, 6 channels": ("mutex", {}),
}
JUDGED = ("waterz", "multicut")
BLOCKED = (0.0, 0.05)  # shares at which blocks are held against the whole
HALO = (4, 16, 16)


def compare(shape: Triple, *, folder: Path) -> dict[str, Any]:
    """VOI of each way at each share of flipped affinities, and of 8 blocks beside the whole.

    Args:
        shape: (z, y, x) voxels of synthetic labels at 8x8x35 nm; even.
        folder: of working files, which are removed.
    """
    _, labels = synthesize(SyntheticConfig(shape=shape))
    labels = labels.astype(np.int64)
    truth = affinities_from_labels(torch.from_numpy(labels), (*NEAREST, *FAR))[0].numpy()
    curves: dict[str, list[float]] = {way: [] for way in WAYS}
    blocks: dict[str, dict[str, float]] = {way: {} for way in JUDGED}
    for share in SHARES:
        affinities = flipped(truth, share)
        for way in WAYS:
            whole = segmented(way, affinities)
            curves[way].append(score(whole, labels).voi)
            if way in JUDGED and share in BLOCKED:
                parts = by_blocks(way, affinities[:3], folder=folder / "blocks")
                blocks[way][str(share)] = score(parts, whole.astype(np.int64)).voi
    merged = score(np.ones_like(labels), labels).voi
    return {"shape": list(shape), "shares": list(SHARES), "voi": curves, "blocks": blocks,
            "everything_merged": merged}  # fmt: skip


def flipped(affinities: np.ndarray, share: float, *, seed: int = 0) -> np.ndarray:
    """Affinities of which a share, drawn one by one, is 1 minus what it was; float32."""
    wrong = np.random.default_rng(seed).random(affinities.shape) < share
    return np.where(wrong, 1 - affinities, affinities).astype(np.float32)


def segmented(way: str, affinities: np.ndarray) -> np.ndarray:
    """A volume at once; uint64 [D, H, W]."""
    name, changes = WAYS[way]
    entry, offsets = POSTPROCESS.get(name), (*NEAREST, *FAR)
    count = len(offsets) if name == "mutex" else len(NEAREST)
    config = replace(entry.config, **changes)
    found, _ = entry.factory(config, affinities[:count], offsets=offsets[:count])
    return next(iter(found.values()))


def by_blocks(way: str, affinities: np.ndarray, *, folder: Path) -> np.ndarray:
    """The same in 2 x 2 x 2 blocks; uint64 [D, H, W]."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name, changes = WAYS[way]
    facts = {"offsets": [list(offset) for offset in NEAREST], "axes": "czyx"}
    write_hdf5(
        folder / "affinities.h5", {"affinities": affinities}, attributes={"affinities": facts}
    )
    z, y, x = (side // 2 for side in affinities.shape[1:])
    outcome = segment_blocks(
        Job(
            source=f"{folder}/affinities.h5:affinities",
            method=name,
            options=replace(POSTPROCESS.get(name).config, **changes),
            folder=folder,
            shape=affinities.shape[1:],
            block=(z, y, x),
            halo=HALO,
            voxel_size=(1.0, 1.0, 1.0),
            min_size=0,
            dissolve="nearest",
            facts={"axes": "zyx"},
        )
    )
    found = outcome.arrays["segmentation"]
    array = found.read(Box.of(found.shape))
    shutil.rmtree(folder)
    return array


def noise_table(measured: Mapping[str, Any]) -> str:
    """The tables of ``benchmark noise``."""
    heads = ["VOI in bits, affinities flipped", *(f"{s:.0%}" for s in measured["shares"])]
    rows = [[way, *(f"{voi:.3f}" for voi in curve)] for way, curve in measured["voi"].items()]
    rows.append(["everything merged", f"{measured['everything_merged']:.3f}"])
    rows[-1] += [""] * (len(heads) - len(rows[-1]))
    shares = [str(share) for share in BLOCKED]
    beside = [[way, *(f"{found[s]:.4f}" for s in shares)]
              for way, found in measured["blocks"].items()]  # fmt: skip
    other = ["8 blocks against the whole", *(f"{share:.0%}" for share in BLOCKED)]
    return f"{table(heads, rows)}\n\n{table(other, beside)}"


def noise_findings(measured: Mapping[str, Any]) -> list[Finding]:
    """What of ``benchmark noise`` has a target."""
    findings, all_merged = [], measured["everything_merged"]
    for way in JUDGED:
        curve = measured["voi"][way]
        findings.append(Finding(f"{way}, VOI on perfect affinities", curve[0], "perfect"))
        share = curve[-1] / all_merged
        findings.append(Finding(f"{way}, 10 % flipped / everything merged", share, "noise"))
        apart = max(measured["blocks"][way].values())
        findings.append(Finding(f"{way}, VOI between 8 blocks and the whole", apart, "blocks"))
    return findings
