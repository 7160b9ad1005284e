"""HDF5 files: read a dataset or a crop of it, and write files that are whole or absent."""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.volume import Claim, Volume, voxel_size_of

SUFFIXES = (".h5", ".hdf5", ".hdf")
CHUNK = (16, 128, 128)
SLAB = 16 << 20
"""Bytes of a dataset that are written at a time."""
SPARE = 16 << 20
"""Bytes that must stay free on the disk: HDF5 ends the process where its own tables do not fit."""


class Boxes(Protocol):
    """What a dataset can be copied from without being in memory as a whole."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, box: Box) -> np.ndarray:
        """The values of a box of the last three axes."""


class Dataset:
    """A dataset of three or four axes, [D, H, W] or [C, D, H, W], read box by box."""

    def __init__(self, spec: str) -> None:
        """Open it.

        Args:
            spec: ``path.h5:dataset``, or ``path.h5`` if the file holds exactly one dataset.

        Raises:
            DataError: no such file or dataset, not HDF5, or another number of axes.
        """
        path, name = split_spec(spec)
        self._file = _open(path)
        try:
            self._dataset = _dataset(self._file, name, path=path)
            if self._dataset.ndim not in (3, 4):
                raise DataError(
                    f"{spec}: shape {self._dataset.shape}; expected [D, H, W] or [C, D, H, W]"
                )
        except DataError:
            self._file.close()
            raise
        inner, outer = _plain(self._dataset.attrs), _plain(self._file.attrs)
        self.path = spec
        self.shape: tuple[int, ...] = self._dataset.shape
        self.dtype: np.dtype = self._dataset.dtype
        self.attributes: dict[str, Any] = {**outer, **inner}
        self.voxel_size = voxel_size_of(inner, outer)

    def read(self, box: Box, *, channels: slice | None = None) -> np.ndarray:
        """The values of a box, of all channels or some; the caller's own.

        Raises:
            DataError: the box reaches out of the dataset, or the file is damaged there.
        """
        if not Box.of(self.shape[-3:]).contains(box):
            raise DataError(f"{self.path}: {box} reaches out of shape {self.shape}")
        first = () if len(self.shape) == 3 else (channels or slice(None),)
        try:
            return self._dataset[(*first, *box.slices)]
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read at {box.start}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def split_spec(spec: str) -> tuple[Path, str | None]:
    """``a.h5:raw`` as the path and the dataset; None where no dataset is named."""
    suffixes = "|".join(re.escape(suffix) for suffix in SUFFIXES)
    match = re.fullmatch(rf"(.+?(?:{suffixes}))(?::(.*))?", spec, re.IGNORECASE)
    return (Path(match[1]), match[2] or None) if match else (Path(spec), None)


def open_hdf5(spec: str) -> Volume:
    """A volume in an HDF5 file; a read touches the chunks it needs.

    Args:
        spec: ``path.h5:dataset``, or ``path.h5`` if the file holds exactly one dataset.

    Raises:
        DataError: no such file or dataset (the message names those there are), not HDF5, not 3-D.
    """
    path, name = split_spec(spec)
    file = _open(path)
    try:
        dataset = _dataset(file, name, path=path)
        inner, outer = _plain(dataset.attrs), _plain(file.attrs)
    except DataError:
        file.close()
        raise
    return Volume(
        spec,
        dataset,
        voxel_size=voxel_size_of(inner, outer),
        attributes={**outer, **inner},
        close=file.close,
    )


def read_hdf5(
    path: str | Path, dataset: str | None = None, box: Box | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a dataset of any number of axes, with its attributes.

    Args:
        path: of the file.
        dataset: its name; None if the file holds exactly one.
        box: crop along the last three axes (zyx); all of them if None.

    Returns:
        The array, and the dataset's attributes as plain Python values.

    Raises:
        DataError: no such file or dataset, not HDF5, or the box reaches out of the dataset.
    """
    path = Path(path)
    with _open(path) as file:
        found = _dataset(file, dataset, path=path)
        attributes = _plain(found.attrs)
        if box is None:
            return found[()], attributes
        if found.ndim < 3 or not Box.of(found.shape[-3:]).contains(box):
            raise DataError(
                f"{path}:{found.name[1:]}: crop {box.start} to {box.stop} reaches out "
                f"of shape {found.shape}"
            )
        return found[(..., *box.slices)], attributes


