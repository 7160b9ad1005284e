"""Which runs can be compared, and how each hides patches."""

from pathlib import Path

import pytest

from tokenunify_scale.config import ConfigError, DataError, dump_yaml
from tokenunify_scale.objectives import hiding
from tokenunify_scale.objectives.hiding import Hidden
from tokenunify_scale.objectives.reconstruction_setup import open_comparison, unique_names
from tokenunify_scale.train.checkpoint import Description

VOLUME = "synthetic:seed=3,shape=16x48x48"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the config of a run, or of an export where there is no objective in it."""

    def describe(folder):
        objective, channels = folder.name.split("-")[0], 3 if "rgb" in folder.name else 1
        return Description(
            model={}, in_channels=channels, out_channels=channels, objective=objective
        )

    def make(name, *, crop=(8, 32, 32), told=True, **options):
        folder = tmp_path / name
        folder.mkdir()
        config = {"objective": {"name": name.split("-")[0], **options}, "crop": list(crop)}
        (folder / "config.yaml").write_text(dump_yaml(config if told else {}))
        return folder

    monkeypatch.setattr(hiding, "read_description", describe)
    return make


def compare(*runs, **settings):
    return open_comparison(runs, **{"raw": VOLUME, "crops": 2, **settings})


def test_each_run_hides_as_it_was_trained_and_who_knows_no_patches_as_the_first(run):
    runs = [
        run("byol"),
        run("mae", patch=[4, 8, 8], fill="mean"),
        run("tokenunify", patch=[2, 8, 8], path="snake"),
    ]
    study = compare(*runs)
    mean = Hidden(patch=(4, 8, 8), fill="mean")
    assert [s.hidden for s in study.subjects] == [
        mean, mean, Hidden(patch=(2, 8, 8), path="snake"),
    ]  # fmt: skip
    assert [s.decodes for s in study.subjects] == [False, True, True]
    assert study.source.crop == (8, 32, 32)
    alike = Hidden(patch=(4, 16, 16), path="random", fill="zero")
    given = {"patch": (4, 16, 16), "path": "random", "fill": "zero"}
    assert {s.hidden for s in compare(*runs, **given).subjects} == {alike}


def test_a_reader_is_told_what_a_number_is_not(run):
    runs = [
        run("mae", patch=[4, 8, 8]),
        run("mae-n", patch=[4, 8, 8], targets="normalised"),
        run("byol"),
        run("ms_con_em"),
        run("tokenunify-export", told=False),
    ]
    assert [s.note for s in compare(*runs).subjects] == [
        "",
        "true mean and contrast given",
        "decoder not trained",
        "not trained on hidden patches",
        "",
    ]


def test_names_are_the_folders_and_no_two_are_alike(tmp_path):
    assert unique_names([Path("a/mae"), Path("b/byol")]) == ["mae", "byol"]
    assert unique_names([Path("a/x"), Path("b/x"), Path("b/y")]) == ["a/x", "b/x", "b/y"]
    with pytest.raises(ConfigError, match="given twice"):
        unique_names([Path("a"), Path("a")])


def test_what_cannot_be_compared_is_refused(run):
    mae = run("mae", patch=[4, 8, 8])
    with pytest.raises(ConfigError, match="trained by 'affinity': it gives back no crops"):
        compare(run("affinity"))
    with pytest.raises(ConfigError, match=r"on crops of \(8, 32, 32\), .* on \(4, 32, 32\)"):
        compare(mae, run("mae-2", patch=[4, 8, 8], crop=(4, 32, 32)))
    with pytest.raises(ConfigError, match="learned fill .* give --fill"):
        compare(run("mae-l", patch=[4, 8, 8], fill="learned"))
    with pytest.raises(ConfigError, match="does not say its patch size"):
        compare(run("byol"))
    with pytest.raises(ConfigError, match=r"\(8, 30, 32\) is not a multiple"):
        compare(mae, crop=(8, 30, 32))
    with pytest.raises(ConfigError, match="one patch"):
        compare(mae, crop=(4, 8, 8))
    with pytest.raises(ConfigError, match="takes crops of 3 channel"):
        compare(run("mae-rgb", patch=[4, 8, 8]))
    with pytest.raises(ConfigError, match="takes crops of 1 channel"):
        compare(mae, raw=None, images="photos")
    with pytest.raises(DataError, match="does not fit"):
        compare(mae, crop=(32, 32, 32))


def test_photographs_take_the_place_of_a_volume(run, tmp_path):
    folder = run("mae-rgb", patch=[1, 8, 8], crop=(1, 32, 32))
    with pytest.raises(DataError, match="empty"):
        (tmp_path / "empty").mkdir()
        compare(folder, raw=None, images=str(tmp_path / "empty"))
