"""The tables that only print."""

import pytest

from tokenunify_scale.cli import main
from tokenunify_scale.models import list_models
from tokenunify_scale.models.published import PUBLISHED


def lines(capsys, *words):
    assert main("models", [str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_network_is_listed_with_its_cost_and_the_papers_figures_beside_it(capsys):
    table = {line.split()[0]: line.split() for line in lines(capsys)[1:]}
    for name in list_models():
        _, parameters, printed, crop, gmac, paper, activations, unit, *source = table[name]
        assert int(parameters.replace(",", "")) > 100_000 and float(activations) > 0
        assert unit == "GiB" and source and float(gmac.replace(",", "")) > 0
        facts = PUBLISHED.get(name)
        assert printed == (facts.parameters if facts else "-")
        assert paper == (f"{facts.gmac:,.0f}" if facts and facts.gmac else "-")
        assert crop == "x".join(map(str, facts.crop if facts else (16, 160, 160)))
    assert table["emmamba_huge"][1:4] == ["1,008,908,931", "1008", "16x160x160"]


def test_what_the_release_of_unetr_counts_is_said_below_the_table(capsys):
    assert any("129,071,547" in line for line in lines(capsys, "unetr"))


def test_a_crop_of_ones_own_is_costed_without_the_papers_figure(capsys):
    row = lines(capsys, "emmamba_small", "--crop", "16,64,64")[1].split()
    assert row[3] == "16x64x64" and row[5] == "-"


@pytest.mark.parametrize(
    "words, hint",
    [
        (["emmamba_tny"], "did you mean 'emmamba_tiny'"),
        (["mala", "--crop", "16,64,64"], "mala: "),
        (["--crop", "16,64"], "expected 3"),
    ],
)
def test_a_wrong_request_is_one_line(capsys, words, hint):
    assert main("models", words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and hint in captured.err
