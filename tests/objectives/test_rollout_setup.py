"""What a rollout takes from a run's folder, and what must be said where the run does not."""

import pytest

from tokenunify_scale.config import ConfigError, DataError, dump_yaml
from tokenunify_scale.objectives import hiding
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.rollout_setup import open_study
from tokenunify_scale.train.checkpoint import Description

VOLUME = "synthetic:seed=3,shape=16x48x48"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the config of a run of an objective, and the header of its weights."""

    def make(objective="tokenunify", *, crop=(8, 32, 32), shards="nowhere", channels=1, **options):
        described = Description(
            model={"name": "emmamba_atto"},
            in_channels=channels,
            out_channels=channels,
            objective=objective,
        )
        monkeypatch.setattr(hiding, "read_description", lambda folder: described)
        config = {"objective": {"name": objective, **options}, "crop": crop, "shards": [shards]}
        config["crop"] = None if crop is None else list(crop)
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        return tmp_path

    return make


def study(folder, **given):
    return open_study(folder, VOLUME, **{"crops": 2, "prefix": 0.25, **given})


def test_patches_path_and_crop_are_the_runs(run):
    found = study(run(patch=[4, 8, 8], path="snake"))
    assert found.hidden == Hidden(patch=(4, 8, 8), path="snake")
    assert (
        found.source.crop == (8, 32, 32) and found.visible == 8 and found.objective == "tokenunify"
    )


@pytest.mark.parametrize("objective", ["mae", "autoregressive"])
def test_every_objective_of_patches_can_be_rolled_out(run, objective):
    assert study(run(objective, patch=[4, 8, 8])).hidden == Hidden(patch=(4, 8, 8))


def test_what_is_given_comes_before_what_the_run_says(run):
    folder = run(patch=[4, 8, 8])
    found = study(folder, patch=(2, 16, 16), path="random", fill="mean", crop=(4, 32, 32))
    assert found.hidden == Hidden(patch=(2, 16, 16), path="random", fill="mean")
    assert found.source.crop == (4, 32, 32) and found.visible == 2


def test_the_stored_crop_stands_in_where_the_run_names_none(run, demo):
    folder = run(crop=None, shards=str(demo / "shards"), patch=[4, 8, 8])
    assert study(folder).source.crop == (8, 32, 32)
    with pytest.raises(ConfigError, match="does not say its crop: give --crop"):
        study(run(crop=None, patch=[4, 8, 8]))


def test_an_export_needs_the_patch_and_the_crop(run):
    folder = run()
    (folder / "config.yaml").write_text(dump_yaml({"run": "elsewhere", "out": "here"}))
    with pytest.raises(ConfigError, match="does not say its patch size: give --patch"):
        study(folder)
    found = study(folder, patch=(4, 8, 8), crop=(8, 32, 32))
    assert found.hidden == Hidden(patch=(4, 8, 8), path="raster", fill="noise")


@pytest.mark.parametrize("prefix, visible", [(0.001, 1), (0.5, 16), (0.999, 31)])
def test_at_least_a_patch_is_shown_and_one_predicted(run, prefix, visible):
    assert study(run(patch=[4, 8, 8]), prefix=prefix).visible == visible


def test_a_run_that_predicts_no_gray_values_is_refused(run):
    with pytest.raises(ConfigError, match="trained by 'affinity', which predicts no patches"):
        study(run("affinity"))
    with pytest.raises(ConfigError, match="normalised patches"):
        study(run("mae", patch=[4, 8, 8], targets="normalised"))
    with pytest.raises(ConfigError, match="takes crops of 3 channel"):
        study(run("mae", patch=[4, 8, 8], channels=3))
    learned = run("mae", patch=[4, 8, 8], fill="learned")
    with pytest.raises(ConfigError, match="learned fill .* give --fill"):
        study(learned)
    assert study(learned, fill="mean").hidden.fill == "mean"


def test_sizes_that_do_not_fit_are_refused(run):
    folder = run(patch=[4, 8, 8])
    with pytest.raises(ConfigError, match=r"\(8, 30, 32\) is not a multiple"):
        study(folder, crop=(8, 30, 32))
    with pytest.raises(ConfigError, match="one patch"):
        study(folder, crop=(4, 8, 8))
    with pytest.raises(DataError, match=r"\(32, 32, 32\) does not fit into \(16, 48, 48\)"):
        study(folder, crop=(32, 32, 32))
    with pytest.raises(ConfigError, match="sections 2 to 20"):
        study(folder, sections=(2, 20))
    with pytest.raises(DataError, match=r"does not fit into \(2, 48, 48\)"):
        study(folder, sections=(2, 4))


def test_an_unknown_path_is_refused_before_anything_is_computed(run):
    with pytest.raises(ConfigError, match="spiral"):
        study(run(patch=[4, 8, 8]), path="spiral")
