import gzip
import os
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes import nifti
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.nifti import open_nifti

BOX = Box((1, 2, 3), (4, 20, 9))


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (6, 20, 30), dtype=np.uint8)


def write(path, zyx, *, kind=nibabel.Nifti1Image, unit="micron", sides=(0.008, 0.004, 0.035)):
    """A file of the voxels, with sides x, y, z."""
    affine = np.diag([*(-np.array(sides)), 1])
    image = kind(zyx.T, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return str(path)


def patched(path, at, layout, *values):
    """The file with a few bytes of its header changed."""
    zipped = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    struct.pack_into(layout, data, at, *values)
    path.write_bytes(gzip.compress(data) if zipped else data)
    return str(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "u2", "<i2", ">i2", ">u2", "u4", "f4", ">f8"])
def test_a_file_is_the_volume_with_its_axes_turned_once(tmp_path, raw, suffix, kind, dtype):
    raw = raw.astype(dtype)
    image = kind(raw.T, np.eye(4))
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(raw.dtype)
    header.set_data_shape(raw.T.shape)
    image = kind(raw.T, np.eye(4), header)
    nibabel.save(image, tmp_path / f"a{suffix.lower()}")
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"b{suffix}")
    with open_nifti(str(path)) as volume:
        assert (volume.shape, volume.dtype) == (raw.shape, raw.dtype.newbyteorder("="))
        crop = volume.read(BOX)
        assert np.array_equal(crop, raw[BOX.slices]) and crop.dtype == volume.dtype
        crop += 1
        assert np.array_equal(volume.read(), raw)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype, scaled", [("u1", "f4"), ("i2", "f4"), ("i4", "f8"), ("f4", "f4")])
def test_a_slope_makes_floats_as_nibabel_does(tmp_path, raw, suffix, dtype, scaled):
    path = tmp_path / f"a{suffix}"
    write(path, raw.astype(dtype))
    volume = open_nifti(patched(path, 112, "<2f", 0.5, -3))
    assert volume.dtype == scaled
    expected = nibabel.load(path).get_fdata().T[BOX.slices]
    crop = volume.read(BOX)
    assert crop.dtype == scaled and np.array_equal(crop, expected.astype(scaled))


@pytest.mark.parametrize("slope, inter", [(1, 0), (0, 5), (float("nan"), 0)])
def test_a_slope_that_is_unset_or_1_leaves_the_integers(tmp_path, raw, slope, inter):
    write(tmp_path / "a.nii", raw)
    volume = open_nifti(patched(tmp_path / "a.nii", 112, "<2f", slope, inter))
    assert volume.dtype == np.uint8 and np.array_equal(volume.read(), raw)


