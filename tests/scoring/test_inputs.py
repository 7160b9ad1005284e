"""Segmentation and labels are read in voxels of their source, with borders as they are scored."""

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.affinities import widen_borders
from tokenunify_scale.scoring import inputs as inputs_module
from tokenunify_scale.scoring.inputs import open_inputs, open_segmentation, widened
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

LABELS = np.kron(np.arange(1, 13).reshape(1, 3, 4), np.ones((5, 9, 7), int)).astype(np.uint16)


@pytest.fixture
def files(tmp_path):
    write_hdf5(
        tmp_path / "a.h5",
        {
            "labels": LABELS,
            "ids": LABELS[2:4].astype(np.uint64),
            "float": LABELS.astype(np.float32),
            "short": LABELS[:, :-1],
        },
        attributes={"ids": {"offset": [2, 0, 0]}, "labels": {"voxel_size": [40, 8, 8]}},
    )
    return f"{tmp_path}/a.h5"


def opened(files, segmentation="labels", labels="labels", **words):
    words = {"sections": None, "border": 0, "raw": None, **words}
    return open_inputs(f"{files}:{segmentation}", labels=f"{files}:{labels}", **words)


def test_boxes_are_voxels_of_the_source(files):
    with opened(files, "ids") as inputs:
        assert inputs.box == Box((2, 0, 0), (4, 27, 28)) and inputs.voxel_size == (40, 8, 8)
        box = Box((3, 4, 5), (4, 20, 21))
        assert np.array_equal(inputs.read_segmentation(box), LABELS[box.slices])
        assert np.array_equal(inputs.read_labels(box), LABELS[box.slices])


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "u2", "i4", "u4", "i8", "u8"])
def test_labels_of_every_type_are_widened_as_in_training(kind):
    labels = (LABELS % 2 if kind == "?" else LABELS).astype(kind)
    if kind == "u8":
        labels[labels > 0] += np.uint64(2**63)
    wide = widened(labels, voxels=2)
    wanted = widen_borders(torch.from_numpy(LABELS.astype(np.int64)), voxels=2).numpy()
    assert wide.dtype == labels.dtype
    if kind != "?":
        assert np.array_equal(wide != 0, wanted != 0)
        assert np.array_equal(wide[wide != 0], labels[wide != 0])


def test_a_part_is_widened_as_the_whole_is(files):
    whole = widened(LABELS, voxels=2)
    with opened(files, border=2) as inputs:
        for box in (Box((1, 8, 6), (3, 10, 15)), Box((0, 0, 0), (1, 1, 1)), inputs.box):
            assert np.array_equal(inputs.read_labels(box), whole[box.slices])


def test_a_folder_is_read_from_hdf5_first_then_zarr(tmp_path):
    folder = tmp_path / "run"
    zarr = Boxed.create(
        folder / "segmentation.zarr", shape=(4, 8, 8), dtype=np.uint64, chunk=(4, 8, 8),
        attributes={"voxel_size": [4, 4, 4]},
    )  # fmt: skip
    zarr.write(Box.of((4, 8, 8)), np.full((4, 8, 8), 2**60 + 1, np.uint64))
    with open_segmentation(str(folder)) as volume:
        assert volume.read()[0, 0, 0] == 2**60 + 1 and volume.voxel_size == (4, 4, 4)
    write_hdf5(folder / "segmentation.h5", {"segmentation": np.full((4, 8, 8), 5)})
    with open_segmentation(str(folder)) as volume:
        assert volume.read()[0, 0, 0] == 5


def test_parts_follow_the_chunks_of_a_segmentation(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs_module, "BYTES", 100 << 20)
    Boxed.create(
        tmp_path / "segmentation.zarr", shape=(96, 512, 512), dtype=np.uint64,
        chunk=(48, 256, 256), attributes={},
    )  # fmt: skip
    words = {"labels": None, "raw": None, "sections": (40, 96), "border": 0}
    with open_inputs(str(tmp_path), **words) as inputs:
        assert inputs.chunk == (48, 256, 256)
        assert [part.start[0] for part in inputs.parts()] == [40, 48]


def test_what_does_not_fit_is_one_line(files, tmp_path):
    with (
        pytest.raises(DataError, match=r"\(5, 26, 28\).*\(5, 27, 28\)"),
        opened(files, labels="short"),
    ):
        pass
    for words in ({"labels": "float"}, {"segmentation": "float"}):
        with pytest.raises(DataError, match=r"float has dtype float32; ids must be integers"):
            with opened(files, **words):
                pass
    with pytest.raises(ConfigError, match="must be within"), opened(files, sections=(3, 3)):
        pass
    with pytest.raises(ConfigError, match="no such folder"):
        open_segmentation(f"{tmp_path}/nowhere")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(DataError, match="no segmentation.h5"):
        open_segmentation(str(tmp_path))
