import numpy as np
import pytest
from scipy.ndimage import correlate1d

from tokenunify_scale.data.augment import generator
from tokenunify_scale.data.changes.intensity import (
    Blur,
    Intensity,
    Mixup,
    Noise,
    add_noise,
    blur,
    change_intensity,
    change_sections,
    mix,
    soften,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


class Largest:
    """A generator whose every uniform number is the largest."""

    def __init__(self):
        self.standard_normal = generator(0).standard_normal

    def uniform(self, low, high):
        return high


def test_mixup_is_a_weighted_mean_in_which_the_crop_prevails():
    crop, partner = np.full((2, 3, 4), 100, np.uint8), np.full((2, 3, 4), 200, np.uint8)
    grays = [mix(crop, Mixup(), partner=partner, rng=generator(s))[0, 0, 0] for s in range(200)]
    assert 110 <= min(grays) < 113 and 127 < max(grays) <= 130
    mixed = mix(
        crop, Mixup(low=0.25, high=0.25), partner=RAMP[:, :3, :4].repeat(2, 0), rng=Largest()
    )
    assert np.array_equal(mixed[1], np.rint(75 + RAMP[0, :3, :4] / 4))


def test_a_partner_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"partner of the shape \(1, 16, 16\), got \(1, 8, 16\)"):
        mix(RAMP, Mixup(), partner=RAMP[:, :8], rng=generator(0))


def test_intensities_change_in_order_and_by_no_more_than_the_strengths():
    means = []
    for seed in range(100):
        changed = change_intensity(RAMP, Intensity(), rng=generator(seed))
        assert (np.diff(changed.ravel().astype(int)) >= 0).all() and changed.dtype == np.uint8
        means.append(changed.mean())
    assert min(means) < 110 and max(means) > 145
    none = Intensity(contrast=0, brightness=0, gamma=0)
    assert np.array_equal(change_intensity(RAMP, none, rng=generator(0)), RAMP)


@pytest.mark.parametrize(
    "options, gray",
    [
        ({"contrast": 0.2}, lambda g: (g - 0.5) * 1.2 + 0.5),
        ({"brightness": 0.1}, lambda g: g + 0.1),
        ({"gamma": 1}, lambda g: g**2),
    ],
)
def test_each_strength_is_what_its_name_says(options, gray):
    config = Intensity(**{"contrast": 0, "brightness": 0, "gamma": 0, **options})
    expected = 255 * gray(RAMP / 255).clip(0, 1)
    assert np.abs(change_intensity(RAMP, config, rng=Largest()) - expected).max() < 0.501


def test_sections_change_each_by_itself():
    crop = RAMP.repeat(4, axis=0)
    changed = change_sections(crop, Intensity(), rng=generator(0))
    assert len({section.tobytes() for section in changed}) == 4
    whole = change_intensity(crop, Intensity(), rng=generator(0))
    assert len({section.tobytes() for section in whole}) == 1
    assert np.array_equal(whole[0], changed[0])


def test_blur_is_a_gaussian_in_the_plane_alone():
    crop = np.zeros((3, 21, 21), np.uint8)
    crop[1, 10, 10] = 255
    soft = soften(crop, sigma=1.0)
    assert not soft[::2].any()
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    expected = correlate1d(crop[1].astype(float), weights / weights.sum(), axis=0)
    expected = correlate1d(expected, weights / weights.sum(), axis=1)
    assert np.abs(soft[1] - expected).max() <= 0.5
    noise = generator(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    spreads = [blur(noise, Blur(sigma=3), rng=generator(seed)).std() for seed in range(20)]
    assert min(spreads) < 9 and 16 < max(spreads) < 30
    assert np.array_equal(blur(noise, Blur(sigma=0), rng=generator(0)), noise)


def test_noise_has_at_most_the_strength_asked_for_and_stays_within_range():
    gray = np.full((8, 64, 64), 128, np.uint8)
    noisy = add_noise(gray, Noise(std=0.05), rng=Largest()).astype(float)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    assert add_noise(gray * 0, Noise(std=0.05), rng=Largest()).min() == 0
    stds = [add_noise(gray, Noise(std=0.05), rng=generator(s)).std() for s in range(40)]
    assert min(stds) < 4 and 10 < max(stds) < 13
