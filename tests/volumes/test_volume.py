from pathlib import Path

import numpy as np
import pytest
import tifffile

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import Claim, Volume, open_volume, sections_box, voxel_size_of

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def test_the_readers_are_in_the_registry():
    kinds = {"hdf5", "images", "nifti", "synthetic", "tensorstore", "tiff"}
    assert kinds == set(READERS.names())


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".hdf", ".H5", ".tif", ".tiff", ".TIF"])
def test_the_suffix_chooses_the_reader(tmp_path, suffix):
    raw = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / f"a{suffix}"
    if "h" in suffix.lower():
        write_hdf5(path, {"raw": raw})
    else:
        tifffile.imwrite(path, raw, photometric="minisblack")
    with open_volume(path) as volume:
        assert (volume.path, volume.shape, volume.dtype) == (str(path), (2, 3, 4), np.uint8)
        assert np.array_equal(volume.read(), raw)
        assert np.array_equal(volume.read(Box((1, 0, 2), (2, 3, 4))), raw[1:2, 0:3, 2:4])


@pytest.mark.parametrize("spec", ["a.xyz", "folder", "synthetical:seed=1", ""])
def test_a_spec_nobody_reads_lists_what_can_be_read(spec):
    with pytest.raises(ConfigError, match=r"\.h5, .*synthetic, .*\.tif, .*gs://"):
        open_volume(spec)


def test_a_claim_covers_suffixes_prefixes_and_schemes():
    claim = Claim(suffixes=(".zarr",), prefix="made", schemes=("gs://",), folder=Path.is_dir)
    for spec in ("a.zarr", "A.ZARR:raw", "made", "made:up", "gs://b/x", "GS://b"):
        assert claim.covers(spec), spec
    for spec in ("a.zarr2", "a.zarr/raw", "maded:1", "s3://b/a.zarr", "https://h/made"):
        assert not claim.covers(spec), spec
    assert not Claim(suffixes=(".h5",)).covers("https://host/a.h5")


def test_a_claim_holds_folders_and_what_lies_in_folders_of_its_suffix(tmp_path):
    claim = Claim(suffixes=(".zarr",), folder=lambda path: (path / "sign").exists())
    (tmp_path / "em").mkdir()
    assert not claim.holds(f"{tmp_path}/em")
    (tmp_path / "em/sign").touch()
    assert claim.holds(f"{tmp_path}/em") and claim.holds(f"{tmp_path}/em:raw")
    assert claim.holds("nowhere/a.zarr/raw/s0")
    assert not claim.holds("gs://b/a.zarr/raw") and not claim.holds("")
    assert not Claim(suffixes=(".h5",)).holds("a.h5/raw")


def test_a_crop_out_of_the_volume_is_refused():
    volume = Volume("v", np.zeros((2, 3, 4)), voxel_size=None, attributes={})
    with pytest.raises(DataError, match="reaches out"):
        volume.read(Box((0, 0, 0), (3, 3, 4)))


def test_what_is_read_belongs_to_the_reader():
    array = np.zeros((2, 3, 4), ">u2")
    voxels = Volume("v", array, voxel_size=None, attributes={}).read()
    voxels += 1
    assert array.max() == 0 and voxels.dtype == np.uint16 and voxels.dtype.isnative


def test_a_volume_that_is_not_3d_is_closed_at_once_and_otherwise_once():
    calls = []
    with pytest.raises(DataError, match="single image"):
        Volume("v", np.zeros((3, 4)), voxel_size=None, attributes={}, close=lambda: calls.append(1))
    assert calls == [1]
    with Volume(
        "v", np.zeros((1, 3, 4)), voxel_size=None, attributes={}, close=lambda: calls.append(2)
    ) as volume:
        volume.close()
    assert calls == [1, 2]


def test_a_range_of_sections_is_a_box_within_the_volume():
    volume = Volume("v", np.zeros((5, 3, 4)), voxel_size=None, attributes={})
    assert sections_box(volume, None) == Box.of((5, 3, 4))
    assert sections_box(volume, (1, 5)) == Box((1, 0, 0), (5, 3, 4))
    for wrong in ((0, 6), (2, 2), (-1, 3)):
        with pytest.raises(ConfigError, match="within 0 to 5"):
            sections_box(volume, wrong)


def test_the_first_source_that_tells_a_voxel_size_wins():
    assert voxel_size_of({"resolution": [0, 1, 1]}, {"resolution_nm": [5, 4, 3]}) == (5, 4, 3)
    assert voxel_size_of({}, {"voxel_size": "8 nm"}) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared/data beside the repository")
def test_real_volumes_open_with_their_voxel_size():
    with open_volume(DATA / "vnc3_stack2_raw.h5") as volume:
        assert volume.shape == (20, 1024, 1024)
        assert volume.voxel_size == pytest.approx((50, 4.6, 4.6))
        assert volume.read(Box((3, 5, 7), (5, 9, 12))).shape == (2, 4, 5)
    with pytest.raises(DataError, match="supervoxels"):
        open_volume(DATA / "fib25_train2_labeled.h5")
