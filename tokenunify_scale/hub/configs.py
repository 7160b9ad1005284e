"""What an exported folder says of its network: config.json and how volumes become its input."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenunify_scale.config import load_yaml
from tokenunify_scale.data.affinities import NEAREST
from tokenunify_scale.hub.code import CONFIGURATION, MODELING
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import MODEL_TYPE, Description


def config_json(about: Description, *, dtype: str, run: Path | None) -> dict[str, Any]:
    """The content of config.json.

    Args:
        about: the weights.
        dtype: of the stored ones.
        run: that left them; None of fresh ones.

    Returns:
        Architecture, channels, what comes out, and the margin (z, y, x) in voxels by which the
        prediction is smaller on either side.
    """
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["TokenUnifyModel"],
        "auto_map": {
            "AutoConfig": f"{CONFIGURATION}.TokenUnifyConfig",
            "AutoModel": f"{MODELING}.TokenUnifyModel",
        },
        "dtype": dtype,
        **asdict(about),
        "margin": MODELS.get(about.model["name"]).factory.margin,
        "output": _output(about, run),
    }


def preprocessing(about: Description) -> dict[str, Any]:
    """How a volume becomes the input."""
    return {
        "axes": "bczyx",
        "in_channels": about.in_channels,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "range": [0, 1],
    }


def _output(about: Description, run: Path | None) -> dict[str, Any]:
    """What the channels of a prediction are."""
    if about.objective == "affinity":
        offsets = [list(offset) for offset in about.offsets or NEAREST]
        return {"kind": "affinities", "offsets": offsets, "edge": "(p, p - offset)"}
    settings = load_yaml(run / "config.yaml") if run and (run / "config.yaml").is_file() else {}
    targets = (settings.get("objective") or {}).get("targets")
    return {"kind": "intensities", **({"targets": targets} if targets else {})}
