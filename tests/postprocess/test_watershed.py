"""Fragments: cover everything, lie inside neurons, and are numbered once."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.postprocess.drifting import columns, flipped
from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.affinities import NEAREST, affinities_from_labels
from tokenunify_scale.metrics import score
from tokenunify_scale.postprocess import watershed
from tokenunify_scale.postprocess.watershed import Watershed, boundary_map


def neurites(shape=(8, 48, 48), *, count=14, seed=1):
    """Gapless cells around random points; with this seed no voxel is alone in its neighbourhood."""
    generator = np.random.default_rng(seed)
    points = np.zeros(shape, np.int64)
    places = generator.choice(points.size, count, replace=False)
    points.reshape(-1)[places] = np.arange(1, count + 1)
    nearest = ndimage.distance_transform_edt(
        points == 0, sampling=(4, 1, 1), return_distances=False, return_indices=True
    )
    return points[tuple(nearest)]


def perfect(labels):
    return affinities_from_labels(torch.from_numpy(labels))[0].numpy()


def fragments(affinities, *, mode="sections", **options):
    config = Watershed(fragments=mode, **options)
    return watershed.fragments(config, affinities, offsets=NEAREST)


def test_boundary_is_the_complement_of_the_mean_in_plane_affinity():
    affinities = np.random.default_rng(0).random((3, 2, 5, 6), dtype=np.float32)
    inner = (slice(None), slice(1, None), slice(1, None))
    expected = 1 - 0.5 * (affinities[1] + affinities[2])
    assert np.allclose(boundary_map(affinities)[inner], expected[inner])
    assert (boundary_map(affinities, mode="volume") >= boundary_map(affinities)).all()
    weakest = boundary_map(affinities, weigh="weakest")
    assert np.allclose(weakest[inner], 1 - np.minimum(affinities[1], affinities[2])[inner])


def test_edges_that_leave_the_volume_do_not_count_as_boundaries():
    affinities = np.ones((3, 3, 8, 8), np.float32)
    affinities[0, 0] = affinities[1, :, 0] = affinities[2, :, :, 0] = 0
    for mode in ("sections", "volume"):
        assert not boundary_map(affinities, mode=mode).any()


@pytest.mark.parametrize("mode", ["sections", "volume"])
def test_fragments_cover_everything_and_no_fragment_of_perfect_affinities_crosses_neurons(mode):
    labels = neurites()
    found = fragments(perfect(labels), mode=mode)
    assert found.dtype == np.uint64
    assert np.array_equal(np.unique(found), np.arange(1, found.max() + 1))
    assert score(found, labels).voi_merge == pytest.approx(0, abs=1e-12)


def test_flooding_alone_gives_rims_of_gapless_neurons_to_their_neighbours():
    labels = neurites()
    assert score(fragments(perfect(labels), attach="flood"), labels).voi_merge > 0.05


def test_fragments_of_sections_have_ids_of_their_own():
    found = fragments(perfect(neurites()), mode="sections")
    owners = [set(np.unique(section)) for section in found]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_a_neurite_one_voxel_thin_is_a_fragment_of_its_own():
    labels = np.ones((3, 12, 12), np.int64)
    labels[:, :, 6] = 2
    labels[:, :, 7:] = 3
    labels[:, 2, 2] = 4
    found = fragments(perfect(labels))
    assert score(found, labels).voi_merge == pytest.approx(0, abs=1e-12)


def test_a_section_without_interior_is_background_and_one_without_boundary_a_single_fragment():
    affinities = np.ones((3, 2, 6, 6), np.float32)
    affinities[:, 0] = affinities[0] = 0
    found = fragments(affinities)
    assert not found[0].any() and (found[1] == 1).all()


def test_a_section_at_a_time_gives_what_the_stack_gives():
    affinities = perfect(neurites())
    stack = fragments(affinities)
    for z in (1, 5):
        alone = fragments(affinities[:, z : z + 1], attach="flood")
        whole = fragments(affinities, attach="flood")[z : z + 1]
        assert score(alone, whole.astype(np.int64)).voi == pytest.approx(0)
    assert stack.shape == affinities.shape[1:]


def test_repair_keeps_flipped_affinities_from_breaking_sections_into_specks():
    labels = columns()
    affinities = flipped(perfect(labels), 0.05)
    repaired, paper = fragments(affinities), fragments(affinities, repair=0)
    clean = fragments(perfect(labels))
    assert repaired.max() < 1.5 * clean.max() < 0.5 * paper.max()
    assert score(repaired, labels).voi_merge < score(paper, labels).voi_merge


def test_smoothing_the_distance_leaves_fewer_seeds():
    affinities = perfect(columns())
    counts = [fragments(affinities, smooth=smooth).max() for smooth in (0.0, 2.0)]
    assert counts[1] < counts[0]


def test_long_range_channels_are_not_read():
    affinities = perfect(neurites())
    longer = np.concatenate([affinities, np.zeros_like(affinities)])
    assert np.array_equal(fragments(longer), fragments(affinities))


@pytest.mark.parametrize("option, value", [("boundary", 2), ("smooth", -1), ("repair", -1)])
def test_options_out_of_range_name_the_value(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        Watershed(**{option: value})


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda a: a[:2], r"\(2, 8, 48, 48\)"),
        (lambda a: np.where(a == 0, np.nan, a), "NaN, first at channel, z, y, x = "),
        (lambda a: a * 255, "range over"),
    ],
)
def test_affinities_that_cannot_be_are_refused(spoil, message):
    with pytest.raises(DataError, match=message):
        fragments(spoil(perfect(neurites())))
