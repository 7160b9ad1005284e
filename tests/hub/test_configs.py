import pytest

from tokenunify_scale.config import dump_yaml
from tokenunify_scale.hub.configs import config_json, preprocessing
from tokenunify_scale.train.checkpoint import Description

ABOUT = {"model": {"name": "emmamba_atto"}, "in_channels": 1, "out_channels": 3}


def test_affinities_are_told_by_their_offsets():
    about = Description(**ABOUT, objective="affinity")
    found = config_json(about, dtype="bfloat16", run=None)
    assert found["output"] == {
        "kind": "affinities",
        "offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "edge": "(p, p - offset)",
    }
    assert found["dtype"] == "bfloat16" and found["model_type"] == "tokenunify"
    about = Description(**{**ABOUT, "out_channels": 4}, objective="affinity",
                        offsets=((1, 0, 0), (0, 1, 0), (0, 0, 1), (4, 0, 0)))  # fmt: skip
    assert config_json(about, dtype="float32", run=None)["output"]["offsets"][-1] == [4, 0, 0]


@pytest.mark.parametrize("targets", [None, "normalised"])
def test_a_reconstruction_says_of_what_it_is(tmp_path, targets):
    objective = {"name": "mae", **({"targets": targets} if targets else {})}
    (tmp_path / "config.yaml").write_text(dump_yaml({"objective": objective}))
    about = Description(**{**ABOUT, "out_channels": 1}, objective="mae")
    found = config_json(about, dtype="float32", run=tmp_path)["output"]
    assert found == {"kind": "intensities", **({"targets": targets} if targets else {})}


def test_networks_that_lose_a_margin_say_so():
    about = Description(**{**ABOUT, "model": {"name": "mala"}}, objective="affinity")
    assert config_json(about, dtype="float32", run=None)["margin"] == (14, 106, 106)
    assert preprocessing(about)["rescale_factor"] == pytest.approx(1 / 255)
