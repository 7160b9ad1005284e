import pytest

from tokenunify_scale.config import ConfigError, build
from tokenunify_scale.scaling.grid.plan import check, plan
from tokenunify_scale.scaling.grid.study import Study, objectives_of

RECIPE = {
    "name": "terms",
    "sizes": ["atto"],
    "inits": ["one+two", "mae", "random"],
    "objectives": {
        "one+two": {"name": "tokenunify", "terms": ["random", "next"], "head": "dense"},
        "unused": {"name": "mae", "ratio": 0.9},
    },
}


def study(**changes):
    return build(Study, {**RECIPE, **changes})


def by_name(jobs):
    return {job.name: job for job in jobs}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sizes": []}, "sizes"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"threads": 0}, "threads"),
        ({"prepare": {"init": {}}}, "prepare.init"),
        ({"prepare": {"a-b": {}}}, "prepare.a-b"),
        ({"prepare": {"data": "x"}}, "prepare.data"),
        ({"pretrian": {}}, "did you mean 'pretrain'"),
        ({"axes": {"seed": {"a": {}}}}, "axes.seed: names are"),
        ({"axes": {"x": {"a b": {}}}}, "axes.x.a b: labels are"),
        ({"words": {"size": "x"}}, "words.size is 'x'"),
        ({"by_size": {"nano": {}}}, "by_size.nano is {}: expected a size of"),
        ({"by_size": {"atto": {"x": {}}}}, "by_size.atto is"),
        ({"lr": {"size": "nano"}}, "lr.lr is missing"),
        ({"budget": {"pretrain": {"crops": -1}}}, "budget.pretrain: a budget is one of"),
        ({"budget": {"predict": {"crops": 1}}}, "unknown key budget.predict"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        study(**changes)


@pytest.mark.parametrize(
    "objectives, words",
    [
        ({"random": {"name": "mae"}}, "objectives.random: the name is taken, as are random"),
        ({"byol": {"name": "mae"}}, "objectives.byol: the name is taken"),
        ({"a/b": {"name": "mae"}}, "objectives.a/b: names are letters, digits"),
        ({"..": {"name": "mae"}}, r"objectives...: names are letters, digits"),
        ({"a,b": {"name": "mae"}}, "objectives.a,b: names are letters, digits"),
        ({"": {"name": "mae"}}, "objectives.: names are letters, digits"),
        ({"new": "mae"}, "objectives.new is 'mae', expected {name: OBJECTIVE"),
        ({"new": {"ratio": 0.5}}, "objectives.new is .*expected {name: OBJECTIVE"),
        ({"new": {"name": "maw"}}, "objectives.new.name is 'maw': did you mean 'mae'"),
    ],
)
def test_an_objective_without_a_usable_name_or_settings_is_refused(objectives, words):
    with pytest.raises(ConfigError, match=words) as told:
        study(inits=["mae"], objectives=objectives)
    assert "\n" not in str(told.value)


def test_an_init_that_is_nothing_is_told_with_the_nearest_of_all_names():
    with pytest.raises(ConfigError, match=r"inits has 'one\+tow': did you mean 'one\+two'"):
        study(inits=["one+tow"])


def test_an_init_stands_for_its_settings_and_names_its_folders(tmp_path):
    jobs = by_name(plan(study(), tmp_path))
    job = jobs["pretrain/atto-one+two-s0"]
    assert job.arguments["objective"] == RECIPE["objectives"]["one+two"]
    assert job.axes["init"] == "one+two" and job.folder.name == "atto-one+two-s0"
    assert jobs["finetune/atto-one+two-s0"].arguments["init"] == str(job.folder)
    assert jobs["pretrain/atto-mae-s0"].arguments["objective"] == {"name": "mae"}
    assert not any("unused" in name or "pretrain/atto-random" in name for name in jobs)
    check(job for job in jobs.values() if job.verb == "pretrain")


def test_shared_settings_go_to_the_objectives_that_have_them_below_their_own():
    shared = {"patch": [4, 8, 8], "ratio": 0.5, "head": "perceiver"}
    inits = ["one+two", "autoregressive", "unused", "byol"]
    found = objectives_of(study(inits=inits, pretrain={"objective": shared}))
    assert list(found) == inits
    assert found["one+two"] == {"patch": [4, 8, 8], "ratio": 0.5, **RECIPE["objectives"]["one+two"]}
    assert found["autoregressive"] == {"name": "autoregressive", "patch": [4, 8, 8]}
    assert found["unused"] == {"name": "mae", "patch": [4, 8, 8], "ratio": 0.9}
    assert found["byol"] == {"name": "byol"}


def test_a_shared_setting_may_fit_none_of_the_inits_but_must_fit_some_objective():
    shared = {"objective": {"ratio": 0.5}}
    assert objectives_of(study(inits=["random"], pretrain=shared)) == {}
    told = "unknown key pretrain.objective.ratoi: did you mean 'ratio'"
    with pytest.raises(ConfigError, match=told):
        objectives_of(study(pretrain={"objective": {"ratoi": 0.5}}))


@pytest.mark.parametrize("objective", ["mae", {"name": "mae", "ratio": 0.5}])
def test_the_grid_decides_what_is_learned(objective):
    with pytest.raises(ConfigError, match="pretrain.objective.name is decided by the grid"):
        objectives_of(study(pretrain={"objective": objective}))


def test_a_setting_that_a_named_objective_does_not_have_is_told_before_anything_runs(tmp_path):
    wrong = study(inits=["x"], objectives={"x": {"name": "mae", "terms": ["next"]}})
    with pytest.raises(ConfigError, match="pretrain: unknown key objective.terms"):
        check(plan(wrong, tmp_path))


def test_names_are_not_part_of_what_is_asked_of_a_pretraining(tmp_path):
    plain = by_name(plan(study(inits=["mae"], objectives={}), tmp_path))
    named = by_name(plan(study(inits=["x"], objectives={"x": {"name": "mae"}}), tmp_path))
    one, two = plain["pretrain/atto-mae-s0"], named["pretrain/atto-x-s0"]
    assert one.request == two.request and one.folder != two.folder
