import numpy as np
import pytest
import tifffile

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import open_hdf5, write_hdf5
from tokenunify_scale.volumes.tiff import open_tiff


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (6, 20, 30), dtype=np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "lzw"},
        {"imagej": True},
        {"ome": True},
        {"tile": (16, 16)},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"metadata": None},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_stack_is_the_hdf5_volume(tmp_path, raw, options, dtype):
    raw = raw.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", raw, photometric="minisblack", **options)
    write_hdf5(tmp_path / "a.h5", {"raw": raw})
    box = Box((1, 2, 3), (4, 20, 9))
    with open_tiff(f"{tmp_path}/a.tif") as tiff, open_hdf5(f"{tmp_path}/a.h5") as hdf5:
        assert (tiff.shape, tiff.dtype) == (hdf5.shape, hdf5.dtype)
        assert np.array_equal(tiff.read(), hdf5.read())
        crop = tiff.read(box)
        assert np.array_equal(crop, raw[box.slices]) and crop.dtype == dtype
        crop += 1
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), raw)


def test_pages_written_one_by_one_are_a_stack(tmp_path, raw):
    with tifffile.TiffWriter(tmp_path / "a.tiff") as writer:
        for section in raw:
            writer.write(section, contiguous=False, metadata=None)
    volume = open_tiff(f"{tmp_path}/a.tiff")
    assert np.array_equal(volume.read(Box((2, 0, 0), (5, 20, 30))), raw[2:5])


@pytest.mark.parametrize("unit, scale", [("nm", 1.0), ("um", 1e-3), ("micron", 1e-3)])
def test_imagej_tells_the_voxel_size(tmp_path, raw, unit, scale):
    tifffile.imwrite(
        tmp_path / "a.tif",
        raw,
        imagej=True,
        resolution=(1 / (8 * scale), 1 / (4 * scale)),
        metadata={"spacing": 35 * scale, "unit": unit, "axes": "ZYX"},
    )
    assert open_tiff(f"{tmp_path}/a.tif").voxel_size == pytest.approx((35, 4, 8), rel=1e-4)


def test_ome_tells_the_voxel_size(tmp_path, raw):
    sizes = {
        "PhysicalSizeX": 8.0,
        "PhysicalSizeY": 4.0,
        "PhysicalSizeZ": 0.035,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", raw, metadata={"axes": "ZYX", **sizes})
    assert open_tiff(f"{tmp_path}/a.ome.tif").voxel_size == pytest.approx((35, 4, 8))


def test_a_plain_stack_has_no_voxel_size(tmp_path, raw):
    tifffile.imwrite(tmp_path / "a.tif", raw, photometric="minisblack")
    assert open_tiff(f"{tmp_path}/a.tif").voxel_size is None


def test_a_single_image_colours_and_four_axes_are_refused(tmp_path, raw):
    tifffile.imwrite(tmp_path / "one.tif", raw[0])
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((20, 30, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "four.tif", np.zeros((2, 3, 20, 30), np.uint8), photometric="minisblack"
    )
    for name, message in (("one", "single image"), ("rgb", "colour"), ("four", "4-D")):
        with pytest.raises(DataError, match=message):
            open_tiff(f"{tmp_path}/{name}.tif")


def test_a_missing_a_wrong_and_a_truncated_file_say_so(tmp_path, raw):
    with pytest.raises(DataError, match="no such file"):
        open_tiff(f"{tmp_path}/a.tif")
    (tmp_path / "a.tif").write_text("hello")
    with pytest.raises(DataError, match="not a readable TIFF"):
        open_tiff(f"{tmp_path}/a.tif")
    tifffile.imwrite(tmp_path / "b.tif", raw, photometric="minisblack")
    whole = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[: len(whole) - 2000])
    with pytest.raises(DataError, match="cut short"):
        open_tiff(f"{tmp_path}/b.tif")


def test_a_page_that_cannot_be_decoded_is_named(tmp_path, raw):
    tifffile.imwrite(tmp_path / "a.tif", raw, photometric="minisblack", compression="lzw")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[3]
        start, size = page.dataoffsets[0], page.databytecounts[0]
    data[start : start + size] = b"\xff" * size
    (tmp_path / "a.tif").write_bytes(data)
    with open_tiff(f"{tmp_path}/a.tif") as volume:
        assert np.array_equal(volume.read(Box((0, 0, 0), (3, 20, 30))), raw[:3])
        with pytest.raises(DataError, match=r"a.tif: cannot be read at \(3, 0, 0\)"):
            volume.read(Box((3, 0, 0), (4, 20, 30)))
