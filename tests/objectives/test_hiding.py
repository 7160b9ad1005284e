"""How runs hid patches: what their folders tell, and the same done again."""

import pytest
import torch

from tokenunify_scale.config import ConfigError, dump_yaml
from tokenunify_scale.objectives import hiding
from tokenunify_scale.objectives.hiding import Hidden, check_channels, read_facts, settle
from tokenunify_scale.train.checkpoint import Description

CROP = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The facts of a run of an objective."""

    def make(objective="tokenunify", **options):
        described = Description(
            model={"name": "emmamba_atto"}, in_channels=1, out_channels=1, objective=objective
        )
        monkeypatch.setattr(hiding, "read_description", lambda folder: described)
        config = {"objective": {"name": objective, **options}, "crop": [8, 32, 32]}
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        return read_facts(tmp_path)

    return make


def test_a_run_tells_patch_path_fill_crop_and_targets(run):
    facts = run(patch=[4, 8, 8], path="snake", fill="mean", targets="normalised")
    assert facts.hiding == {"patch": (4, 8, 8), "path": "snake", "fill": "mean"}
    assert facts.crop == (8, 32, 32) and facts.normalised
    assert run("mae").hiding == {"patch": (4, 16, 16), "fill": "noise"}  # it has no path
    assert run("byol").hiding == {} and not run("byol").normalised


def test_what_is_given_comes_before_what_is_known(run):
    facts = run(patch=[4, 8, 8], path="snake")
    given = {"patch": None, "path": "random", "fill": "zero"}
    found = settle(facts, known=facts.hiding, given=given)
    assert found == Hidden(patch=(4, 8, 8), path="random", fill="zero")


def test_channels_that_differ_are_refused(run):
    check_channels(run(), channels=1, source="a.h5")
    with pytest.raises(ConfigError, match="takes crops of 1 channel.*photos has 3"):
        check_channels(run(), channels=3, source="photos")


def test_paths_and_noise_are_a_function_of_seed_and_number():
    hidden = Hidden(patch=(2, 8, 8), path="random")
    one = hidden.order(CROP, seed=1, number=2)
    assert torch.equal(one, hidden.order(CROP, seed=1, number=2))
    assert not torch.equal(one, hidden.order(CROP, seed=1, number=3))
    both = hidden.content(torch.stack([CROP, CROP]), seed=1, first=2)
    assert torch.equal(both[1:], hidden.content(CROP[None], seed=1, first=3))
    assert not torch.equal(both[0], both[1])


def test_relevance_ranks_patches_by_the_crop():
    crop = CROP.clone()
    crop[:, 2:, 8:, :8] = torch.arange(2.0).repeat(4)  # as much contrast as there can be
    assert Hidden(patch=(2, 8, 8), path="relevance").order(crop, seed=0, number=0)[0] == 6


def test_zero_and_mean_are_what_they_say():
    assert Hidden(patch=(2, 8, 8), fill="mean").content(CROP[None], seed=0, first=0) == "mean"
    assert Hidden(patch=(2, 8, 8), fill="zero").content(CROP[None], seed=0, first=0) == 0
