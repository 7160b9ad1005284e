from pathlib import Path

import pytest
import torch
import yaml

from tokenunify_scale.config import ConfigError
from tokenunify_scale.model_card import SCORES, UNKNOWN, card, template
from tokenunify_scale.models import build_model
from tokenunify_scale.models.load import parameters_of

TRAINED = {
    "verb": "finetune",
    "objective": "affinity",
    "init": "tokenunify",
    "volume": ["a.h5:raw"],
    "steps": 150,
    "crops_seen": 300,
    "seed": 4,
    "world": 2,
    "seconds": 61.4,
}
SCORED = {
    "metrics": {"voi": 1.25, "voi_split": 1.0, "voi_merge": 0.25, "arand": 0.125},
    "labels": "b.h5:labels",
}


def parts(text: str) -> tuple[dict, str]:
    """YAML metadata and body of a card."""
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_an_untrained_card_claims_no_score_and_no_weights():
    text = card(model="emmamba_tiny", parameters=28_296_131, folder="x")
    metadata, body = parts(text)
    assert metadata["library_name"] == "tokenunify_scale" and "model-index" not in metadata
    assert "28,296,131 parameters (Table 6)" in body
    assert "No weights exist" in body
    for name in SCORES.values():
        assert f"| {name} | {UNKNOWN} |" in body


def test_a_trained_card_says_what_was_done_and_leaves_scores_open():
    metadata, body = parts(card(model="emmamba_atto", parameters=5, folder="x", trained=TRAINED))
    assert "# emmamba_atto (affinity)" in body and "(not in the paper)" in body
    assert "finetune, objective affinity, started from tokenunify" in body
    assert "- `a.h5:raw`" in body
    assert "150 steps, 300 crops, seed 4, 2 rank(s), 61 s" in body
    assert "(p, p - e_c)" in body
    assert "model-index" not in metadata and UNKNOWN in body


def test_measured_scores_stand_in_the_table_and_in_the_metadata():
    text = card(model="emmamba_atto", parameters=5, folder="x", trained=TRAINED, scores=SCORED)
    metadata, body = parts(text)
    assert "| VOI (bits) | 1.2500 |" in body and "| adapted Rand error | 0.1250 |" in body
    assert "Measured on `b.h5:labels`" in body and UNKNOWN not in body.partition("## Limits")[0]
    (entry,) = metadata["model-index"]
    (result,) = entry["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == SCORED["metrics"]
    assert result["dataset"]["name"] == "b.h5:labels"


def test_a_score_that_was_not_taken_says_so():
    scores = {"metrics": {"voi": 2.0}}
    metadata, body = parts(
        card(model="emmamba_atto", parameters=5, folder="x", trained=TRAINED, scores=scores)
    )
    assert f"| adapted Rand error | {UNKNOWN} |" in body and "| VOI (bits) | 2.0000 |" in body
    assert len(metadata["model-index"][0]["results"][0]["metrics"]) == 1


def test_a_pretrained_card_names_its_shards_and_its_output():
    trained = {**TRAINED, "verb": "pretrain", "objective": "mae", "shards": ["s1", "s2"]}
    del trained["volume"], trained["init"]
    body = parts(card(model="emmamba_atto", parameters=5, folder="x", trained=trained))[1]
    assert "- `s1`\n- `s2`" in body and "the reconstructed crop" in body
    assert "started from" not in body


def test_no_place_of_the_template_stays_open_and_braces_in_names_are_harmless():
    trained = {**TRAINED, "volume": ["{x}.h5:raw"]}
    text = card(model="emmamba_atto", parameters=5, folder="runs/{y}", trained=trained)
    assert "{x}.h5:raw" in text and 'load_model("runs/{y}")' in text
    for place in ("{title}", "{results}", "{usage}", "{limits}"):
        assert place in template() and place not in text


def test_an_unknown_model_has_no_card():
    with pytest.raises(ConfigError, match="unknown model 'emmamba_hgue'"):
        card(model="emmamba_hgue", parameters=1, folder="x")


@pytest.mark.parametrize("size", ["tiny", "small", "middle", "large", "huge"])
def test_the_cards_of_table_6_are_what_the_code_would_write(size):
    name = f"emmamba_{size}"
    with torch.device("meta"):
        parameters = parameters_of(build_model(name))
    written = (Path(__file__).parents[1] / "model_cards" / f"{name}.md").read_text()
    assert written == card(model=name, parameters=parameters, folder=name)


def test_a_card_of_another_network_cites_its_authors_and_says_what_it_leaves_out():
    metadata, body = parts(card(model="mala", parameters=5, folder="x", trained=TRAINED))
    assert "mala" in metadata["tags"] and "mamba" not in metadata["tags"]
    assert "Architecture: Funke et al. 2018 (MALA)" in body
    assert "not of the outer (14, 106, 106) voxels (z, y, x) of a crop" in body


def test_a_card_of_released_weights_claims_no_training_of_ours():
    imported = {
        "verb": "import_official", "objective": "affinity", "file": "a.pth", "sha256": "f00",
    }  # fmt: skip
    _, body = parts(card(model="emmamba_tiny", parameters=5, folder="x", trained=imported))
    assert "Trained elsewhere; read from `a.pth` (sha256 `f00`)" in body
    assert "| Trained by | others: the weights are of the paper's release |" in body
    assert "Not known: the weights come from a file" in body and "not measured here" in body
