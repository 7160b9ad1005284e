"""tokenunify_scale: pretrain, fine-tune, segment, score and scale networks for EM volumes.

The public names are imported when they are first used, so that ``tokenunify --help`` is quick.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "build_model": "tokenunify_scale.models",
    "list_models": "tokenunify_scale.models",
    "load_model": "tokenunify_scale.models.load",
    "load_recipe": "tokenunify_scale.config",
    "open_volume": "tokenunify_scale.volumes.volume",
    "score": "tokenunify_scale.metrics",
}
_VERBS = ("prepare", "pretrain", "finetune", "predict", "segment", "evaluate", "export")
__all__ = [*_HOMES, *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _VERBS:
        return importlib.import_module(f"tokenunify_scale.{name}")
    raise AttributeError(f"module 'tokenunify_scale' has no attribute {name!r}")
