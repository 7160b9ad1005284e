from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tokenunify_scale.config import ConfigError, build, field_docs, override, to_dict
from tokenunify_scale.data.augment import (
    GRAY_CHANGES,
    AugmentConfig,
    augment,
    change_names,
    generator,
    only,
    random_box,
    unchanged,
)
from tokenunify_scale.data.changes.intensity import Intensity
from tokenunify_scale.data.changes.warp import Elastic, Flip, Misalignment, Rotate

CROP = np.random.default_rng(0).integers(0, 256, (3, 5, 5)).astype(np.uint8)
TISSUE = np.random.default_rng(1).integers(0, 256, (4, 24, 24)).astype(np.uint8)
LABELS = TISSUE.astype(np.int64) * 2**33
MOVES = ("flip", "transpose", "rotate90", "rotate", "rescale", "elastic", "slip", "shift")
ALL = only(AugmentConfig(), *change_names())


def change(seed, config, crop=TISSUE, labels=None, voxel_size=None):
    return augment(
        crop,
        labels,
        config=config,
        rng=generator(seed),
        voxel_size=voxel_size,
        partner=lambda: crop[::-1],
    )


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


@pytest.mark.parametrize("config", [unchanged(), replace(ALL, p=0.0)])
def test_with_no_probability_nothing_changes(config):
    crop, labels = change(0, config, labels=LABELS)
    assert np.array_equal(crop, TISSUE) and np.array_equal(labels, LABELS)


def test_a_crop_is_changed_at_all_as_often_as_p_says():
    config = replace(only(ALL, "missing"), p=0.3)
    count = sum(not np.array_equal(change(seed, config)[0], TISSUE) for seed in range(400))
    assert count == pytest.approx(120, abs=30)


@pytest.mark.parametrize("name", change_names())
def test_each_change_alone_changes_the_crop_and_only_moves_move_labels(name):
    moved = 0
    for seed in range(6):
        crop, labels = change(seed, only(ALL, name), labels=LABELS)
        again, _ = change(seed, only(ALL, name))
        assert np.array_equal(crop, again) and not np.array_equal(crop, TISSUE)
        assert crop.dtype == np.uint8 and labels.dtype == LABELS.dtype
        assert crop.shape == labels.shape == TISSUE.shape
        assert crop.flags.c_contiguous and labels.flags.c_contiguous
        moved += not np.array_equal(labels, LABELS)
        assert np.isin(labels, LABELS).all()
    assert moved == (6 if name in MOVES else 0)


@pytest.mark.parametrize("name", ["flip", "transpose", "rotate90", "slip", "shift"])
def test_what_moves_by_whole_voxels_moves_labels_exactly_alike(name):
    for seed in range(8):
        crop, labels = change(seed, only(ALL, name), labels=LABELS)
        assert np.array_equal(labels, crop.astype(np.int64) * 2**33)


def test_the_same_generator_gives_the_same_crop():
    a, b, c = (change(seed, ALL, labels=LABELS) for seed in (1, 1, 2))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    assert not np.array_equal(a[0], c[0])


def test_one_number_is_drawn_whatever_the_config():
    rngs = [generator(7) for _ in range(2)]
    for rng, config in zip(rngs, (unchanged(), ALL), strict=True):
        augment(TISSUE, config=config, rng=rng, partner=lambda: TISSUE)
    assert rngs[0].integers(2**62) == rngs[1].integers(2**62)


@pytest.mark.parametrize("name", change_names())
def test_a_change_that_is_switched_off_leaves_the_others_as_they_were(name):
    # Alone or beside another: what "slip" or "missing" does to the crop is the same.
    other = "missing" if name != "missing" else "slip"
    config = only(ALL, name, other)
    without = build(AugmentConfig, override(to_dict(config), f"{name}.p=0"))
    assert np.array_equal(change(3, without)[0], change(3, only(ALL, other))[0])
    if name in GRAY_CHANGES and other == "missing":
        before = change(3, only(ALL, name))[0]
        lost = (change(3, only(ALL, other), crop=np.full_like(TISSUE, 200))[0] != 200).any((1, 2))
        assert np.array_equal(change(3, config)[0][~lost], before[~lost])


def test_a_stronger_change_is_drawn_for_the_same_crops():
    def hit(angle):
        config = replace(unchanged(), rotate=Rotate(p=0.5, angle=angle))
        return [np.array_equal(change(seed, config)[0], TISSUE) for seed in range(40)]

    assert hit(20) == hit(170) and 8 < sum(hit(20)) < 32


def test_labels_move_with_the_crop_and_all_sixteen_orientations_occur():
    config = replace(unchanged(), flip=Flip(), transpose=replace(ALL.transpose, p=0.5))
    seen = set()
    for seed in range(200):
        crop, labels = change(seed, config, CROP, CROP.astype(np.int64) * 1000)
        assert np.array_equal(labels, crop.astype(np.int64) * 1000)
        seen.add(crop.tobytes())
    assert len(seen) == 16


@pytest.mark.parametrize("name", ["transpose", "rotate90"])
def test_axes_are_exchanged_only_where_crop_and_voxel_are_square(name):
    config, turned = only(ALL, name), change(0, only(ALL, name), CROP)[0]
    turns = [np.rot90(CROP, k, axes=(1, 2)) for k in (1, 2, 3)]
    expected = turns if name == "rotate90" else [CROP.transpose(0, 2, 1)]
    assert any(np.array_equal(turned, one) for one in expected)
    assert np.array_equal(change(0, config, CROP, voxel_size=(40, 8, 4))[0], CROP)
    wide = CROP[:, :4]
    assert np.array_equal(change(0, config, wide)[0], wide)


