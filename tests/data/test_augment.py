import numpy as np
import pytest

from tokenunify_scale.data.augment import (
    AugmentConfig,
    add_noise,
    augment,
    generator,
    lose_section,
    random_box,
)

NOTHING = dict(flip=0, transpose=0, intensity=0, noise=0, missing=0)
CROP = np.random.default_rng(0).integers(0, 256, (3, 5, 5)).astype(np.uint8)


def change(seed, crop=CROP, labels=None, voxel_size=None, **options):
    config = AugmentConfig(**{**NOTHING, **options})
    return augment(crop, labels, config=config, rng=generator(seed), voxel_size=voxel_size)


def test_a_generator_depends_on_its_words_and_on_their_order():
    draws = [generator(*words).integers(2**62) for words in ((1, 2), (1, 2), (2, 1), (1, 3))]
    assert draws[0] == draws[1] and len(set(draws)) == 3


def test_a_random_box_reaches_every_place_about_as_often():
    rng, places = generator(0), []
    for _ in range(3000):
        box = random_box(rng, (4, 6, 5), crop=(3, 5, 5))
        assert box.shape == (3, 5, 5)
        places.append(box.start)
    starts, counts = np.unique(places, axis=0, return_counts=True)
    assert starts.tolist() == [[z, y, 0] for z in (0, 1) for y in (0, 1)]
    assert counts.min() > 650


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        random_box(generator(0), (4, 4, 4), crop=(5, 1, 1))


def test_with_no_probability_nothing_changes():
    crop, labels = change(0, labels=CROP)
    assert np.array_equal(crop, CROP) and np.array_equal(labels, CROP)


def test_the_same_generator_gives_the_same_crop():
    everything = dict(flip=0.5, transpose=0.5, intensity=1, noise=1, missing=1)
    a, b, c = (change(seed, **everything)[0] for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.dtype == np.uint8 and a.flags.c_contiguous


def test_labels_move_with_the_crop_and_all_sixteen_orientations_occur():
    seen = set()
    for seed in range(200):
        crop, labels = change(seed, labels=CROP.astype(np.int64) * 1000, flip=0.5, transpose=0.5)
        assert np.array_equal(labels, crop.astype(np.int64) * 1000)
        seen.add(crop.tobytes())
    assert len(seen) == 16


def test_axes_are_exchanged_only_where_crop_and_voxel_are_square():
    assert np.array_equal(change(0, transpose=1)[0], CROP.transpose(0, 2, 1))
    assert np.array_equal(change(0, transpose=1, voxel_size=(40, 8, 4))[0], CROP)
    wide = CROP[:, :4]
    assert np.array_equal(change(0, wide, transpose=1)[0], wide)


def test_intensities_change_in_order_and_labels_keep_their_values():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    means = []
    for seed in range(50):
        crop, labels = change(seed, ramp, ramp.astype(int), intensity=1)
        assert (np.diff(crop.ravel().astype(int)) >= 0).all()
        assert np.array_equal(labels, ramp)
        means.append(crop.mean())
    assert min(means) < 115 and max(means) > 140


def test_noise_has_the_strength_asked_for_and_stays_within_range():
    gray = np.full((8, 64, 64), 128, np.uint8)
    noisy = add_noise(gray, std=0.05, rng=generator(0)).astype(float)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    assert add_noise(gray * 0, std=0.05, rng=generator(0)).min() == 0


def test_one_section_is_lost_and_no_other():
    light = np.full((5, 4, 4), 200, np.uint8)
    black = 0
    for seed in range(40):
        sections = lose_section(light, rng=generator(seed)).mean((1, 2))
        assert sorted(sections)[1] == 200 and sections.min() <= 120
        black += sections.min() == 0
    assert 10 < black < 30


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"noise_std": -0.1}])
def test_what_is_no_probability_or_strength_is_refused(options):
    with pytest.raises(ValueError, match="is a"):
        AugmentConfig(**options)
