import json
from types import SimpleNamespace

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.pages.collect import Row
from tokenunify_scale.scaling.pages.comparison import compare, comparison, conditions


def row(size, init, voi, *, seed=0, **axes):
    return Row(size=size, init=init, seed=seed, voi=voi, arand=voi and voi / 10, axes=axes)


def lines_of(table):
    return {
        line[table.columns.index("method")]: dict(zip(table.columns, line, strict=True))
        for line in table.rows
    }


def test_table_2_has_the_paper_s_methods_in_its_order_beside_ours():
    ours = [
        row("superhuman", "random", 2.0),
        row("emmamba_tiny", "tokenunify", 1.0),
        row("emmamba_tiny", "tokenunify", 1.2, seed=1),
        row("emmamba_tiny", "random", 3.0),
        row("mala", "random", None),
    ]
    table = comparison(ours, "table2_ac34")
    found = lines_of(table)
    assert [*found][:5] == ["Superhuman", "MALA", "PEA", "UNETR", "EMmamba"]
    assert found["Superhuman"]["ours VOI"] == "2.0000"
    assert found["Superhuman"]["paper VOI"] == "1.1445"
    assert found["TokenUnify"]["ours VOI"] == "1.1000 +- 0.1414 (n = 2)"
    assert found["TokenUnify"]["ours ARAND"].startswith("0.1100")
    assert found["Random"]["ours VOI"] == found["EMmamba"]["ours VOI"] == "3.0000"
    for name in ("MALA", "PEA", "BYOL"):
        assert found[name]["ours VOI"] == found[name]["ours ARAND"] == "not run"
    assert len(found) == 11 and "AC3/4, waterz" in table.notes[0]


def test_table_1_is_one_block_unless_an_axis_names_its_data_sets():
    plain = comparison([row("emmamba_tiny", "mae", 1.5)], "table1_methods")
    assert len(plain.rows) == 11 and "wafer4, waterz; 1200 epochs" in plain.notes[0]
    ours = [
        row("emmamba_tiny", "mae", 1.5, test="wafer4", post="waterz"),
        row("emmamba_tiny", "mae", 1.1, test="wafer36-2", post="waterz"),
        row("emmamba_tiny", "mae", 1.7, test="wafer4", post="multicut"),
    ]
    table = comparison(ours, "table1_methods")
    assert table.columns[:2] == ("dataset", "post") and len(table.rows) == 44
    found = {line[:2]: line[3:5] for line in table.rows if line[2] == "MAE"}
    assert found == {
        ("wafer4", "waterz"): ("1.5000", "1.3248"),
        ("wafer36-2", "waterz"): ("1.1000", "0.6161"),
        ("wafer4", "lmc"): ("1.7000", "2.0709"),
        ("wafer36-2", "lmc"): ("not run", "1.1819"),
    }


def test_table_3_keeps_terms_and_no_pretraining_apart():
    ours = [
        row("femto", init, n) for n, init in enumerate(("random-token", "random", "next-all"), 1)
    ]
    found = lines_of(comparison(ours, "table3_objectives"))
    assert found["random"]["ours VOI"] == "1.0000" and found["random"]["paper VOI"] == "1.268"
    assert found["femto random"]["ours VOI"] == "2.0000"
    assert found["femto random"]["paper VOI"] == "-"
    assert found["femto next-all"]["paper VOI"] == "-"
    assert found["random+next+next-all"]["ours VOI"] == "not run"


def test_table_4_is_read_from_whichever_axis_names_the_parts():
    ours = [
        row("tiny", "tokenunify", 1.0, parts="mamba"),
        row("tiny", "tokenunify", 0.9, parts="all"),
    ]
    found = lines_of(comparison(ours, "Table 4"))
    assert found["mamba"]["ours VOI"] == "1.0000" and found["mamba"]["paper VOI"] == "1.1362"
    assert found["mamba+encoder+decoder"]["ours VOI"] == "0.9000"
    assert found["encoder"]["ours VOI"] == "not run"


def test_several_sizes_have_a_line_each():
    ours = [row("femto", "mae", 1.0), row("atto", "mae", 2.0)]
    found = lines_of(comparison(ours, "table1_methods"))
    assert found["MAE (femto)"]["ours VOI"] == "1.0000"
    assert found["MAE (atto)"]["paper VOI"] == "1.3248"


@pytest.mark.parametrize("form", ["markdown", "latex", "html", "text"])
def test_every_form_says_what_differs(form):
    done = compare([], "table2_ac34", form=form, conditions=["Ours, scored on: x."])
    assert done.count("not run") == 22 and "Ours, scored on: x." in done and "TokenUnify" in done


def test_no_such_table_is_refused():
    with pytest.raises(ConfigError, match="no table 'table5'.*table"):
        compare([], "table5")


def test_conditions_are_what_the_finished_runs_say(tmp_path):
    said = {
        "pretrain": {"steps": 20, "crops_seen": 1280, "shards": ["a/shards/paper"]},
        "finetune": {"steps": 500, "crops_seen": 1000, "volume": "data/wafer.h5:raw"},
        "evaluate": {"labels": "data/fib.h5:labels", "start": [0, 0, 0], "stop": [9, 9, 9]},
        "predict": {},
    }
    jobs = []
    for verb, result in said.items():
        folder = tmp_path / verb
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result))
        jobs += [SimpleNamespace(verb=verb, folder=folder)] * 2
    jobs.append(SimpleNamespace(verb="finetune", folder=tmp_path / "not_yet"))
    assert conditions(jobs) == (
        "Ours, pretraining: 20 steps, 1,280 crops in all, from shards/paper.",
        "Ours, fine-tuning: 500 steps, 1,000 crops in all, from data/wafer.h5:raw.",
        "Ours, scored on: data/fib.h5:labels, voxels [0, 0, 0] to [9, 9, 9].",
    )
