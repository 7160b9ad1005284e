"""The contact sheet and the diagram of photographs."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.objectives.reconstruction import TASKS
from tokenunify_scale.objectives.reconstruction_picture import (
    COLOURS,
    HIDDEN,
    Row,
    _error,
    draw_images,
    draw_sheet,
)
from tokenunify_scale.objectives.reconstruction_table import Found

TRUTH = np.random.default_rng(0).random((32, 32, 3))
SHOWN = np.where(np.arange(32)[:, None, None] < 16, TRUTH, np.nan)
PSNR = dict.fromkeys(TASKS, 20.0)


def area(image, colour):
    return (np.abs(image[..., :3] - to_rgb(colour)).max(axis=2) < 0.02).sum()


def sheet(path, *runs, **options):
    first = Row("", "", SHOWN, SHOWN, TRUTH, {}, (1, 8, 8))
    draw_sheet(path, [first, *runs], title="a title", **options)
    return imread(path)


def test_the_sheet_grows_by_a_row_a_run_and_shows_what_is_hidden(tmp_path):
    row = Row("mae", "", TRUTH, TRUTH, TRUTH, PSNR, (1, 8, 8))
    one, three = sheet(tmp_path / "new" / "1.png", row), sheet(tmp_path / "3.png", row, row, row)
    assert one.shape[1] == three.shape[1] == 1440
    assert len(three) > 1.6 * len(one) and area(one, HIDDEN) > 20000


def test_nothing_is_drawn_of_a_run_without_a_decoder_but_its_features(tmp_path):
    nan = dict.fromkeys(TASKS, np.nan)
    row = Row("byol", "decoder not trained", None, None, np.zeros((32, 32, 3)), nan, (1, 8, 8))
    image = sheet(tmp_path / "a.png", row)
    bottom = image[-250:, :1000]
    assert area(bottom, "white") > 0.95 * bottom[..., 0].size and area(image, "black") > 20000


def test_sections_have_the_aspect_of_their_voxels(tmp_path):
    row = Row("mae", "", TRUTH, TRUTH, TRUTH, PSNR, (1, 8, 8))
    square, tall = (sheet(tmp_path / f"{y}.png", row, voxel_size=(40, y, 4)) for y in (4, 8))
    assert len(tall) > 1.6 * len(square)


def test_errors_are_white_where_there_are_none_and_told_apart_by_sign():
    gray = np.full((1, 3, 3), 0.5)
    found = _error(gray + np.array([0, 0.2, -0.2])[:, None], gray)
    assert (found[0, 0] == 1).all() and found[0, 1, 0] > found[0, 1, 2]
    assert found[0, 2, 0] < found[0, 2, 2]


@pytest.mark.filterwarnings("error")
def test_the_diagram_has_a_colour_a_run_and_the_papers_lines(tmp_path):
    errors = dict.fromkeys(TASKS, np.array([0.1, 0.01, 0.02]))
    nothing = dict.fromkeys(TASKS, np.full(3, np.nan))
    founds = {"a": Found(errors, errors), "b": Found(errors, errors), "c": Found(nothing, errors)}
    names, paper = ["kodim01", "kodim02", "kodim03"], {"tokenunify_16": [21.5, 27.3, 27.1]}
    draw_images(tmp_path / "a.png", founds, names=names, paper=paper)
    draw_images(tmp_path / "b.png", founds, names=names, paper={})
    with_paper, without = imread(tmp_path / "a.png"), imread(tmp_path / "b.png")
    assert area(with_paper, COLOURS[1]) > 100 and area(with_paper, COLOURS[2]) == 0
    assert area(with_paper, "0.55") > 2 * area(without, "0.55")
