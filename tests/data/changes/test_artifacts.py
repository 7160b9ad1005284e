import math

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.augment import generator
from tokenunify_scale.data.changes.artifacts import (
    CutBlur,
    CutNoise,
    Defocus,
    Missing,
    MissingParts,
    MotionBlur,
    cut_blur,
    cut_noise,
    defocus,
    lose_parts,
    lose_sections,
    motion_blur,
    smear,
)

NOISE = np.random.default_rng(0).integers(0, 256, (8, 40, 50)).astype(np.uint8)


def changed_sections(crop, original=NOISE):
    return np.flatnonzero((crop != original).any(axis=(1, 2)))


def changed_box(crop, original=NOISE):
    """Start and sides of the smallest box that holds all that changed."""
    places = np.argwhere(crop != original)
    return places.min(0), places.max(0) + 1 - places.min(0)


@pytest.mark.parametrize(
    "change, config",
    [
        (defocus, Defocus(sections=3)),
        (motion_blur, MotionBlur(sections=3)),
        (lose_parts, MissingParts(sections=3)),
        (lose_sections, Missing(sections=3)),
    ],
)
def test_some_sections_change_and_the_input_does_not(change, config):
    before, counts, places = NOISE.copy(), set(), set()
    for seed in range(60):
        crop = change(NOISE, config, rng=generator(seed))
        assert crop.shape == NOISE.shape and crop.dtype == np.uint8
        counts.add(len(changed_sections(crop)))
        places.update(changed_sections(crop))
    assert {1, 2, 3} <= counts <= {0, 1, 2, 3} and places == set(range(8))
    assert np.array_equal(NOISE, before)


def test_a_section_out_of_focus_keeps_its_mean_and_loses_its_detail():
    crop = defocus(NOISE, Defocus(sections=1, sigma=4), rng=generator(2))
    (z,) = changed_sections(crop)
    assert crop[z].mean() == pytest.approx(NOISE[z].mean(), abs=2)
    assert crop[z].std() < NOISE[z].std() / 3


@pytest.mark.parametrize("angle, axis", [(0, 1), (math.pi / 2, 0)])
def test_a_point_is_smeared_into_a_line_of_the_length_and_direction_asked_for(angle, axis):
    section = np.zeros((31, 31), np.uint8)
    section[15, 15] = 210
    line = smear(section, angle=angle, length=7)
    places = np.argwhere(line)
    assert len(places) == 7 and (line[line > 0] == 30).all()
    assert np.ptp(places[:, axis]) == 6 and np.ptp(places[:, 1 - axis]) == 0


def test_a_slanted_smear_keeps_the_mass_and_follows_its_angle():
    section = np.zeros((41, 41), np.uint8)
    section[20, 20] = 255
    y, x = np.indices(section.shape) - 20
    for angle in (0.3, 1.1, 2.5):
        weight = smear(section, angle=angle, length=15).astype(float)
        assert weight.sum() == pytest.approx(255, rel=0.1)
        slope = 0.5 * math.atan2(2 * (weight * y * x).sum(), (weight * (x**2 - y**2)).sum())
        assert (slope - angle) % math.pi == pytest.approx(0, abs=0.05) or (
            (slope - angle) % math.pi == pytest.approx(math.pi, abs=0.05)
        )
    assert np.array_equal(smear(section, angle=1.0, length=1), section)
    flat = np.full((5, 6), 77, np.uint8)
    assert np.array_equal(smear(flat, angle=0.7, length=25), flat)


def test_motion_blur_smears_along_one_direction():
    crop = motion_blur(NOISE, MotionBlur(sections=1, length=15), rng=generator(4))
    (z,) = changed_sections(crop)
    assert crop[z].std() < NOISE[z].std() * 0.7


@pytest.mark.parametrize("change, config", [(cut_blur, CutBlur()), (cut_noise, CutNoise())])
def test_a_cut_changes_a_cuboid_of_the_share_asked_for(change, config):
    starts = []
    for seed in range(60):
        start, sides = changed_box(change(NOISE, config, rng=generator(seed)))
        assert (sides <= (3, 16, 20)).all() and (sides >= (3, 14, 18)).all()
        starts.append(start)
    assert (np.min(starts, axis=0) <= (0, 3, 3)).all()
    assert (np.max(starts, axis=0) >= (5, 20, 26)).all()


def test_cut_noise_is_uniform_and_no_stronger_than_asked_for():
    gray = np.full((10, 60, 60), 128, np.uint8)
    ranges = []
    for seed in range(40):
        noise = cut_noise(gray, CutNoise(share=1, amplitude=0.2), rng=generator(seed)) - 128.0
        assert abs(noise.mean()) < 0.5
        assert noise.std() == pytest.approx(np.ptp(noise) / 2 / math.sqrt(3), rel=0.05, abs=0.4)
        ranges.append(np.abs(noise).max())
    assert 45 < max(ranges) <= 51 and min(ranges) < 10


def test_cut_blur_takes_the_detail_and_keeps_what_is_coarse():
    config = CutBlur(share=1, low=4, high=4)
    crop = cut_blur(NOISE, config, rng=generator(0))
    assert crop.std() < NOISE.std() / 2 and crop.mean() == pytest.approx(NOISE.mean(), abs=1)
    ramp = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8), NOISE.shape)
    inner = np.s_[:, :, 8:-8]
    soft = cut_blur(ramp, config, rng=generator(0))
    assert np.abs(soft[inner].astype(int) - ramp[inner]).max() <= 1


def test_a_part_is_lost_on_one_side_of_a_line():
    kinds = {"black": 0, "other": 0}
    shares = []
    for seed in range(80):
        crop = lose_parts(NOISE, MissingParts(sections=1, share=0.4), rng=generator(seed))
        (z,) = changed_sections(crop)
        lost = crop[z] != NOISE[z]
        kinds["black" if (crop[z][lost] == 0).all() else "other"] += 1
        shares.append(lost.mean())
        # A line parts what is lost from what is not: the hulls of the two do not meet.
        y, x = np.indices(lost.shape)
        normal = np.array([y[lost].mean() - y[~lost].mean(), x[lost].mean() - x[~lost].mean()])
        assert normal @ normal > 100
    assert kinds["black"] > 12 and kinds["other"] > 30
    assert max(shares) <= 0.41 and max(shares) > 0.36 and min(shares) < 0.14


def test_sections_are_lost_black_or_dark():
    light = np.full((5, 4, 4), 200, np.uint8)
    black = 0
    for seed in range(40):
        sections = lose_sections(light, Missing(), rng=generator(seed)).mean((1, 2))
        assert sorted(sections)[1] == 200 and sections.min() <= 120
        black += sections.min() == 0
    assert 10 < black < 30


@pytest.mark.parametrize(
    "change, config",
    [
        (defocus, Defocus()),
        (motion_blur, MotionBlur()),
        (cut_blur, CutBlur()),
        (cut_noise, CutNoise()),
        (lose_parts, MissingParts()),
        (lose_sections, Missing(sections=5)),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (2, 1, 9)])
def test_the_smallest_crops_can_be_changed(change, config, shape):
    for seed in range(5):
        crop = change(np.full(shape, 100, np.uint8), config, rng=generator(seed))
        assert crop.shape == shape and crop.dtype == np.uint8


@pytest.mark.parametrize(
    "kind, options",
    [
        (Missing, {"sections": 0}),
        (MotionBlur, {"length": 0}),
        (CutBlur, {"high": 0.5}),
        (CutNoise, {"share": 1.1}),
        (MissingParts, {"share": 0.05}),
        (Defocus, {"sigma": -1.0}),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind, options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is a strength"):
        kind(**options)
