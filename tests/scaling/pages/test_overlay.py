import numpy as np
import pytest

from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.pages.curves import contrast, curves
from tokenunify_scale.scaling.pages.overlay import paper_curves, paper_entries
from tokenunify_scale.scaling.pages.published import figure6


def ours(*names):
    return curves({name: Points(x=np.array([[1e6]]), y=np.array([2.0])) for name in names})


def test_the_paper_s_curve_has_our_colour_but_lighter_and_its_own_numbers():
    (own,) = ours("mae")
    others = {curve.label: curve for curve in paper_curves("mamba", [own], x="parameters")}
    assert others["mae"].marker == own.marker
    assert contrast(others["mae"].colour) < contrast(own.colour)
    assert others["mae"].y.tolist() == figure6("mamba")["mae"].y.tolist()
    assert len({curve.colour for curve in others.values()}) == 3


@pytest.mark.parametrize(
    "names, entries",
    [
        (["random", "mae", "tokenunify"], ["paper, mamba"]),
        (["mae"], ["paper, mamba", "paper, mamba, random", "paper, mamba, tokenunify"]),
        (["own"], [f"paper, mamba, {init}" for init in ("random", "mae", "tokenunify")]),
    ],
)
def test_one_name_stands_for_the_curves_that_ours_name_and_the_rest_have_their_own(names, entries):
    own = ours(*names)
    found = paper_entries(paper_curves("mamba", own, x="parameters"), own, "mamba")
    assert [entry.name for entry in found] == entries
    assert all(entry.end is None for entry in found)
    assert paper_entries([], own, None) == []
