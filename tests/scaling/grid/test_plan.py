import dataclasses

import pytest

from tokenunify_scale.config import ConfigError, build
from tokenunify_scale.scaling.command import load_study
from tokenunify_scale.scaling.grid.plan import placeholders, plan, without
from tokenunify_scale.scaling.grid.study import Study

RECIPE = {
    "name": "tiny_study",
    "sizes": ["femto", "atto"],
    "inits": ["mae", "random"],
    "prepare": {
        "pretraining": {"volumes": ["synthetic:seed=1"], "crops": 3},
        "training": {"volumes": ["synthetic:seed=2"], "write": "hdf5"},
    },
    "pretrain": {"shards": ["{pretraining}"], "steps": 5, "model": {"preset": "official"}},
    "finetune": {"volume": "{training}/synthetic.h5:raw", "steps": 7},
    "evaluate": {"labels": "{training}/synthetic.h5:labels"},
}


def study(**changes):
    return build(Study, {**RECIPE, **changes})


def by_name(jobs):
    return {job.name: job for job in jobs}


def test_each_cell_is_a_chain_and_random_has_no_pretraining(tmp_path):
    jobs = plan(study(), tmp_path)
    assert [job.name for job in jobs[:12]] == [
        "prepare/pretraining",
        "prepare/training",
        "pretrain/femto-mae-s0",
        "finetune/femto-mae-s0",
        "predict/femto-mae-s0",
        "segment/femto-mae-s0",
        "evaluate/femto-mae-s0",
        "finetune/femto-random-s0",
        "predict/femto-random-s0",
        "segment/femto-random-s0",
        "evaluate/femto-random-s0",
        "pretrain/atto-mae-s0",
    ]
    assert len(jobs) == 2 + 2 * (5 + 4)


def test_every_need_stands_before_the_job_that_needs_it(tmp_path):
    seen = set()
    for job in plan(study(seeds=[0, 1]), tmp_path):
        assert seen.issuperset(job.needs)
        seen.add(job.name)


def test_a_name_in_braces_becomes_the_folder_of_that_data_and_a_need(tmp_path):
    job = by_name(plan(study(), tmp_path))["finetune/atto-mae-s0"]
    assert job.arguments["volume"] == f"{tmp_path}/prepare/training/synthetic.h5:raw"
    assert job.arguments["init"] == f"{tmp_path}/pretrain/atto-mae-s0"
    assert job.needs == ("prepare/training", "pretrain/atto-mae-s0")
    assert job.folder == tmp_path / "finetune" / "atto-mae-s0"


def test_the_grid_names_model_objective_and_seed_and_keeps_options_beside_the_name(tmp_path):
    jobs = by_name(plan(study(seeds=[3]), tmp_path))
    arguments = jobs["pretrain/atto-mae-s3"].arguments
    assert arguments["model"] == {"preset": "official", "name": "emmamba_atto"}
    assert arguments["objective"] == {"name": "mae"} and arguments["seed"] == 3
    assert jobs["finetune/atto-random-s3"].arguments["init"] == "random"
    assert jobs["segment/atto-mae-s3"].arguments["affinities"].endswith("predict/atto-mae-s3")


def test_a_size_may_have_some_of_the_inits_only(tmp_path):
    jobs = plan(study(only={"atto": ["random"]}), tmp_path)
    cells = {job.name for job in jobs if job.verb == "finetune"}
    assert cells == {f"finetune/{c}-s0" for c in ("femto-mae", "femto-random", "atto-random")}
    with pytest.raises(ConfigError, match="only.nano is"):
        study(only={"nano": ["random"]})


def test_axes_change_stages_and_share_the_pretraining_that_none_of_them_changes(tmp_path):
    axes = {"speed": {"all": {}, "fast": {"finetune": {"steps": 2, "optim": {"lr": 1}}}}}
    changed = study(axes=axes, finetune={**RECIPE["finetune"], "optim": {"clip": 2}})
    jobs = by_name(plan(changed, tmp_path))
    assert len(jobs) == 2 + 2 * (1 + 2 * 4 + 2 * 4)
    fast = jobs["finetune/atto-mae-s0-fast"]
    assert fast.arguments["steps"] == 2 and fast.arguments["optim"] == {"clip": 2, "lr": 1}
    assert jobs["finetune/atto-mae-s0-all"].arguments["steps"] == 7
    assert fast.arguments["init"] == f"{tmp_path}/pretrain/atto-mae-s0"
    assert fast.axes["speed"] == "fast" and "speed" not in jobs["pretrain/atto-mae-s0"].axes
    own = by_name(plan(study(axes={"pretrain.steps": [9]}), tmp_path))
    assert own["pretrain/atto-mae-s0-9"].arguments["steps"] == 9


def test_an_axis_is_shared_up_to_the_stage_that_it_changes_and_axes_multiply(tmp_path):
    axes = {"finetune.steps": [1, 2], "segment.min_size": [0, 50]}
    jobs = by_name(plan(study(sizes=["atto"], inits=["mae"], axes=axes), tmp_path))
    cells = {verb: sum(job.verb == verb for job in jobs.values()) for verb in ("pretrain",
             "finetune", "predict", "segment", "evaluate")}  # fmt: skip
    assert [*cells.values()] == [1, 2, 2, 4, 4]
    last = jobs["evaluate/atto-mae-s0-2-50"]
    assert last.axes == {"size": "atto", "init": "mae", "seed": 0, "steps": "2", "min_size": "50"}
    assert last.arguments["affinities"] == f"{tmp_path}/predict/atto-mae-s0-2"


