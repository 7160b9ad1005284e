import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tokenunify_scale.measure.picture import COLOURS, draw_breakdown
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
