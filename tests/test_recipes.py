"""Every recipe and every DeepSpeed file loads, resolves, and builds on the meta device."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch

from tokenunify_scale import finetune, pretrain
from tokenunify_scale.config import build, load_recipe, to_dict
from tokenunify_scale.models import list_models
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.objectives import build_objective
from tokenunify_scale.objectives.curriculum import Weights
from tokenunify_scale.scaling.command import load_study
from tokenunify_scale.scaling.grid.plan import check, plan
from tokenunify_scale.scaling.grid.study import RANDOM, objectives_of
from tokenunify_scale.train.strategy import NEVER_IN_A_FILE, ds_config, load_strategy, strategies

RECIPES = Path(pretrain.__file__).parent / "recipes"
STRATEGIES = sorted(file.stem for file in strategies().glob("*.json"))
STUDIES = [path.stem for path in RECIPES.glob("*.yaml") if "sizes" in load_recipe(path).data]
VERBS = {"pretrain": pretrain.Config, "finetune": finetune.Config}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_resolves_and_its_network_builds(path):
    if path.stem in STUDIES:
        jobs = plan(load_study(path.stem), Path("out"))
        assert jobs
        check(jobs)
        return
    cls = VERBS[path.stem.split("_")[0]]
    config = build(cls, load_recipe(path.stem), where=path.stem)
    assert build(cls, to_dict(config)) == config
    with torch.device("meta"):
        build_chosen(config.model, in_channels=1, out_channels=1)


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_pretrains_with_can_be_built(name):
    # Building TokenUnify asks its curriculum for weights at every thousandth of training.
    for job in plan(load_study(name), Path("out")):
        if job.verb == "pretrain":
            config = build(pretrain.Config, job.arguments)
            with torch.device("meta"):
                network = build_chosen(config.model, in_channels=1, out_channels=1)
                build_objective(config.objective, backbone=network, seed=config.seed)


def test_the_study_of_table_3_has_every_subset_of_the_terms_once_and_no_pretraining():
    study = load_study("table3_objectives")
    learned = [settings.get("terms", Weights._fields) for settings in objectives_of(study).values()]
    subsets = [{*some} for count in (1, 2, 3) for some in combinations(Weights._fields, count)]
    assert len(learned) == len(subsets) == 7 and RANDOM in study.inits
    assert all({*terms} in subsets for terms in learned)
    assert len({frozenset(terms) for terms in learned}) == 7
    assert {settings["name"] for settings in objectives_of(study).values()} == {"tokenunify"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_holds_its_own_keys_only_and_resolves(name):
    strategy = json.loads((strategies() / f"{name}.json").read_text())
    assert not set(NEVER_IN_A_FILE) & set(strategy)
    config = ds_config(load_strategy(name), global_batch=64, clip=1.0, world=8)
    micro = config["train_micro_batch_size_per_gpu"]
    assert micro * config["gradient_accumulation_steps"] * 8 == config["train_batch_size"] == 64
    assert '"auto"' not in json.dumps(config)


def test_every_size_has_its_strategy():
    assert {name.removeprefix("emmamba_") for name in list_models()} <= set(STRATEGIES)
