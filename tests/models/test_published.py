import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model, list_models
from tokenunify_scale.models.load import parameters_of
from tokenunify_scale.models.published import CROP, PUBLISHED, Published, published


def test_every_figure_is_of_a_registered_network():
    assert set(PUBLISHED) <= set(list_models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_totals_are_what_the_paper_prints(name):
    facts = published(name)
    with torch.device("meta"):
        count = parameters_of(build_model(name)) / 1e6
    if name == "unetr":  # its release also counts what it never uses
        assert facts.note.split()[0] == "129,071,547" and facts.parameters == "129.1"
    elif name.startswith("unetr_"):
        assert count == pytest.approx(float(facts.parameters), rel=0.02)
    else:
        assert count == pytest.approx(float(facts.parameters), rel=0.005)


def test_a_network_the_paper_does_not_have_has_its_crop_only():
    assert published("emmamba_atto") == Published(crop=CROP)
    with pytest.raises(ConfigError, match="did you mean 'emmamba_atto'"):
        published("emmamba_ato")
