import json

import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.model_card.records import lineage, read


def test_a_folder_without_records_has_none_and_damaged_ones_are_named(tmp_path):
    assert read(tmp_path) is None
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(DataError, match="environment.json: not valid JSON"):
        read(tmp_path)


def test_steps_are_those_of_the_weights_that_are_meant(finetune):
    folder = finetune(result={"best": {"step": 90, "voi": 1.0}})
    assert (read(folder).steps, read(folder).crops) == (90, 360)
    assert read(folder, tag="step-00000120").steps == 120


def test_an_unfinished_run_is_told_from_what_it_has(finetune):
    record = read(finetune(done=False), tag="step-00000040")
    assert (record.verb, record.objective, record.steps) == ("finetune", "affinity", 40)
    assert record.result == {}


def test_the_runs_before_come_first(finetune, pretrain):
    pretrain()
    line = lineage(finetune(init="pre"))
    assert [stage.name for stage in line.stages] == ["pre", "ft"]
    assert (line.lost, line.base, line.last.verb) == (None, None, "finetune")


def test_a_folder_of_runs_that_was_moved_still_finds_them(finetune, pretrain, tmp_path):
    pretrain("study/pre")
    folder = finetune("study/ft", init="study/pre")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "study").rename(moved / "study")
    line = lineage(moved / "study" / folder.name)
    assert [stage.name for stage in line.stages] == ["pre", "ft"]


def test_a_folder_that_is_gone_is_said(finetune):
    line = lineage(finetune(init="/home/me/secret/pre"))
    assert line.lost == "pre" and len(line.stages) == 1


def test_an_export_leads_to_its_run_and_to_where_it_was_pushed(finetune, pretrain, write):
    pretrain()
    export = {"run": "pre", "push": "me/pre"}
    pushed = {"checkpoint": "step-00000100", "metrics": {"pushed": "https://hub/commit"}}
    folder = write("ex", "export", config=export, result=pushed)
    line = lineage(finetune(init="ex"))
    assert [(s.name, s.tag) for s in line.stages] == [("pre", "step-00000100"), ("ft", None)]
    assert line.base == "me/pre"
    assert lineage(folder).base is None, "a model is not its own base"
    (folder / "result.json").write_text(json.dumps({"verb": "export", "metrics": {}}))
    assert lineage(finetune("again", init="ex")).base is None, "nothing was pushed"


def test_fresh_weights_have_no_runs_and_a_ring_ends(finetune, write):
    assert lineage(None) == lineage(write("fresh", "export", config={"run": None}))
    finetune("one", init="two")
    assert len(lineage(finetune("two", init="one")).stages) == 2
