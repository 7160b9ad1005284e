import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.measure.picture import COLOURS, LINES, draw_breakdown, draw_growth
from tokenunify_scale.measure.step import KINDS, OTHER


def pixels(path, colour):
    image = imread(path)[..., :3]
    return (np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).sum()


def test_every_kind_of_work_has_a_colour():
    assert len(COLOURS) == len({*COLOURS}) == len([*KINDS, OTHER])


def test_a_part_is_as_long_as_its_time(tmp_path):
    kinds = [*KINDS, OTHER]
    steps = {"fp32": dict.fromkeys(kinds, 1.0), "bf16": {**dict.fromkeys(kinds, 0.0), OTHER: 1.0}}
    steps["fp32"]["norm"] = 3.0
    draw_breakdown(tmp_path / "new" / "step.png", steps, title="t")
    area = {
        kind: pixels(tmp_path / "new" / "step.png", colour)
        for kind, colour in zip(kinds, COLOURS, strict=True)
    }
    assert 2.5 < area["norm"] / area["activation"] < 3.2
    assert 1.6 < area[OTHER] / area["activation"] < 2.2


def test_a_line_rises_as_its_exponent_says_and_the_first_lies_on_top(tmp_path):
    counts = [10, 100]
    ways = {"two": ([1, 100], 2.0), "one": ([1, 10], 1.0), "hidden": ([1, 100], 2.0)}
    draw_growth(tmp_path / "new" / "a.png", {"s": ways}, counts=counts, label="K", title="t")
    image = imread(tmp_path / "new" / "a.png")[..., :3]
    heights = {}
    for name, colour in zip(ways, LINES, strict=False):
        rows, columns = (np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).nonzero()
        line = rows[columns > 0.45 * image.shape[1]]  # the legend is on the left
        heights[name] = np.ptp(line) if len(line) else 0
    assert 1.5 < heights["two"] / heights["one"] < 2.5
    assert heights["hidden"] < heights["one"] / 4
