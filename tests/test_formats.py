"""One volume in every format the readers take gives the same shards, byte for byte."""

import hashlib
import json

import nibabel
import numpy as np
import pytest
import tensorstore
import tifffile
from PIL import Image

from tokenunify_scale import prepare
from tokenunify_scale.volumes.hdf5 import write_hdf5

SHAPE, CHUNK = (12, 40, 56), (4, 16, 32)
SIDES = (35.0, 8.0, 4.0)


def stored(folder, array, *, driver, **options):
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}, **options}
    facts = {} if "multiscale_metadata" in options else {"shape": array.shape}
    facts["dtype"] = tensorstore.dtype(array.dtype)
    tensorstore.open(spec, create=True, **facts).result().write(array).result()


def hdf5(folder, array):
    write_hdf5(folder / "a.h5", {"raw": array}, attributes={"raw": {"voxel_size": SIDES}})
    return "a.h5:raw"


def tiff(folder, array):
    tifffile.imwrite(folder / "a.tif", array, photometric="minisblack", compression="zlib")
    return "a.tif"


def png(folder, array):
    (folder / "sections").mkdir()
    for number, section in enumerate(array):
        Image.fromarray(section).save(folder / "sections" / f"{number}.png")
    return "sections"


def nifti(folder, array):
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / "a.nii.gz")
    return "a.nii.gz"


def zarr2(folder, array):
    stored(folder / "a.zarr", array, driver="zarr", metadata={"chunks": CHUNK})
    return "a.zarr"


def zarr3_ome(folder, array):
    grid = {"name": "regular", "configuration": {"chunk_shape": CHUNK}}
    stored(folder / "a.zarr" / "0", array, driver="zarr3", metadata={"chunk_grid": grid})
    scale = [{"type": "scale", "scale": SIDES}]
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    ome = {
        "version": "0.5",
        "multiscales": [
            {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        ],
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / "a.zarr" / "zarr.json").write_text(json.dumps(group))
    return "a.zarr"


def n5(folder, array):
    stored(folder / "a.n5", array.T, driver="n5", metadata={"blockSize": CHUNK[::-1]})
    return "a.n5"


def precomputed(folder, array):
    scale = {
        "key": "4_8_35",
        "resolution": SIDES[::-1],
        "size": array.shape[::-1],
        "chunk_size": CHUNK[::-1],
        "encoding": "raw",
    }
    facts = {"type": "image", "data_type": array.dtype.name, "num_channels": 1}
    stored(
        folder / "image",
        array.T[..., None],
        driver="neuroglancer_precomputed",
        multiscale_metadata=facts,
        scale_metadata=scale,
    )
    return "image"


def shards(folder, write, array, **options):
    folder.mkdir()
    spec = write(folder, array)
    config = prepare.Config(
        volumes=(f"{folder}/{spec}",),
        out=folder / "shards",
        crops=10,
        crop=(4, 16, 16),
        per_shard=6,
        **options,
    )
    prepare.run(config)
    tars = sorted((folder / "shards").glob("*.tar"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in tars]


FORMATS = (tiff, png, nifti, zarr2, zarr3_ome, n5, precomputed)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_format_gives_the_same_shards(tmp_path, write, dtype):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, SHAPE).astype(dtype)
    expected = shards(tmp_path / "hdf5", hdf5, array)
    assert len(expected) == 2
    assert shards(tmp_path / "other", write, array) == expected
    if write in (zarr3_ome, precomputed):
        index = json.loads((tmp_path / "other" / "shards" / "index.json").read_text())
        assert index["voxel_size"] == list(SIDES)
