import pytest

from tokenunify_scale.model_card.records import Lineage, lineage
from tokenunify_scale.model_card.texts import limits, output, template, training, usage

NO_MARGIN = (0, 0, 0)


def test_who_trained_says_the_whole_line(finetune, pretrain):
    pretrain()
    line = lineage(finetune(init="pre"))
    assert training(line) == "fine-tuning, objective affinity, started from pretraining (mae)"
    lost = lineage(finetune("other", init="x/gone"))
    assert training(lost) == "fine-tuning, objective affinity, started from `gone`"


def test_affinities_are_told_by_their_edges(finetune):
    assert "(p, p - e_c), e = z, y, x" in output("affinity", Lineage(), margin=NO_MARGIN)
    far = {"weights": {"offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 0]]}}
    told = output("affinity", lineage(finetune(environment=far)), margin=NO_MARGIN)
    assert told.startswith("4 affinities") and "(3, 0, 0)" in told
    assert output("mae", Lineage(), margin=NO_MARGIN) == "the reconstructed crop, in (0, 1)"


@pytest.mark.parametrize("objective, segments", [("affinity", True), ("mae", False)])
def test_how_to_load_shows_transformers_this_package_and_the_command(objective, segments):
    text = usage("emmamba_atto", objective, "me/net", channels=1)
    assert 'AutoModel.from_pretrained("me/net", trust_remote_code=True)' in text
    assert 'load_model("me/net")' in text
    assert ("tokenunify segment --model me/net --volume your.tif --out neurons" in text) == segments


def test_fresh_weights_come_from_a_command(tmp_path):
    assert "tokenunify export --size tiny --out x" in usage("emmamba_tiny", None, "x", channels=1)
    assert "--set model.name=mala --out x" in usage("mala", None, "x", channels=1)


def test_limits_tell_rounding_and_what_was_not_finished(finetune):
    line = lineage(finetune(done=False), tag="step-00000040")
    text = limits(line, [[]], [], dtype="bfloat16")
    assert "Stored in bfloat16" in text and "checkpoint step-00000040" in text
    assert "crops of 8x32x32 voxels" in text and "How good its predictions are is not" in text


def test_the_template_has_a_place_for_each_part():
    for place in ("title", "results", "usage", "limits", "licence", "compute", "procedure"):
        assert f"{{{place}}}" in template()
