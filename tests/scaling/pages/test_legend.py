import pytest
from matplotlib.figure import Figure

from tokenunify_scale.scaling.pages.legend import Entry, set_page
from tokenunify_scale.scaling.pages.page import COLUMN, Page

TICKS = [[(0.0, "0"), (1.0, "1")]]
WORDS = {
    "title": "",
    "x_label": "x",
    "y_label": "y",
    "foot": "",
    "x_ticks": TICKS,
    "y_ticks": TICKS,
}


def named(*ends, name="name"):
    """A page with a name for the line that ends at each of ``ends``, and its texts by name."""
    page = Page(Figure(dpi=100), COLUMN)
    page.axes.set(xlim=(0, 1), ylim=(0, 1))
    entries = [Entry(name=f"{name} {n}", colour="#000000", end=end) for n, end in enumerate(ends)]
    set_page(page, entries, **WORDS)
    beside = {text.get_text() for text in page.axes.texts}
    below = {text.get_text() for text in page.figure.texts} - {"x", "y"}
    return page, beside, below


def test_names_stand_beside_lines_that_end_at_the_right():
    _, beside, below = named((0.9, 0.2), (0.95, 0.9))
    assert beside == {"name 0", "name 1"} and not below


@pytest.mark.parametrize(
    "ends, name",
    [
        ([(0.9, 0.2), (0.5, 0.9)], "name"),  # a line ends in the middle
        ([(0.9, 0.2), None], "name"),  # nothing to stand beside
        ([(0.9, n / 40) for n in range(40)], "n"),  # more names than lines of text
        ([(0.9, 0.2)], "a name that would take most of the page"),
    ],
)
def test_names_stand_in_a_legend_where_one_has_no_room(ends, name):
    _, beside, below = named(*ends, name=name)
    assert not beside and len(below) >= len(ends)


def test_names_of_lines_that_end_together_keep_their_order_within_the_axes():
    page, _, _ = named(*((0.9, 0.99 - n / 1000) for n in range(6)))
    heights = [text.xy[1] for text in page.axes.texts]
    assert heights == sorted(heights, reverse=True)
    gap = page.line(COLUMN.label) / COLUMN.plot
    assert min(a - b for a, b in zip(heights, heights[1:], strict=False)) >= gap - 1e-9
    assert max(heights) <= 1 - gap / 2 + 1e-9 and min(heights) >= gap / 2 - 1e-9
