from collections import Counter

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.crops import LabelledCrops
from tokenunify_scale.data.labelled import LabelledMix
from tokenunify_scale.volumes.volume import Volume


def source(value, depth, crop=(4, 8, 8)):
    """Crops of a volume that is ``value`` everywhere."""
    raw = np.full((depth, 16, 16), value, np.uint8)
    labels = np.ones_like(raw, dtype=np.uint64)
    pair = [Volume(n, a, voxel_size=None, attributes={}) for n, a in (("r", raw), ("l", labels))]
    return LabelledCrops(*pair, crop=crop, seed=0)


def test_crops_come_from_all_volumes_by_their_sizes():
    mix = LabelledMix([source(10, 8), source(20, 24)], seed=3)
    batch = mix.batch(0, 400)
    assert batch["crops"].shape == (400, 1, 4, 8, 8) and batch["labels"].shape == (400, 4, 8, 8)
    counts = Counter(batch["crops"][:, 0, 0, 0, 0].tolist())
    assert set(counts) == {10, 20} and counts[20] / 400 == pytest.approx(0.75, abs=0.07)


def test_a_crop_depends_on_its_position_alone():
    mix = LabelledMix([source(10, 8), source(20, 24)], seed=3)
    whole, part = mix.batch(0, 12), mix.batch(5, 3)
    assert torch.equal(whole["crops"][5:8], part["crops"])
    assert part["positions"].tolist() == [5, 6, 7]


def test_crops_of_several_sizes_are_refused():
    with pytest.raises(ConfigError, match="one size"):
        LabelledMix([source(1, 8), source(2, 8, crop=(4, 4, 4))], seed=0)
