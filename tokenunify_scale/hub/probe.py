"""Whether an exported folder computes what its source does: two fresh processes, one input.

``python -m tokenunify_scale.hub.probe ORIGIN DTYPE FILE`` is the first of them.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenunify_scale.config import DataError
from tokenunify_scale.hub.definitions import ROOT
from tokenunify_scale.hub.source import Origin, open_source
from tokenunify_scale.models.load import build_described

PROBE = (16, 32, 32)  # voxels, at least, of the crop
TOLERANCE = 1e-5
"""How far maps may be apart, as a share of their length."""
LINES = 6  # of a failed process that are told


def compare(origin: Origin, out: Path, *, dtype: torch.dtype) -> dict[str, Any]:
    """Load both in processes of their own, and compare prediction and features in float32.

    The source computes without numba, as the exported code does: our kernels add up in other
    orders, of which norms over the few voxels of the coarsest maps make up to 5e-5.

    Args:
        origin: what was exported.
        out: the exported folder, which is loaded as its users will: by transformers alone.
        dtype: to which the source's weights are rounded first.

    Returns:
        largest_difference, of the prediction's values; prediction_apart and features_apart, of
        maps as a share of their length; rounding, what ``dtype`` alone changes in the prediction;
        the number of maps and of parameters; and the peak of memory of both processes in MiB.

    Raises:
        DataError: they are further apart than ``TOLERANCE``, or the folder cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.pt"
        kind = str(dtype).removeprefix("torch.")
        words = [json.dumps(asdict(origin)), kind, str(path)]
        own = _run(["-m", "tokenunify_scale.hub.probe", *words], folder, PYTHONPATH=_here())
        text = (Path(__file__).parent / "parts" / "check.py").read_text()
        found = _run(["-c", text, str(out.resolve()), str(path)], folder)
    if found.pop("package_loaded"):
        raise RuntimeError("the exported code imports tokenunify_scale")
    values, maps = found["prediction_apart"], found["features_apart"]
    if not max(values, maps) <= TOLERANCE:
        raise DataError(
            f"{out} and {origin} differ on one input: predictions by {values:.1e} of their length, "
            f"features by {maps:.1e}, allowed {TOLERANCE:.0e}; both are kept"
        )
    peaks = {"source_MiB": own["peak_MiB"], "exported_MiB": found.pop("peak_MiB")}
    return {**found, "rounding": own["rounding"], **peaks}


def _here() -> str:
    """Where this package is, before whatever the path has."""
    return os.pathsep.join(filter(None, [str(ROOT.parent), os.environ.get("PYTHONPATH")]))


def _run(words: list[str], folder: str, **environment: str) -> dict[str, Any]:
    """A Python process's last line as JSON.

    Raises:
        DataError: it failed, with its last lines.
    """
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_MODULES_CACHE": folder,
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "TRANSFORMERS_VERBOSITY": "error",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-LINES:])
        raise DataError(f"the export cannot be checked (exit code {done.returncode}): {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@torch.inference_mode()
def main(origin: str, dtype: str, path: str) -> None:
    """Compute what the source does, for ``compare``."""
    narrow = getattr(torch, dtype)
    with open_source(Origin(**json.loads(origin))) as source:
        with torch.device("meta"):
            network = build_described(source.description).eval()
        for name in source.like:
            _put(network, name, source.read(name))
    sides = network.legal(PROBE)
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(1, source.description.in_channels, *sides, generator=generator)
    rounding = 0.0
    exact = network(crops) if narrow != torch.float32 else None
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(tensor.to(narrow))
    prediction, features = network(crops), network.features(crops)
    if exact is not None:
        rounding = float((exact - prediction).abs().max())
    torch.save({"crops": crops, "prediction": prediction, "features": list(features)}, path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"rounding": rounding, "peak_MiB": peak}))


def _put(network: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Give a network on the meta device one of its tensors."""
    place, _, last = name.rpartition(".")
    module = network.get_submodule(place)
    if last in module._parameters:
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(module, last, tensor)


if __name__ == "__main__":
    sys.modules["numba"] = None  # importing it fails, and plain torch computes
    main(*sys.argv[1:])
