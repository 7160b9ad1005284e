import csv
import io
import json

import pytest

from tokenunify_scale.config import DataError, build
from tokenunify_scale.scaling.grid import study
from tokenunify_scale.scaling.grid.plan import Study, plan
from tokenunify_scale.scaling.pages.collect import (
    COLUMNS,
    Row,
    axes_of,
    collect,
    records,
    to_csv,
    to_latex,
    to_markdown,
    values_of,
    write_tables,
)

RECIPE = {"name": "s", "sizes": ["atto"], "inits": ["mae", "random"], "seeds": [5]}
SCORES = {"voi_split": 0.5, "voi_merge": 0.25, "voi": 0.75, "arand": 0.125, "precision": 1.0}
LABEL = "atto-mae-s5"


@pytest.fixture
def jobs(tmp_path):
    """A finished study."""
    return finish(plan(build(Study, RECIPE), tmp_path))


def finish(jobs, *, objective=None):
    """result.json in every folder, as the verbs write it; ``objective`` if no init is one."""
    for job in jobs:
        result = {"verb": job.verb, "seconds": 2.5, "finished": "2026-01-01"}
        if job.verb in ("pretrain", "finetune"):
            count = {"pretrain": 90, "finetune": 100}[job.verb]
            result["model"] = {"name": "emmamba_atto", "parameters": count}
            result |= {"seed": 5, "objective": "affinity", "metrics": {"loss": count / 1000}}
        if job.verb == "pretrain":
            result["objective"] = objective or job.axes["init"]
        if job.verb == "finetune":
            result["init"] = objective or job.axes["init"]
        if job.verb == "evaluate":
            result["metrics"] = SCORES
        job.folder.mkdir(parents=True)
        (job.folder / "result.json").write_text(json.dumps(result))
    return jobs


def all_finished(jobs, **other):
    return {job.name: "finished" for job in jobs} | other


def change(job, **values):
    file = job.folder / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_row_holds_what_the_runs_of_its_cell_measured(jobs):
    mae, random = collect(jobs, all_finished(jobs))
    assert (mae.size, mae.init, mae.seed, mae.parameters) == ("atto", "mae", 5, 100)
    assert (mae.pretrain_loss, mae.finetune_loss, mae.seconds) == (0.09, 0.1, 12.5)
    assert (mae.voi_split, mae.voi_merge, mae.voi, mae.arand) == (0.5, 0.25, 0.75, 0.125)
    assert random.pretrain_loss is None and random.seconds == 10.0
    assert mae.missing == random.missing == ""


def test_an_init_under_a_name_of_the_study_s_own_is_held_against_what_it_stands_for(tmp_path):
    named = {**RECIPE, "inits": ["half"], "objectives": {"half": {"name": "mae", "ratio": 0.5}}}
    jobs = finish(plan(build(Study, named), tmp_path), objective="mae")
    (row,) = collect(jobs, all_finished(jobs))
    assert row.init == "half" and row.pretrain_loss == 0.09 and not row.missing
    change(jobs[0], objective="half")
    with pytest.raises(DataError, match="objective is 'half', planned: 'mae'"):
        collect(jobs, all_finished(jobs))


def test_each_value_of_an_axis_has_a_row_with_the_pretraining_that_they_share(tmp_path):
    recipe = {**RECIPE, "axes": {"parts": {"all": {}, "fast": {"finetune": {"steps": 2}}}}}
    jobs = finish(plan(build(Study, recipe), tmp_path))
    rows = collect(jobs, all_finished(jobs))
    assert [(row.init, row.axes) for row in rows] == [
        ("mae", {"parts": "all"}), ("mae", {"parts": "fast"}),
        ("random", {"parts": "all"}), ("random", {"parts": "fast"}),
    ]  # fmt: skip
    assert sum(job.verb == "pretrain" for job in jobs) == 1
    assert rows[0].pretrain_loss == rows[1].pretrain_loss == 0.09 and rows[1].seconds == 12.5
    assert list(records(rows)[0])[:5] == ["size", "init", "seed", "parts", "parameters"]
    assert to_csv(rows).splitlines()[0].startswith("size,init,seed,parts,parameters,")
    assert "| parts |" in to_markdown(rows) and "& parts &" in to_latex(rows)