@pytest.mark.parametrize("unit, nm", [("micron", 1e3), ("mm", 1e6), ("meter", 1e9)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_voxel_size_is_zyx_in_nm(tmp_path, raw, unit, nm, kind):
    sides = tuple(side / nm for side in (4.6, 8, 35))
    path = write(tmp_path / "a.nii", raw, kind=kind, unit=unit, sides=sides)
    assert open_nifti(path).voxel_size == (35, 8, 4.6)


def test_a_unit_of_time_beside_that_of_length_does_no_harm(tmp_path, raw):
    write(tmp_path / "a.nii", raw)
    volume = open_nifti(patched(tmp_path / "a.nii", 123, "B", 3 + 0x60))
    assert volume.voxel_size == (35, 4, 8)


@pytest.mark.parametrize("at, layout, value", [(123, "B", 0), (80, "<f", 0), (80, "<f", np.nan)])
def test_without_a_unit_or_a_side_there_is_no_voxel_size(tmp_path, raw, at, layout, value):
    write(tmp_path / "a.nii", raw)
    assert open_nifti(patched(tmp_path / "a.nii", at, layout, value)).voxel_size is None


def test_the_affine_is_told_and_not_applied(tmp_path, raw):
    volume = open_nifti(write(tmp_path / "a.nii", raw, sides=(8, 4, 35)))
    affine = np.diag([-8.0, -4.0, -35.0, 1.0]).tolist()
    assert volume.attributes == {"affine": affine, "affine_unit": "micron"}
    assert np.array_equal(volume.read(), raw)


def test_axes_of_one_frame_are_dropped_and_of_several_refused(tmp_path, raw):
    for name, array in (("one", raw.T[..., None, None]), ("two", np.stack([raw.T] * 2, -1))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    assert np.array_equal(open_nifti(f"{tmp_path}/one.nii").read(), raw)
    with pytest.raises(DataError, match=r"two.nii: 4-D, shape 30x20x6x2 \(x, y, z, and more\)"):
        open_nifti(f"{tmp_path}/two.nii")


def test_a_single_image_colours_and_complex_numbers_are_refused(tmp_path, raw):
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array, words in (
        (raw[0].T, "single image"),
        (colours, "holds colours"),
        (raw.T.astype("c8"), "holds complex64"),
    ):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
        with pytest.raises(DataError, match=words):
            open_nifti(f"{tmp_path}/a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "at, layout, value",
    [
        (70, "<h", 9999),  # datatype
        (42, "<h", -3),  # a side
        (40, "<h", 9),  # the number of axes
        (344, "4s", b"none"),  # magic
        (108, "<f", float("nan")),  # where voxels begin
        (116, "<f", float("nan")),  # intercept
    ],
)
def test_a_damaged_header_is_one_error(tmp_path, raw, suffix, at, layout, value, caplog):
    path = tmp_path / f"a{suffix}"
    write(path, raw)
    with pytest.raises(DataError, match="a.nii.*: not a readable NIfTI file"):
        open_nifti(patched(path, at, layout, value))
    assert caplog.records == []


@pytest.mark.parametrize("data", [b"", b"hello", 99 * b"hello", gzip.compress(b"hello", mtime=0)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_not_nifti_says_so(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="no such file"):
        open_nifti(str(path))
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a readable NIfTI file"):
        open_nifti(str(path))


def test_a_plain_file_cut_short_is_refused_at_opening(tmp_path, raw):
    write(tmp_path / "a.nii", raw)
    os.truncate(tmp_path / "a.nii", 3000)
    with pytest.raises(DataError, match="cut short, 3600 bytes"):
        open_nifti(f"{tmp_path}/a.nii")


def test_a_gzip_cut_short_or_damaged_is_refused_when_read_at_the_latest(tmp_path, raw):
    path = tmp_path / "a.nii.gz"
    write(path, raw // 16)
    whole = path.read_bytes()
    few = gzip.compress(gzip.decompress(whole)[:3000])
    cases = {whole[:-500]: "damaged, or", whole[:-4]: "damaged, or", few: "short, 3600 bytes"}
    for place in range(len(whole) // 2, len(whole) - 8, 37):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        cases[bytes(flipped)] = "damaged, or"
    for data, words in cases.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"a.nii.gz: (.*{words}|not a readable NIfTI file)"):
            open_nifti(str(path)).read(BOX)


def test_a_crop_of_a_large_plain_file_reads_little(tmp_path):
    path = tmp_path / "a.nii"
    write(path, np.zeros((2, 4, 4), np.uint8))
    patched(path, 42, "<3h", 4096, 4096, 4096)
    os.truncate(path, 352 + 4096**3)  # 64 GiB of nothing on disk
    with path.open("r+b") as file:
        file.seek(352 + 4095 * 4096**2 + 4094 * 4096 + 4093)
        file.write(b"abc")
    crop = open_nifti(str(path)).read(Box((4094, 4094, 4092), (4096, 4096, 4096)))
    assert crop.tobytes() == bytes(9) + b"abc" + bytes(4)


def test_gzip_is_unpacked_once_by_the_first_reader_into_a_file_that_has_no_name(
    tmp_path, raw, monkeypatch
):
    path, scratch, calls = write(tmp_path / "a.nii.gz", raw), tmp_path / "scratch", []
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    unpack = nifti.Voxels._unpack
    monkeypatch.setattr(nifti.Voxels, "_unpack", lambda *a: calls.append(1) or unpack(*a))
    with open_nifti(path) as volume, ThreadPoolExecutor(8) as pool:
        assert calls == []
        boxes = [Box((z % 5, z % 7, z % 11), (6, 20, 30)) for z in range(32)]
        for box, crop in zip(boxes, pool.map(volume.read, boxes), strict=True):
            assert np.array_equal(crop, raw[box.slices])
        assert calls == [1] and list(scratch.iterdir()) == []


def test_gzip_that_does_not_fit_the_temporary_folder_names_it(tmp_path, raw, monkeypatch):
    volume = open_nifti(write(tmp_path / "a.nii.gz", raw))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        nifti.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3599})
    )
    with pytest.raises(HostError, match=rf"{tmp_path} has 0.0 GiB left; .*TMPDIR"):
        volume.read()


def test_both_suffixes_are_claimed():
    claim = READERS.get("nifti").config
    assert all(claim.covers(f"v/a{suffix}") for suffix in (".nii", ".nii.gz", ".NII.gz"))
