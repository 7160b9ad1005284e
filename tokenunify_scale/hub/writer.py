"""Weights as safetensors files, written one tensor at a time: memory is that of the largest.

Source of the layout: the README of huggingface/safetensors; names of files and index as
transformers has them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tokenunify_scale.config import HostError
from tokenunify_scale.train.checkpoint import DTYPES, INDEX, WEIGHTS
from tokenunify_scale.train.runlog import write_atomically

CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 8  # of the header, in bytes
PARTIAL = ".partial"
Likes = Mapping[str, Tensor]
"""Shape and type of each tensor, by name; on the meta device."""


def write_weights(
    folder: Path,
    like: Likes,
    read: Callable[[str], Tensor],
    *,
    header: Mapping[str, str],
    limit: int,
) -> dict[str, str]:
    """Write tensors to ``folder``, in one file, or in several and an index.

    Args:
        folder: is there; files of an earlier export in it go when all are written.
        like: what is written, in order.
        read: a tensor by name, of that shape; it is cast to that type.
        header: texts that each file holds beside the tensors.
        limit: bytes of tensors in a file; one that is larger has a file to itself.

    Returns:
        SHA-256 of each file, by name.

    Raises:
        HostError: the disk does not take it; what was there stays.
    """
    parts = split(like, limit=limit)
    names = [WEIGHTS]
    if len(parts) > 1:
        names = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    sums = {}
    try:
        for name, part in zip(names, parts, strict=True):
            sums[name] = _write(folder / f"{name}{PARTIAL}", part, read, header)
        for path in [*folder.glob("model*.safetensors"), folder / INDEX]:
            path.unlink(missing_ok=True)
        for name in names:
            (folder / f"{name}{PARTIAL}").replace(folder / name)
        if len(parts) > 1:
            index = {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in like.values())},
                "weight_map": {t: name for name, p in zip(names, parts, strict=True) for t in p},
            }
            write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")
    except OSError as error:
        raise HostError(f"{folder}: the weights cannot be written ({error}): make room") from None
    finally:
        for name in names:
            (folder / f"{name}{PARTIAL}").unlink(missing_ok=True)
    return sums


def split(like: Likes, *, limit: int) -> list[Likes]:
    """Tensors by file, in order, each file as full as the limit lets it."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in like.items():
        if parts[-1] and size + tensor.nbytes > limit:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def _write(
    path: Path, like: Likes, read: Callable[[str], Tensor], header: Mapping[str, str]
) -> str:
    """Write one file, and return its SHA-256. Wider types come first, so that all are aligned."""
    order = sorted(like.items(), key=lambda item: -item[1].itemsize)
    entries: dict[str, object] = {"__metadata__": dict(header)}
    at = 0
    for name, tensor in order:
        place = [at, at := at + tensor.nbytes]
        code = CODES[tensor.dtype]
        entries[name] = {"dtype": code, "shape": [*tensor.shape], "data_offsets": place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    total = hashlib.sha256()
    with path.open("wb", buffering=0) as file:

        def put(data: bytes | memoryview) -> None:
            total.update(data)
            while data:
                data = data[file.write(data) :]

        put(len(text).to_bytes(8, "little") + text)
        for name, wanted in order:
            tensor = read(name).to(wanted.dtype).contiguous()
            if tensor.shape != wanted.shape:
                raise ValueError(f"{name} is {[*tensor.shape]}, expected {[*wanted.shape]}")
            put(memoryview(tensor.flatten().view(torch.uint8).numpy()))
    return total.hexdigest()
