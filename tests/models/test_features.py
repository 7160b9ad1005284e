import pytest
from torch import nn

from tokenunify_scale.config import ConfigError, Named
from tokenunify_scale.models import build_model
from tokenunify_scale.models.features import feature_widths, paired_widths
from tokenunify_scale.objectives import build_objective
from tokenunify_scale.objectives.byol import BYOLConfig
from tokenunify_scale.objectives.ms_con_em import MSConEMConfig
from tokenunify_scale.objectives.tokenunify import TokenUnifyConfig


class Silent(nn.Module):
    """It has features, and does not say how wide they are."""


def mala() -> nn.Module:
    return build_model("mala", widths=(1, 2, 3, 4), out_channels=1)


def test_widths_are_those_that_a_network_says():
    atto = build_model("emmamba_atto")
    assert feature_widths(atto) == paired_widths(atto) == (4, 8, 16, 32)


def test_a_network_with_a_margin_has_features_and_none_beside_an_output():
    assert feature_widths(mala()) == (1, 2, 3, 4)
    with pytest.raises(ConfigError, match="MALA gives no output for each voxel"):
        paired_widths(mala())


@pytest.mark.parametrize(
    "name, options",
    [
        ("byol", BYOLConfig()),
        ("ms_con_em", MSConEMConfig()),
        ("tokenunify", TokenUnifyConfig()),
    ],
)
def test_objectives_refuse_a_network_that_does_not_say_its_widths(name, options):
    with pytest.raises(ConfigError, match="Silent has no widths"):
        build_objective(Named(name, options), backbone=Silent(), seed=0)


@pytest.mark.parametrize(
    "name, options", [("ms_con_em", MSConEMConfig()), ("tokenunify", TokenUnifyConfig())]
)
def test_objectives_of_output_and_features_refuse_a_margin(name, options):
    with pytest.raises(ConfigError, match="with a margin"):
        build_objective(Named(name, options), backbone=mala(), seed=0)