def test_a_free_rotation_heeds_the_voxels_shape():
    config = only(ALL, "rotate")
    turned, same, stretched = (
        change(0, config, voxel_size=size)[0] for size in (None, (40, 4, 4), (40, 8, 4))
    )
    assert np.array_equal(turned, same) and not np.array_equal(turned, stretched)


def test_all_that_moves_is_resampled_once():
    # A rotation there and a zoom back would blur twice: noise keeps what one resampling leaves.
    noise = generator(5).integers(0, 256, (4, 64, 64)).astype(np.uint8)
    together = only(ALL, "rotate", "rescale", "elastic", "slip", "shift")
    spreads = [change(seed, together, noise)[0].std() for seed in range(10)]
    single = [change(seed, only(ALL, "rotate"), noise)[0].std() for seed in range(10)]
    assert np.mean(spreads) == pytest.approx(np.mean(single), rel=0.06)


@pytest.mark.parametrize("names", [("rotate", "rescale"), ("elastic", "slip", "shift")])
def test_what_is_resampled_at_once_is_what_one_after_the_other_would_be(names):
    noise = generator(5).normal(size=(4, 96, 96))
    smooth = gaussian_filter(noise, 5, axes=(1, 2), mode="mirror")
    smooth = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    strengths = replace(ALL, elastic=Elastic(amplitude=0, jitter=2))
    for seed in range(4):
        chained = smooth
        for name in names:
            chained = change(seed, only(strengths, name), chained)[0]
        at_once = change(seed, only(strengths, *names), smooth)[0]
        inner = np.s_[:, 30:66, 30:66]  # mirrored rims differ
        assert np.abs(at_once[inner].astype(int) - chained[inner]).max() <= 4
        assert np.abs(at_once[inner].astype(int) - smooth[inner]).max() > 20


def test_jitter_displaces_each_section_by_itself():
    config = replace(unchanged(), elastic=Elastic(p=1, amplitude=0, jitter=2))
    crop, _ = change(0, config, crop=np.repeat(TISSUE[:1], 4, axis=0))
    assert len({section.tobytes() for section in crop}) == 4


def test_mixup_needs_a_partner_and_keeps_the_labels():
    config = only(ALL, "mixup")
    with pytest.raises(ConfigError, match="mixup.p is 1.0, but there is no second crop"):
        augment(TISSUE, config=config, rng=generator(0))
    asked = []
    never = replace(unchanged(), mixup=replace(ALL.mixup, p=1e-9))
    augment(TISSUE, config=never, rng=generator(0), partner=lambda: asked.append(1))
    assert not asked
    faint = change(0, config)[0].astype(float)
    assert np.corrcoef(faint.ravel(), TISSUE.ravel())[0, 1] > 0.85


def test_what_is_no_crop_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        augment(TISSUE.astype(float), config=unchanged(), rng=generator(0))
    with pytest.raises(ValueError, match="labels of shape"):
        augment(TISSUE, LABELS[:, :4], config=unchanged(), rng=generator(0))


def test_the_input_is_never_written_to():
    crop, labels = TISSUE.copy(), LABELS.copy()
    crop.flags.writeable = labels.flags.writeable = False
    for seed in range(5):
        change(seed, ALL, crop, labels)


def test_by_default_crops_are_oriented_and_grays_changed_and_nothing_else():
    chances = {name: getattr(AugmentConfig(), name).p for name in change_names()}
    on = {name: p for name, p in chances.items() if p}
    assert on == {"flip": 0.5, "transpose": 0.5, "intensity": 0.5, "noise": 0.2, "missing": 0.05}


def test_words_of_a_recipe_or_command_line_set_each_number():
    data = {"p": 0.9, "elastic": {"p": "0.3"}}
    for word in ("elastic.amplitude=4", "flip.p=0", "slip.p=1", "section_intensity.p=0.5"):
        data = override(data, word)
    config = build(AugmentConfig, data)
    assert config.elastic == Elastic(p=0.3, amplitude=4.0) and config.flip == Flip(p=0)
    assert config.slip == Misalignment(p=1.0) and config.shift == Misalignment()
    assert config.section_intensity == Intensity(p=0.5, contrast=0.1, brightness=0.1, gamma=0.0)
    assert build(AugmentConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    "data, words",
    [
        ({"p": 2}, "p is a probability within 0 to 1, got 2"),
        ({"flip": {"p": 1.5}}, "flip: p is a probability within 0 to 1, got 1.5"),
        ({"noise": {"std": -0.1}}, "noise: std is a strength >= 0, got -0.1"),
        ({"elastic": {"amplitude": 6}}, "elastic: amplitude is at most 1/8 of spacing 40"),
        ({"rotate": {"angel": 3}}, "unknown key rotate.angel: did you mean 'angle'"),
        ({"misalign": {"p": 1}}, "unknown key misalign"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(data, words):
    with pytest.raises(ConfigError, match=words):
        build(AugmentConfig, data)


def test_every_change_and_every_strength_is_explained():
    assert set(field_docs(AugmentConfig)) == {"p", *change_names()}
    for name in change_names():
        settings = getattr(AugmentConfig(), name)
        assert set(field_docs(type(settings))) == set(to_dict(settings))
        assert next(iter(to_dict(settings))) == "p"
