import numpy as np
import pytest
from scipy.ndimage import find_objects, label

from tokenunify_scale.config import ConfigError
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.synthetic import SyntheticConfig, synthesize
from tokenunify_scale.volumes.volume import open_volume

SHAPE = (32, 128, 128)


@pytest.fixture(scope="module")
def neuropil():
    return synthesize(SyntheticConfig(seed=4, shape=SHAPE))


def small(**options):
    return synthesize(SyntheticConfig(**{"shape": (4, 48, 40), **options}))


def test_raw_is_bytes_and_labels_are_counted_from_one_without_background(neuropil):
    raw, labels = neuropil
    assert (raw.shape, raw.dtype, labels.shape, labels.dtype) == (SHAPE, np.uint8, SHAPE, np.uint32)
    assert np.array_equal(np.unique(labels), np.arange(1, labels.max() + 1))
    assert labels.max() > 20


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others():
    first, again, other = small(seed=7), small(seed=7), small(seed=8)
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_every_label_is_one_6_connected_piece(neuropil):
    labels = neuropil[1].astype(np.int64)
    for number, box in enumerate(find_objects(labels), start=1):
        assert label(labels[box] == number)[1] == 1, number


def test_the_neurites_that_fill_the_volume_run_through_most_sections(neuropil):
    labels = neuropil[1]
    sizes = np.bincount(labels.ravel())[1:]
    spans = np.array([box[0].stop - box[0].start for box in find_objects(labels.astype(int))])
    order = np.argsort(sizes)[::-1]
    many = order[: np.searchsorted(np.cumsum(sizes[order]), 0.8 * labels.size) + 1]
    assert len(many) >= 5 and np.median(spans[many]) >= 0.6 * SHAPE[0]


def test_profiles_are_thin_and_thick(neuropil):
    areas = np.concatenate([np.bincount(section.ravel()) for section in neuropil[1]])
    across = 8 * 2 * np.sqrt(areas[areas > 0] / np.pi)
    assert 100 < np.median(across) < 350 and np.percentile(across, 97) > 400


def test_membranes_are_thin_and_darker_than_cytoplasm(neuropil):
    raw, labels = neuropil
    edge = np.zeros(labels.shape, bool)
    for axis in (1, 2):
        change = np.diff(labels, axis=axis) != 0
        low, high = np.moveaxis(edge, axis, 0)[:-1], np.moveaxis(edge, axis, 0)[1:]
        low |= np.moveaxis(change, axis, 0)
        high |= np.moveaxis(change, axis, 0)
    assert 0.05 < edge.mean() < 0.4
    for section, rim in zip(raw, edge, strict=True):
        assert section[rim].mean() < section[~rim].mean() - 40


def test_sections_differ_in_brightness_but_not_much(neuropil):
    means = neuropil[0].mean((1, 2))
    assert 0.5 < means.std() < 15 and 90 < means.mean() < 180


@pytest.mark.parametrize(
    "shape, voxel_size",
    [
        ((1, 16, 16), (35, 8, 8)),
        ((3, 65, 17), (35, 8, 8)),
        ((24, 24, 24), (8, 8, 8)),
        ((2, 40, 40), (80, 80, 80)),
        ((3, 96, 64), (50, 4.6, 4.6)),
    ],
)
def test_any_shape_and_voxel_size_can_be_drawn(shape, voxel_size):
    raw, labels = small(seed=1, shape=shape, voxel_size=voxel_size)
    assert raw.shape == labels.shape == shape and labels.min() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"shape": (0, 64, 64)},
        {"shape": (4, 8, 64)},
        {"voxel_size": (35, 8, 0)},
        {"jitter": 3.0},
    ],
)
def test_what_cannot_be_drawn_is_refused(options):
    with pytest.raises(ConfigError):
        SyntheticConfig(**options)


def test_the_reader_is_lazy_and_gives_raw_and_labels_of_one_volume():
    spec = "synthetic:seed=7,shape=4x48x40"
    raw, labels = open_volume(spec), open_volume(f"{spec},dataset=labels")
    assert (raw.shape, raw.dtype, raw.voxel_size) == ((4, 48, 40), np.uint8, (35, 8, 8))
    assert labels.dtype == np.uint32 and raw.path == spec
    expected = small(seed=7)
    box = Box((1, 2, 3), (3, 40, 30))
    assert np.array_equal(raw.read(box), expected[0][box.slices])
    assert np.array_equal(labels.read(), expected[1])
    assert open_volume("synthetic").shape == (64, 512, 512)
    assert open_volume("synthetic:shape=4x48x40,voxel_size=40x4x4").voxel_size == (40, 4, 4)


def test_reading_does_not_let_the_caller_change_the_volume():
    volume = open_volume("synthetic:seed=7,shape=4x48x40")
    volume.read()[:] = 0
    assert volume.read().max() > 0


@pytest.mark.parametrize(
    "words, message",
    [
        ("sed=7", "seed"),
        ("seed", "key=value"),
        ("shape=4x48", "shape"),
        ("dataset=label", "labels"),
        ("seed=x", "seed"),
        ("shape=1x1x1", "shape"),
    ],
)
def test_a_wrong_word_is_refused_and_named(words, message):
    with pytest.raises(ConfigError, match=message):
        open_volume(f"synthetic:{words}")
