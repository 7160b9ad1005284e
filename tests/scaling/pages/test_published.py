import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.pages.published import facts, figure6


def test_every_fact_names_its_place_in_the_paper():
    assert {line["source"] for line in facts("scaling")} == {"Figure 6"}
    assert {line["source"].split()[0] for line in facts("segmentation")} == {"Table"}


def test_figure_6_has_three_curves_of_mamba_and_four_of_the_transformer():
    assert [*figure6("mamba")] == ["random", "mae", "tokenunify"]
    assert [*figure6("transformer")] == ["random", "mae", "autoregressive", "tokenunify"]
    best = figure6("mamba")["tokenunify"]
    assert best.x[:, 0].tolist() == [1e8, 2e8, 5e8, 1e9]
    assert best.y.tolist() == [1.2332, 1.0690, 1.0076, 0.9625]


def test_flops_are_two_a_multiply_add():
    macs, flops = (figure6("mamba", x=x)["mae"].x for x in ("gmacs", "flops"))
    assert macs[0, 0] == 503 and np.allclose(flops, macs * 2e9)


def test_the_tables_sums_of_split_and_merge_are_their_voi_but_for_two_misprints():
    off = [
        line["method"] for line in facts("segmentation")
        if line["voi_split"]
        and "sd" not in line["source"]
        and abs(float(line["voi_split"]) + float(line["voi_merge"]) - float(line["voi"])) > 6e-4
    ]  # fmt: skip
    assert set(off) <= {"MALA", "PEA"} and len(off) <= 4


@pytest.mark.parametrize("words, told", [(("mambo",), "mamba"), (("mamba", "N"), "parameters")])
def test_what_figure_6_does_not_have_is_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        figure6(words[0], **({"x": words[1]} if len(words) > 1 else {}))
