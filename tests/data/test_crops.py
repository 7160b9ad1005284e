import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError, DataError, build
from tokenunify_scale.data.augment import AugmentConfig, change_names
from tokenunify_scale.data.crops import (
    CropReader,
    LabelledCrops,
    has_labelled_pair,
    relabel,
)
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5
from tokenunify_scale.volumes.volume import open_volume

SHAPE = (6, 20, 20)
CROP = (3, 8, 8)


def volume(folder, array, name="raw", voxel_size=(40.0, 8.0, 8.0)):
    path = folder / f"{name}.h5"
    write_hdf5(path, {name: array}, attributes={name: {"voxel_size": voxel_size}})
    return open_volume(f"{path}:{name}")


def pair(folder, labels=None):
    """A raw volume and labels that follow from it: label = 10**12 * (raw // 64)."""
    raw = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    labels = raw.astype(np.uint64) // 64 * 10**12 if labels is None else labels
    return volume(folder, raw), volume(folder, labels, "labels")


def test_crops_and_labels_are_cut_from_one_place_inside_the_box(tmp_path):
    raw, labels = pair(tmp_path)
    box = Box((2, 0, 5), (6, 20, 20))
    batch = LabelledCrops(raw, labels, box=box, crop=CROP, seed=0).batch(7, 5)
    assert batch["crops"].shape == (5, 1, *CROP) and batch["crops"].dtype == torch.uint8
    assert batch["labels"].shape == (5, *CROP) and batch["labels"].dtype == torch.int64
    assert batch["positions"].tolist() == [7, 8, 9, 10, 11]
    assert torch.equal(batch["labels"], batch["crops"][:, 0].long() // 64)
    inside = np.lib.stride_tricks.sliding_window_view(raw.read(box), CROP).reshape(-1, *CROP)
    for crop in batch["crops"].numpy():
        assert (inside == crop).all((1, 2, 3)).any()


def test_a_margin_reaches_beyond_the_box_into_the_mirror(tmp_path):
    raw, labels = pair(tmp_path)
    box, margin = Box((1, 0, 5), (6, 20, 20)), (2, 6, 6)
    crops = LabelledCrops(raw, labels, box=box, crop=(7, 18, 18), margin=margin, seed=0)
    assert crops.inner == (3, 6, 6)
    batch = crops.batch(0, 20)
    assert batch["crops"].shape == (20, 1, 7, 18, 18) and batch["labels"].shape == (20, 7, 18, 18)
    assert torch.equal(batch["labels"], batch["crops"][:, 0].long() // 64)
    mirrored = np.pad(raw.read(box), [(m, m) for m in margin], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (7, 18, 18))
    for crop in batch["crops"][:, 0].numpy():
        assert (windows == crop).all((3, 4, 5)).any()


def test_a_crop_whose_prediction_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"of which \(7, 18, 18\) are predicted, does not fit"):
        LabelledCrops(*pair(tmp_path), crop=(9, 20, 20), margin=(1, 1, 1), seed=0)


def test_a_crop_is_a_function_of_seed_and_position(tmp_path):
    raw, labels = pair(tmp_path)

    def read(start, size, seed=0):
        crops = LabelledCrops(raw, labels, crop=CROP, seed=seed, augment=AugmentConfig())
        return crops.batch(start, size)

    whole, part = read(0, 6), read(2, 3)
    assert torch.equal(whole["crops"][2:5], part["crops"])
    assert torch.equal(whole["labels"][2:5], part["labels"])
    assert not torch.equal(whole["crops"], read(0, 6, seed=1)["crops"])


def test_labels_move_with_augmented_crops(tmp_path):
    raw, labels = pair(tmp_path)
    moves = {"flip": {"p": 0.5}, "transpose": {"p": 0.5}}
    still = {name: {"p": 0.0} for name in change_names() if name not in moves}
    augment = build(AugmentConfig, {**moves, **still})
    batch = LabelledCrops(raw, labels, crop=CROP, seed=0, augment=augment).batch(0, 20)
    assert torch.equal(batch["labels"], batch["crops"][:, 0].long() // 64)


def test_ranks_get_their_parts_of_each_step(tmp_path):
    crops = LabelledCrops(*pair(tmp_path), crop=CROP, seed=0)
    ranks = [crops.batches(12, global_batch=6, rank=r, world=2, micro=3) for r in range(2)]
    got = [next(rank) for rank in ranks]
    whole = crops.batch(12, 6)
    for key in ("crops", "labels", "positions"):
        assert torch.equal(torch.cat([batch[key] for batch in got]), whole[key])


def test_places_without_labels_are_drawn_again(tmp_path):
    sparse = np.zeros(SHAPE, np.uint32)
    sparse[:, :, 14:] = 5
    batch = LabelledCrops(*pair(tmp_path, sparse), crop=CROP, seed=0).batch(0, 40)
    assert batch["labels"].flatten(1).amax(1).min() == 1


def test_labels_that_are_all_background_are_refused(tmp_path):
    crops = LabelledCrops(*pair(tmp_path, np.zeros(SHAPE, np.uint32)), crop=CROP, seed=0)
    with pytest.raises(DataError, match="labels.h5:labels: no labels"):
        crops.batch(0, 1)


def test_what_does_not_fit_together_is_refused_by_name(tmp_path):
    raw, labels = pair(tmp_path)
    short = volume(tmp_path, np.ones((5, 20, 20), np.uint32), "short")
    with pytest.raises(DataError, match=r"\(6, 20, 20\).*short.h5:short \(5, 20, 20\)"):
        LabelledCrops(raw, short, crop=CROP, seed=0)
    with pytest.raises(DataError, match=r"crop of \(7, 8, 8\) does not fit into \(6, 20, 20\)"):
        LabelledCrops(raw, labels, crop=(7, 8, 8), seed=0)
    with pytest.raises(DataError, match=r"crop of \(3, 8, 8\) does not fit into \(2, 20, 20\)"):
        LabelledCrops(raw, labels, box=Box((0, 0, 0), (2, 20, 20)), crop=CROP, seed=0)
    with pytest.raises(ConfigError, match="reaches beyond"):
        LabelledCrops(raw, labels, box=Box((0, 0, 0), (7, 20, 20)), crop=CROP, seed=0)
    with pytest.raises(DataError, match="looks like labels"):
        LabelledCrops(labels, labels, crop=CROP, seed=0)
    gray = volume(tmp_path, np.ones(SHAPE, np.float32), "gray")
    with pytest.raises(DataError, match="labels are integers, not float32"):
        LabelledCrops(raw, gray, crop=CROP, seed=0)


def test_a_reader_gives_the_same_from_memory_and_from_disk(tmp_path):
    raw, _ = pair(tmp_path)
    whole, part = raw.read(), Box((3, 4, 5), (5, 9, 11))
    box = Box((1, 2, 3), (6, 20, 20))
    kept = CropReader(raw, mapping=None, box=box)
    lazy = CropReader(raw, mapping=None, box=box, in_memory=10)
    for reader in (kept, lazy):
        assert np.array_equal(reader.read(part), whole[part.slices])
    assert kept.kept is not None and lazy.kept is None


def test_relabelling_keeps_objects_apart_and_background_zero():
    labels = np.array([[[0, 2**63 + 5, 7], [7, 7, 0]]], np.uint64)
    assert relabel(labels).tolist() == [[[0, 2, 1], [1, 1, 0]]]
    assert relabel(labels[:, 1:, :2]).tolist() == [[[1, 1]]]
    random = np.random.default_rng(0).integers(0, 9, (4, 5, 6)) * 3
    assert np.array_equal(relabel(random), random // 3)
    with pytest.raises(DataError, match="a.h5: label -1 is negative"):
        relabel(np.array([[[-1, 3]]]), name="a.h5")


def test_a_labelled_pair_shares_a_face():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 0] = 1
    assert not has_labelled_pair(labels)
    for voxel in ((1, 0, 0), (0, 0, 1)):
        more = labels.copy()
        more[voxel] = 2
        assert has_labelled_pair(more)