def test_cells_that_differ_in_the_last_stages_only_share_their_fine_tuning(tmp_path):
    axes = {"segment.min_size": [0, 50]}
    jobs = finish(plan(build(Study, {**RECIPE, "axes": axes}), tmp_path))
    rows = collect(jobs, all_finished(jobs))
    assert [row.axes["min_size"] for row in rows] == ["0", "50", "0", "50"]
    assert {row.finetune_loss for row in rows} == {0.1} and not any(row.missing for row in rows)
    assert sum(job.verb == "finetune" for job in jobs) == 2


def test_rows_without_an_axis_that_others_have_leave_its_column_empty():
    rows = [Row(size="a", init="mae", seed=0, axes={"d": "1"}), Row(size="a", init="mae", seed=1)]
    assert axes_of(rows) == ("d",) and values_of(rows[0])["d"] == "1"
    assert [record["d"] for record in records(rows)] == ["1", ""]


def test_a_run_that_is_not_finished_is_named_and_its_numbers_stay_empty(jobs):
    states = all_finished(jobs, **{f"{s}/{LABEL}": "to do" for s in ("segment", "evaluate")})
    row = collect(jobs, states)[0]
    assert row.missing == f"segment/{LABEL}" and row.finetune_loss == 0.1
    assert row.voi is None and row.seconds is None


def test_a_result_of_another_request_does_not_count(jobs):
    row = collect(jobs, all_finished(jobs, **{f"evaluate/{LABEL}": "changed"}))[0]
    assert row.missing == f"evaluate/{LABEL}" and row.voi is None


@pytest.mark.parametrize(
    "place, values",
    [
        (0, {"seed": 4}),
        (0, {"objective": "tokenunify"}),
        (1, {"model": {"name": "emmamba_femto", "parameters": 100}}),
        (1, {"init": "random"}),
        (4, {"verb": "segment"}),
        (4, {"metrics": {"voi": 1.0}}),
        (1, {"metrics": {"loss": None}}),
    ],
)
def test_a_result_that_contradicts_the_plan_or_lacks_a_number_is_an_error(jobs, place, values):
    change(jobs[place], **values)
    with pytest.raises(DataError, match=f"{jobs[place].name}.*{list(values)[0]}"):
        collect(jobs, all_finished(jobs))


def test_csv_keeps_numbers_in_full_and_markdown_lines_up(jobs, tmp_path):
    change(jobs[1], metrics={"loss": 1 / 3})
    rows = collect(jobs, all_finished(jobs, **{"evaluate/atto-random-s5": "to do"}))
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(table[0]) == list(COLUMNS) and float(table[0]["finetune_loss"]) == 1 / 3
    assert table[1]["voi"] == "" and table[1]["missing"] == "evaluate/atto-random-s5"
    lines = to_markdown(rows).splitlines()
    assert len({len(line) for line in lines}) == 1 and " 0.3333 " in lines[2]
    assert " - " in lines[3]
    paths = write_tables(rows, tmp_path / "out")
    assert [path.name for path in paths] == [
        "table.csv", "table.md", "table.tex", "table.json",
    ]  # fmt: skip
    assert json.loads(paths[3].read_text()) == records(rows)


def test_a_table_of_no_rows_has_its_head():
    assert to_csv([]) == ",".join(COLUMNS) + "\n"


def test_latex_has_the_numbers_of_markdown(jobs):
    rows = collect(jobs, all_finished(jobs))
    cells = [line.strip("|").split("|") for line in to_markdown(rows).splitlines()[2:]]
    lines = [line for line in to_latex(rows).splitlines() if line.startswith("atto")]
    for ours, line in zip(cells, lines, strict=True):
        set_ = [cell.strip().replace("--", "-") for cell in line.removesuffix(r" \\").split("&")]
        assert set_ == [cell.strip() for cell in ours]


def test_no_axis_can_be_called_as_a_column_is():
    assert {*study.MEASURED} == {*COLUMNS} - {"size", "init", "seed"}
