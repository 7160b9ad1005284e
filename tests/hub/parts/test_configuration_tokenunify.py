import pytest

pytest.importorskip("transformers")  # before what imports it, hence E402 below

from tokenunify_scale.hub.parts.configuration_tokenunify import TokenUnifyConfig  # noqa: E402
from tokenunify_scale.train.checkpoint import MODEL_TYPE  # noqa: E402


def test_it_says_again_what_it_was_told(tmp_path):
    facts = {"model": {"name": "emmamba_atto", "hidden": 64}, "in_channels": 1, "out_channels": 12,
             "objective": "affinity", "offsets": [[1, 0, 0]], "margin": [1, 2, 3],
             "output": {"kind": "affinities"}}  # fmt: skip
    TokenUnifyConfig(**facts).save_pretrained(tmp_path)
    again = TokenUnifyConfig.from_pretrained(tmp_path)
    assert {key: getattr(again, key) for key in facts} == facts
    assert again.model_type == MODEL_TYPE


def test_without_words_it_is_what_transformers_needs():
    config = TokenUnifyConfig()
    assert config.model == {} and config.offsets is None and config.to_dict()["margin"] == [0, 0, 0]
