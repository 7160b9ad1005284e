"""Pictures: every input has its column, matched objects share a colour, errors theirs."""

import tracemalloc

import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale import figures
from tokenunify_scale.figures import ERROR_COLOURS, Section, draw_errors, draw_sections
from tokenunify_scale.metrics import Matches, Overlaps

LABELS = np.kron([[1, 2], [3, 4]], np.ones((30, 30), int))


def section(index=0, **inputs):
    return Section(index=index, segmentation=LABELS * 10, **inputs)


def matched(segmentation=LABELS * 10):
    return Matches.of(Overlaps.of(segmentation, LABELS))


def colours(path):
    """The colours of a picture that fill more than text and lines do, as a set of RGB."""
    pixels, counts = np.unique(
        (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3), axis=0, return_counts=True
    )
    return {tuple(pixel.tolist()) for pixel in pixels[counts > 20000]}


def near(found, colour, *, tolerance=3):
    return any(np.abs(np.subtract(one, colour)).max() <= tolerance for one in found)


def test_a_segment_has_the_colour_of_the_object_it_matches(tmp_path):
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    draw_sections(alone, [section()], title="t", matches=matched())
    draw_sections(both, [section(labels=LABELS)], title="t", matches=matched())
    white = {(255, 255, 255)}
    assert len(colours(alone) - white) == 4
    assert colours(alone) == colours(both)


def test_without_matches_segments_have_colours_of_their_own(tmp_path):
    draw_sections(tmp_path / "a.png", [section(labels=LABELS)], title="t")
    assert len(colours(tmp_path / "a.png") - {(255, 255, 255)}) == 8


@pytest.mark.parametrize("rows", [1, 3])
def test_columns_and_rows_follow_the_inputs(tmp_path, rows):
    raw = np.zeros(LABELS.shape, np.uint8)
    affinities = np.zeros((3, *LABELS.shape), np.float32)
    sections = [section(z, raw=raw, affinities=affinities, labels=LABELS) for z in range(rows)]
    draw_sections(tmp_path / "all.png", sections, title="t", voxel_size=(40, 8, 8))
    draw_sections(tmp_path / "few.png", sections[:1], title="t", voxel_size=(40, 16, 8))
    height, width, _ = imread(tmp_path / "all.png").shape
    few = imread(tmp_path / "few.png").shape
    assert width > 1000
    assert few[0] > height if rows == 1 else few[0] < height


def test_each_kind_of_error_is_drawn_in_the_colour_of_the_legend(tmp_path):
    wrong = LABELS * 10
    wrong[:12, :30] = 11
    wrong[30:, :30] = 0
    wrong[40:, 30:] = 20
    sections = [Section(index=5, segmentation=wrong, labels=LABELS)]
    draw_errors(
        tmp_path / "e.png", sections, matches=matched(wrong), title="t", voxel_size=(1, 1, 1)
    )
    found = colours(tmp_path / "e.png")
    for colour, _ in ERROR_COLOURS.values():
        painted = 255 * (0.7 * np.array(colour) + 0.3 * 0.7)
        assert near(found, painted), (colour, found)


def test_large_sections_are_thinned(tmp_path):
    ids = np.ones((1, 3000), np.uint64)
    draw_sections(tmp_path / "wide.png", [Section(index=0, segmentation=ids)], title="t")
    assert imread(tmp_path / "wide.png").shape[1] < 2000


@pytest.mark.parametrize("kind", ["none", "uint8", "float32"])
def test_the_rows_that_are_coloured_at_a_time_change_no_pixel(tmp_path, monkeypatch, kind):
    generator = np.random.default_rng(0)
    raw = None if kind == "none" else (generator.random(LABELS.shape) * 200).astype(kind)
    wrong = LABELS * 10
    wrong[:12, :30] = 11
    given = [Section(index=0, segmentation=wrong, raw=raw, labels=LABELS)]
    found = []
    for band in (1, 130, figures.BAND):
        monkeypatch.setattr(figures, "BAND", band)
        for name, draw in (("s", draw_sections), ("e", draw_errors)):
            draw(tmp_path / f"{name}.png", given, title="t", matches=matched(wrong))
        found.append([imread(tmp_path / f"{name}.png") for name in "se"])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_picture_of_large_sections_takes_few_bytes_a_voxel(tmp_path):
    ids = np.kron(np.arange(1024).reshape(32, 32) + 1, np.ones((32, 32), np.int64))
    given = [Section(index=z, segmentation=ids, labels=ids) for z in range(3)]
    matches = Matches.of(Overlaps.of(ids, ids))
    draw_sections(tmp_path / "s.png", given[:1], title="t", matches=matches)  # all is loaded
    tracemalloc.start()
    draw_sections(tmp_path / "s.png", given, title="t", matches=matches)
    draw_errors(tmp_path / "e.png", given, title="t", matches=matches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Six panels of three colours; the library draws one at a time, as floats.
    assert peak < (6 * 3 + 110) * ids.size
