import pytest
from matplotlib.figure import Figure

from tokenunify_scale.scaling.pages.page import COLUMN, MM, PAGE, Page

TICKS = [[(0.0, "0"), (0.5, "half"), (1.0, "1")], [(0.0, "0"), (1.0, "1")]]
WORDS = {"title": "t", "x_label": "x", "y_label": "y", "labels": 0.0, "legend": 0.0, "foot": ""}


@pytest.fixture
def page():
    return Page(Figure(dpi=100), COLUMN)


def test_the_two_widths_are_those_of_a_journal_and_no_print_is_too_small():
    assert COLUMN.width == pytest.approx(85 * MM) and PAGE.width == pytest.approx(170 * MM)
    assert min(COLUMN.foot, PAGE.foot) >= 6


def test_the_axes_keep_their_height_whatever_stands_around_them(page):
    heights = []
    for foot in ("", "many words " * 40):
        page.place(x_ticks=TICKS, y_ticks=TICKS, **{**WORDS, "foot": foot})
        width, height = page.figure.get_size_inches()
        heights.append(height)
        assert width == pytest.approx(COLUMN.width)
        assert page.axes.get_position().height * height == pytest.approx(COLUMN.plot)
    assert heights[1] > heights[0] + 0.3


@pytest.mark.parametrize("words", ["one two three " * 9, "x" * 300, "", "a\nb", "short"])
def test_wrapped_lines_fit_and_lose_nothing(page, words):
    lines = page.wrap(words, 8, 2.0)
    assert all(page.width(line, 8) <= 2.0 for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words.split())
    if "one two" in words:  # as few lines as can be: the next word never had room
        for line, after in zip(lines, lines[1:], strict=False):
            assert page.width(f"{line} {after.split()[0]}", 8) > 2.0


def test_ticks_whose_labels_would_touch_give_way_to_fewer(page):
    page.axes.set_xlim(0, 1)
    long = [(0.0, "a label that is long"), (0.5, "another that is"), (1.0, "a third one")]
    page.place(x_ticks=[long, TICKS[0]], y_ticks=TICKS, **WORDS)
    assert [t.get_text() for t in page.axes.get_xticklabels()] == ["0", "half", "1"]
    page.place(x_ticks=TICKS, y_ticks=TICKS, **WORDS)
    assert len(page.axes.get_xticklabels()) == 3
