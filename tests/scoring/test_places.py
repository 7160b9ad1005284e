"""A mistake's place lies in it, where it is widest, however the volume is cut into parts."""

import numpy as np
import pytest

from tokenunify_scale.scoring.inputs import open_inputs
from tokenunify_scale.scoring.parts import parts_of
from tokenunify_scale.scoring.places import places_of
from tokenunify_scale.volumes.hdf5 import write_hdf5


@pytest.fixture
def files(tmp_path):
    """Two objects, of which a piece is cut off: thin in sections 2 to 9, wide in section 6."""
    labels = np.ones((12, 60, 80), np.uint32)
    labels[:, :, 50:] = 2
    segmentation = np.full(labels.shape, 2**63, np.uint64)
    segmentation[2:10, 20:23, 4:40] += np.uint64(1)
    segmentation[6, 15:36, 60:75] += np.uint64(1)
    segmentation[6, 18:31, 10:30] = 2**63 + 1
    attributes = {"labels": {"offset": [0, 0, 0]}, "ids": {"offset": [3, 0, 0]}}
    write_hdf5(
        tmp_path / "a.h5", {"labels": labels, "ids": segmentation[3:]}, attributes=attributes
    )
    return f"{tmp_path}/a.h5"


@pytest.mark.parametrize("voxels", [1 << 30, 16 * 60 * 80])
def test_a_place_is_the_middle_of_the_widest_section(files, voxels):
    words = {"labels": f"{files}:labels", "raw": None, "sections": None, "border": 0}
    with open_inputs(f"{files}:ids", **words) as inputs:
        parts = parts_of(inputs.box, origin=inputs.part.origin, voxels=voxels)
        pairs = [(2**63 + 1, 1), (2**63 + 1, 2), (2**63 + 1, 1)]
        first, second, again = places_of(pairs, inputs, parts=parts)
    assert first == again and first[0] == 6 and first[1] == 24 and 16 <= first[2] <= 23
    assert second == (6, 25, 67)


def test_a_place_lies_in_the_overlap_of_its_ids(tmp_path):
    generator = np.random.default_rng(0)
    labels, segmentation = generator.integers(1, 4, (2, 6, 12, 12))
    write_hdf5(tmp_path / "a.h5", {"labels": labels, "ids": segmentation})
    pairs = [(a, b) for a in (1, 2, 3) for b in (3, 1, 2)]
    words = {"labels": f"{tmp_path}/a.h5:labels", "raw": None, "sections": (1, 5), "border": 0}
    with open_inputs(f"{tmp_path}/a.h5:ids", **words) as inputs:
        places = places_of(pairs, inputs, parts=inputs.parts())
    for pair, place in zip(pairs, places, strict=True):
        assert (segmentation[place], labels[place]) == pair and 1 <= place[0] < 5
