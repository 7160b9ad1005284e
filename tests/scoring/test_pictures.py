"""What pictures are made of: sections thinned as they are read, neurons, and a page or its crop."""

import numpy as np
import pytest
from matplotlib.image import imread

from tokenunify_scale import figures
from tokenunify_scale.config import DataError
from tokenunify_scale.metrics import Mistake, Overlaps, worst
from tokenunify_scale.scoring import pictures
from tokenunify_scale.scoring.inputs import open_inputs
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.hdf5 import write_hdf5

LABELS = np.kron(np.arange(1, 5).reshape(1, 2, 2), np.ones((6, 30, 40), int)).astype(np.uint64)
NEAREST = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.fixture
def files(tmp_path):
    raw = np.random.default_rng(0).integers(0, 255, LABELS.shape).astype(np.uint8)
    affinities = np.zeros((4, *LABELS.shape), np.uint8)
    affinities[1] = 255
    told = {"offsets": [*NEAREST, [5, 0, 0]], "axes": "czyx", "offset": [0, 0, 0], "scale": 255}
    write_hdf5(
        tmp_path / "a.h5",
        {"labels": LABELS, "raw": raw, "affinities": affinities},
        attributes={"labels": {"voxel_size": [40, 8, 8]}, "affinities": told},
    )
    return f"{tmp_path}/a.h5"


def opened(files, **words):
    words = {"labels": f"{files}:labels", "raw": f"{files}:raw", "sections": None, **words}
    return open_inputs(f"{files}:labels", border=0, **words)


def sections_drawn(files, folder, monkeypatch, **words):
    seen = []
    monkeypatch.setattr(
        pictures, "draw_sections", lambda _, found, **rest: seen.append((found, rest))
    )
    monkeypatch.setattr(pictures, "draw_errors", lambda *_, **__: None)
    with opened(files) as inputs:
        pictures.draw(folder, inputs, title="t", matches=None, **words)
    return seen[0]


def test_sections_are_thinned_to_a_panel_as_they_are_read(files, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 27)
    sections, rest = sections_drawn(files, tmp_path, monkeypatch, affinities=f"{files}:affinities")
    assert [section.index for section in sections] == [1, 3, 5]
    assert sections[0].segmentation.shape == sections[0].raw.shape == (20, 27)
    assert rest["voxel_size"] == (40, 24, 24)
    assert np.array_equal(sections[1].labels, LABELS[3, ::3, ::3])
    assert sections[0].affinities.shape == (3, 20, 27)
    assert sections[0].affinities.mean(axis=(1, 2)).tolist() == pytest.approx([0, 1, 0])


def test_affinities_that_lie_elsewhere_are_refused(files):
    pictures.check_affinities(f"{files}:affinities", Box.of((6, 60, 80)))
    with pytest.raises(DataError, match=r"covers voxels \(0, 0, 0\) to \(6, 60, 80\)"):
        pictures.check_affinities(f"{files}:affinities", Box((2, 0, 0), (7, 60, 80)))


def test_sections_as_they_are_drawn_fill_a_page(files, tmp_path):
    with opened(files, labels=None) as inputs:
        pictures.draw(tmp_path, inputs, affinities=f"{files}:affinities", title="t", matches=None)
    assert imread(tmp_path / "sections.png").shape[1] > figures.WIDTH * 100


def test_pieces_merges_and_the_largest_segments_are_the_neurons_to_see():
    labels = np.repeat([1, 2, 3, 4], [20, 5, 9, 30])
    ids = np.repeat([11, 12, 0, 20, 20, 30], [9, 8, 3, 5, 9, 30])
    overlaps = Overlaps.of(ids, labels)
    found = pictures.neurons_of(overlaps, worst(overlaps, count=5))
    assert found == {
        11: "pieces of object 1", 12: "pieces of object 1", 20: "the worst merge",
        30: "the largest",
    }  # fmt: skip


def test_neurons_lost_between_the_voxels_are_left_out(files, tmp_path, monkeypatch, caplog):
    from tokenunify_scale.viewer import meshes

    seen = []
    monkeypatch.setattr(meshes, "render_neurons", lambda *words, **rest: seen.append((words, rest)))
    monkeypatch.setattr(pictures, "SOLID_VOXELS", 2000)
    with opened(files) as inputs:
        named = {4: "merge", 99: "large", 1: "large"}
        pictures.draw_neurons(tmp_path / "n.png", inputs, named, matches=None)
        ((_, solid, ids), rest) = seen[0]
        assert solid.size <= 2000 and ids == [4, 1] and "99" in caplog.text
        sides = np.array(rest["voxel_size"]) * (np.array(solid.shape) - 1)
        assert (np.abs(sides - np.array(LABELS.shape) * (40, 8, 8)) <= rest["voxel_size"]).all()
        assert rest["title"] == "Segments: merge, large" and rest["colours"].shape == (2, 3)


def test_a_page_of_a_large_volume_is_a_crop_around_the_worst_mistake(files, tmp_path, monkeypatch):
    from tokenunify_scale.viewer import page

    seen = []
    monkeypatch.setattr(page, "write_viewer", lambda path, **words: seen.append(words))
    monkeypatch.setattr(pictures, "PAGE_VOXELS", 4000)
    parts = ((3, 2), (4, 1))
    found = [
        (Mistake("split", 1, 9, 0.1, 2, parts), (1, 2, 3)),
        (Mistake("merge", 3, 9, 0.2, 2, parts), (4, 55, 10)),
    ]
    with opened(files) as inputs:
        assert not pictures.fits_page(inputs.box)
        pictures.write_page(tmp_path / "v.html", inputs, title="t", matches=None, mistakes=found)
    (words,) = seen
    z, y, x = words["origin"]
    assert words["segmentation"].shape == words["raw"].shape and words["raw"].size <= 4000
    assert z <= 4 < z + words["raw"].shape[0] and y <= 55 < y + words["raw"].shape[1]
    assert np.array_equal(
        words["labels"], LABELS[Box.of(words["raw"].shape).shift((z, y, x)).slices]
    )
    assert [point["text"][:7] for point in words["points"]] == ["merge 3", "split 1"]
    assert "crop" in words["title"]


def test_a_page_of_a_small_volume_is_all_of_it():
    box = Box((3, 0, 0), (9, 50, 50))
    assert pictures.page_box(box, around=(4, 9, 9)) == box and pictures.fits_page(box)
