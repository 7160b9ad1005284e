"""Which implementation runs a sequence operation, and why.

``cuda`` is the stock kernels of mamba-ssm and causal-conv1d, ``cpu`` our numba kernels. Plain
torch on any device: ``chunked``, for hosts without numba, and ``reference``, the definition, one
step after another. The argument ``backend`` wins over the environment variable
``TOKENUNIFY_SCAN_BACKEND``, which wins over the device.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
from typing import Literal, NamedTuple, get_args

import torch

from tokenunify_scale.config import ConfigError, HostError

log = logging.getLogger(__name__)

Backend = Literal["auto", "cuda", "cpu", "chunked", "reference"]
VARIABLE = "TOKENUNIFY_SCAN_BACKEND"
STOCK = ("mamba_ssm", "causal_conv1d")
EXTRA = "pip install 'tokenunify-scale[gpu]'"


class Choice(NamedTuple):
    """A backend's name, and why it was taken."""

    name: str
    reason: str
    fallback: bool = False


def choose(device_type: str, requested: str = "auto") -> Choice:
    """The backend for tensors on ``device_type``: "cpu", "cuda" or "meta".

    Raises:
        ConfigError: the backend is unknown, or cannot take tensors of this device.
        HostError: it needs a package that is not installed.
    """
    word, place = requested, "the argument backend"
    if requested == "auto" and os.environ.get(VARIABLE):
        word, place = os.environ[VARIABLE], f"the environment variable {VARIABLE}"
    if word not in get_args(Backend):
        raise ConfigError(f"{place} says {word!r}; valid: {', '.join(get_args(Backend))}")
    if device_type == "meta":
        return Choice("cpu", "only shapes are wanted, which need no kernel")
    if word in ("chunked", "reference"):
        return Choice(word, f"asked for by {place}")
    on_cuda = device_type == "cuda"
    if word != "auto" and (word == "cuda") != on_cuda:
        raise ConfigError(f"{place} says {word!r}, but the tensors are on {device_type}")
    why = f"tensors are on {device_type}" if word == "auto" else f"asked for by {place}"
    if on_cuda:
        missing = [name for name in STOCK if importlib.util.find_spec(name) is None]
        if missing:
            raise HostError(f"tensors on CUDA need {' and '.join(missing)}: {EXTRA}, "
                            f"or set {VARIABLE}=chunked (slow)")
        return Choice("cuda", why)
    failure = numba_failure()
    if failure is None:
        return Choice("cpu", why)
    if word == "cpu":
        raise HostError(f"the cpu backend needs numba (pip install numba): {failure}")
    return Choice("chunked", f"{why} and numba cannot be used: {failure}", fallback=True)


@functools.cache
def numba_failure() -> str | None:
    """Why numba does not import here, or None if it does."""
    try:
        importlib.import_module("numba")
    except (ImportError, OSError, AttributeError, SystemError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@torch.compiler.assume_constant_result
def resolve(device_type: str, requested: str = "auto") -> str:
    """The name of ``choose``; the first time a choice is made, it is logged with its reason."""
    choice = choose(device_type, requested)
    if device_type != "meta":  # shapes only: nothing runs
        _say_once(choice)
    return choice.name


@functools.cache
def _say_once(choice: Choice) -> None:
    log.log(logging.WARNING if choice.fallback else logging.INFO,
            "sequence operations run on backend %s: %s%s", choice.name, choice.reason,
            " (about ten times slower)" if choice.fallback else "")


def describe(device_type: str | None = None) -> dict[str, str]:
    """What would run on a device, for ``environment.json``; never raises.

    Args:
        device_type: "cpu" or "cuda"; the accelerator if there is one, unless said.

    Returns:
        device, backend ("none" if nothing can run), reason, and versions of the packages found.
    """
    device = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        choice = choose(device)
    except (ConfigError, HostError) as error:
        choice = Choice("none", str(error))
    found = {"device": device, "backend": choice.name, "reason": choice.reason}
    for package in ("numba", "mamba-ssm", "causal-conv1d"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
