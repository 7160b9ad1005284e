import pytest

from tokenunify_scale.model_card.procedure import crop_of, procedure
from tokenunify_scale.model_card.records import lineage, read


def rows(text: str) -> dict[str, list[str]]:
    """A table's cells by the name of the row."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in (line[2:-2].split(" | ") for line in lines)}


def test_each_training_has_a_column(finetune, pretrain):
    pretrain()
    found = rows(procedure(lineage(finetune(init="pre"))))
    assert found["steps"] == ["300", "150"] and found["crops seen"] == ["1,200", "600"]
    assert found["objective"] == ["mae", "affinity (loss bce; border 1)"]
    assert found["started from"] == ["fresh weights", "the pretraining (mamba)"]
    assert found["crop (z, y, x)"] == ["not measured", "8x32x32 voxels"]
    assert found["learning rate"][1] == (
        "0.002 at its peak, reached after 5 % of the steps, then cosine to 10 % of it"
    )
    assert found["ranks"] == ["2", "2"] and found["git commit"] == ["abc123", "abc123"]
    assert found["ZeRO stage"] == ["0", "0"] and found["precision"] == ["float32", "float32"]
    assert found["versions"][0] == "torch 2.13.0, python 3.11.7"


@pytest.mark.parametrize(
    "config, stage, precision",
    [
        ({"strategy": "large"}, "3", "float32, products in bfloat16"),
        ({"strategy": "huge_cpu"}, "3", "bfloat16"),
        ({"zero": 2}, "2", "float32"),
        ({"strategy": "gone.json"}, "not measured", "not measured"),
    ],
)
def test_stage_and_precision_are_those_of_the_strategy(finetune, config, stage, precision):
    found = rows(procedure(lineage(finetune(**config))))
    assert (found["ZeRO stage"], found["precision"]) == ([stage], [precision])


def test_weights_of_a_checkpoint_say_so(finetune):
    text = procedure(lineage(finetune(done=False), tag="step-00000040"))
    assert "checkpoint `step-00000040`: training had not finished" in text
    assert rows(text)["steps"] == ["40 of 150"] and rows(text)["crops seen"] == ["160"]
    text = procedure(lineage(finetune("other"), tag="step-00000040"))
    assert "not finished" not in text and "checkpoint `step-00000040`" in text


def test_weights_that_were_the_best_say_so(finetune):
    text = procedure(lineage(finetune(result={"best": {"step": 90, "voi": 1.23456}})))
    assert "those of step 90 of 150, the best on sections" in text and "(voi 1.235)" in text


def test_an_import_keeps_its_file_and_no_place(finetune, write):
    write("imp", "import_official", result={"file": "/home/me/x.pth", "sha256": "f00"})
    text = procedure(lineage(finetune(init="imp")))
    assert "Trained elsewhere; read from `x.pth` (sha256 `f00`)." in text
    assert rows(text)["started from"] == ["the import (mamba)"]


def test_a_start_whose_records_are_gone_is_said(finetune):
    text = procedure(lineage(finetune(init="/home/me/gone")))
    assert "The first weights came from `gone`" in text and "/home" not in text
    assert rows(text)["started from"] == ["`gone` (mamba)"]


def test_augmentation_and_adaptation_are_told(finetune):
    changes = {"p": 1.0, "flip": {"p": 0.5}, "cut_blur": {"p": 0.1}, "noise": {"p": 0.0}}
    found = rows(procedure(lineage(finetune(augment=changes, lora={"rank": 8}))))
    assert found["augmentation"] == ["flip, cut blur"] and "rank 8" in found["trained parts"][0]


def test_a_crop_that_is_not_asked_for_is_the_networks_own(finetune):
    assert crop_of(read(finetune(crop=None))) == [16, 160, 160]