def write_hdf5(
    path: str | Path,
    datasets: Mapping[str, np.ndarray | Boxes],
    *,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a file that appears under its name only when it is whole.

    Args:
        path: of the file; missing folders are made, an older file is replaced.
        datasets: arrays by name, or what gives one box by box, which is copied a slab at a time;
            chunked and compressed, floats fast and integers small.
        attributes: by dataset, or ``"/"`` for the file; values of None are left out.

    Raises:
        HostError: the disk is full.
        ValueError: attributes for a dataset that is not written.
        OSError: the folder cannot be written.
    """
    path, attributes = Path(path), attributes or {}
    if strangers := sorted(set(attributes) - set(datasets) - {"/"}):
        raise ValueError(f"attributes for {strangers}, but the datasets are {sorted(datasets)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(part, "w") as file:
            for name, array in datasets.items():
                _write(file, name, array, path=path)
            for name, values in attributes.items():
                for key, value in values.items():
                    if value is not None:
                        file[name].attrs[key] = value
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write(file: h5py.File, name: str, array: np.ndarray | Boxes, *, path: Path) -> None:
    """One dataset, a slab of whole chunks after the other, while there is room for the next."""
    if isinstance(array, np.ndarray) and (array.ndim < 3 or array.size == 0):
        file.create_dataset(name, data=array)
        return
    dataset = file.create_dataset(name, array.shape, array.dtype, **_storage(array))
    for box in _parts(array):
        bytes = math.prod((*array.shape[:-3], *box.shape)) * array.dtype.itemsize
        free, needed = shutil.disk_usage(path.parent).free, bytes + SPARE
        if free < needed:
            raise HostError(
                f"{path}: {free >> 20} MiB are left on the disk, {name} may need "
                f"{needed >> 20} MiB for its next {box.shape} voxels: make room, or choose "
                "another --out"
            )
        where = (..., *box.slices)
        dataset[where] = array[where] if isinstance(array, np.ndarray) else array.read(box)
        file.flush()


def _parts(array: np.ndarray | Boxes) -> list[Box]:
    """Boxes of whole chunks that cover an array, of SLAB bytes where a row of chunks has less."""
    depth, height, width = array.shape[-3:]
    row = math.prod(array.shape[:-3]) * CHUNK[0] * CHUNK[1] * width * array.dtype.itemsize
    rows = max(1, SLAB // row)
    tall = CHUNK[1] * rows
    deep = CHUNK[0] * max(1, rows // -(-height // CHUNK[1]))
    return [
        Box((z, y, 0), (min(z + deep, depth), min(y + tall, height), width))
        for z in range(0, depth, deep)
        for y in range(0, height, tall)
    ]


def _storage(array: np.ndarray | Boxes) -> dict[str, Any]:
    """Chunks and compression that suit an array."""
    sides = (*[1] * (len(array.shape) - 3), *CHUNK)
    chunks = tuple(map(min, sides, array.shape))
    if array.dtype.kind == "f":
        return {"chunks": chunks, "compression": "lzf"}
    return {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error})") from error


def _dataset(file: h5py.File, name: str | None, *, path: Path) -> h5py.Dataset:
    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    present = f"it holds {', '.join(names)}" if names else "it holds no dataset"
    if name is None:
        if len(names) != 1:
            raise DataError(
                f"{path}: name a dataset, as in {path.name}:{names[0] if names else 'raw'}; "
                f"{present}"
            )
        name = names[0]
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: no dataset {name!r}; {present}")
    return found


def _plain(attributes: h5py.AttributeManager) -> dict[str, Any]:
    """Attributes as Python numbers, strings and lists."""
    plain = {}
    for key, value in attributes.items():
        value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        plain[key] = value.decode() if isinstance(value, bytes) else value
    return plain


READERS.add("hdf5", open_hdf5, Claim(suffixes=SUFFIXES), source="the HDF Group's format")