def test_names_of_axes_and_words_stand_for_themselves_in_settings(tmp_path):
    axes = {"cube": {"a": {}, "b": {}}}
    texts = {"volume": "{place}/{cube}.h5:raw", "steps": 7}
    asked = study(axes=axes, words={"place": "there"}, finetune=texts)
    jobs = by_name(plan(asked, tmp_path))
    assert jobs["finetune/atto-random-s0-b"].arguments["volume"] == "there/b.h5:raw"
    assert "cube" not in jobs["pretrain/atto-mae-s0"].axes


def test_models_may_be_called_otherwise_than_they_are_registered(tmp_path):
    axes = {"backbone": {"mamba": {}, "transformer": {}}}
    models = {"mamba-1M": "emmamba_w6", "transformer-1M": "unetr_100m"}
    asked = study(sizes=["1M"], axes=axes, model="{backbone}-{size}", models=models)
    jobs = by_name(plan(asked, tmp_path))
    assert jobs["pretrain/1M-mae-s0-mamba"].arguments["model"]["name"] == "emmamba_w6"
    assert jobs["finetune/1M-mae-s0-transformer"].arguments["model"]["name"] == "unetr_100m"


def test_rates_by_rule_yield_to_those_of_a_size_and_these_to_an_axis(tmp_path):
    asked = study(
        sizes=["nano", "femto", "atto"],
        lr={"lr": 5e-3, "size": "nano"},
        by_size={"femto": {"finetune": {"optim": {"lr": 0.1}}}},
        axes={"speed": {"rule": {}, "own": {"finetune": {"optim": {"lr": 0.2}}}}},
    )
    jobs = by_name(plan(asked, tmp_path))
    rates = {
        name: jobs[f"finetune/{name}"].arguments["optim"]["lr"]
        for name in ("nano-mae-s0-rule", "femto-mae-s0-rule", "atto-mae-s0-rule", "atto-mae-s0-own")
    }
    assert [*rates.values()] == [5e-3, 0.1, 9.8e-3, 0.2]
    assert jobs["pretrain/femto-mae-s0"].arguments["optim"]["lr"] == 7e-3


def test_a_budget_decides_the_steps_of_each_size(tmp_path):
    stage = {"global_batch": 2, "crop": [16, 64, 64], "shards": ["x"]}
    asked = study(budget={"pretrain": {"pflop": 0.02}}, pretrain=stage)
    steps = [by_name(plan(asked, tmp_path))[f"pretrain/{s}-mae-s0"].arguments["steps"]
             for s in ("femto", "atto")]  # fmt: skip
    assert 1 < steps[0] < steps[1] / 2


def test_a_changed_setting_changes_the_request_of_its_stage_and_of_all_after_it(tmp_path):
    old = by_name(plan(study(), tmp_path))
    new = by_name(plan(study(pretrain={**RECIPE["pretrain"], "steps": 6}), tmp_path))
    changed = {name for name in old if old[name].request != new[name].request}
    stages = ("pretrain", "finetune", "predict", "segment", "evaluate")
    assert changed == {f"{s}/{size}-mae-s0" for s in stages for size in ("femto", "atto")}


def test_requests_do_not_depend_on_where_the_study_lies(tmp_path):
    here, there = plan(study(), tmp_path), plan(study(), "runs/elsewhere")
    assert [job.request for job in here] == [job.request for job in there]
    assert len({job.request for job in here}) == len(here)


def test_an_unknown_name_in_braces_is_told_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="finetune.volume.*did you mean 'training'"):
        plan(study(finetune={"volume": "{trainin}/synthetic.h5:raw"}), tmp_path)


@pytest.mark.parametrize("stage, key", [("finetune", "seed"), ("predict", "model")])
def test_what_the_grid_decides_cannot_be_set(tmp_path, stage, key):
    with pytest.raises(ConfigError, match=f"{stage}.{key}"):
        plan(study(**{stage: {**RECIPE.get(stage, {}), key: 4}}), tmp_path)


def test_placeholders_are_found_at_any_depth():
    assert placeholders({"a": ["{x}/y", 3], "b": {"c": "{z}{x}"}}) == ["x", "z", "x"]


def test_without_a_job_go_those_that_need_it_and_those_that_only_it_needed(tmp_path):
    jobs = plan(study(), tmp_path)
    left = {job.name for job in without(jobs, ["finetune/atto-mae-s0"])}
    gone = {f"{stage}/atto-mae-s0" for stage in ("pretrain", "finetune", "predict", "segment",
            "evaluate")}  # fmt: skip
    assert left == {job.name for job in jobs} - gone
    names = [job.name for job in without(jobs, [j.name for j in jobs if j.axes.get("init")])]
    assert names == []  # data that nothing needs any more
    assert [job.name for job in without(jobs, [])] == [job.name for job in jobs]


def test_the_demo_is_two_sizes_by_four_initialisations_and_its_seeds_can_be_set():
    demo = load_study("cpu_demo", overrides=["seeds=[0, 1]", "finetune.steps=9"])
    assert len(demo.sizes) == 2 and len(demo.inits) == 4 and demo.seeds == (0, 1)
    jobs = plan(demo, "out")
    assert len(jobs) == 3 + 2 * 2 * (3 * 5 + 4)
    assert {job.arguments["steps"] for job in jobs if job.verb == "finetune"} == {9}
    assert dataclasses.replace(demo, seeds=(0,)).seeds == (0,)


def test_an_unknown_recipe_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cpu_demo'"):
        load_study("cpu_dmo")
