import pytest

from tokenunify_scale.config import ConfigError, build
from tokenunify_scale.models import build_model
from tokenunify_scale.scaling.costs.costs import costs
from tokenunify_scale.scaling.grid.plan import plan
from tokenunify_scale.scaling.grid.study import Study

RECIPE = {
    "name": "s",
    "sizes": ["atto"],
    "inits": ["mae", "random"],
    "prepare": {
        "shards": {
            "volumes": ["synthetic:seed=1,shape=16x64x64"],
            "crops": 3,
            "crop": [16, 32, 32],
        },
        "training": {"volumes": ["synthetic:seed=2,shape=16x64x64"], "write": "hdf5"},
        "test": {"volumes": ["synthetic:seed=3,shape=16x64x96"], "write": "hdf5"},
    },
    "pretrain": {"shards": ["{shards}"], "steps": 6, "global_batch": 2, "save_every": 2},
    "finetune": {
        "volume": "{training}/synthetic.h5:raw",
        "labels": "{training}/synthetic.h5:labels",
        "crop": [16, 32, 32],
        "steps": 5,
        "global_batch": 4,
    },
    "predict": {"volume": "{test}/synthetic.h5:raw", "tile": [16, 32, 32], "overlap": [0, 0, 0]},
    "segment": {},
    "evaluate": {"labels": "{test}/synthetic.h5:labels"},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("costs")
    jobs = plan(build(Study, RECIPE), out)
    assert not list(out.iterdir())
    return {name: cost for name, cost in costs(jobs).items()}


def test_a_training_costs_the_flops_of_its_steps_and_crops(found):
    pretrained, tuned = found["pretrain/atto-mae-s0"], found["finetune/atto-random-s0"]
    assert pretrained.flops == 6 * pretrained.work and tuned.flops == 5 * tuned.work
    # Nearly the same network and crop: 2 crops a step, and 4.
    assert tuned.work / 4 == pytest.approx(pretrained.work / 2, rel=0.05)
    assert pretrained.kind == "pretrain mae" and tuned.kind == "finetune"
    assert found["finetune/atto-mae-s0"].work == tuned.work


def test_a_prediction_has_the_parameters_of_its_network(found):
    whole = sum(p.numel() for p in build_model("emmamba_atto").parameters())
    assert found["predict/atto-mae-s0"].parameters == found["pretrain/atto-mae-s0"].parameters
    assert found["predict/atto-mae-s0"].parameters == whole


def test_a_training_keeps_its_newest_checkpoints_and_its_weights(found):
    numbers = pytest.approx(found["predict/atto-mae-s0"].parameters, rel=0.05)
    assert found["pretrain/atto-mae-s0"].disk / (2 * 12 + 4) == numbers
    assert found["finetune/atto-random-s0"].disk / (12 + 4) == numbers


def test_data_that_are_not_there_yet_are_known_from_their_plan(found):
    voxels = 16 * 64 * 96
    predicted, segmented = found["predict/atto-mae-s0"], found["segment/atto-mae-s0"]
    assert predicted.disk == 3 * 4 * voxels and predicted.steps is None
    assert predicted.flops == predicted.work > 0 and predicted.memory > 2**28
    assert segmented.work == voxels and segmented.flops is None and segmented.memory is None
    assert found["evaluate/atto-random-s0"].work == voxels
    assert found["prepare/test"].disk == voxels and found["prepare/shards"].disk > 3 * 16 * 32 * 32


def test_what_cannot_be_known_is_not_guessed(tmp_path):
    asked = {**RECIPE, "inits": ["random"], "predict": {"volume": str(tmp_path / "none.h5:raw")}}
    found = costs(plan(build(Study, asked), tmp_path))
    assert found["predict/atto-random-s0"].work is None
    assert found["segment/atto-random-s0"].flops is None


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path):
    with pytest.raises(ConfigError) as error:
        costs(plan(build(Study, RECIPE), tmp_path), world=3)
    first, second = str(error.value).splitlines()
    assert first == "pretrain/atto-mae-s0: global_batch 2 is not a multiple of 3 ranks"
    assert second.startswith("finetune/atto-mae-s0: global_batch 4")
