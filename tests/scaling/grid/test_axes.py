import pytest

from tokenunify_scale.scaling.grid.axes import merged, read_axes

KNOWN = {"stages": ("pretrain", "finetune"), "taken": ("size", "seed")}


def test_an_axis_of_a_setting_is_called_by_its_last_word_and_its_values_by_themselves():
    found = read_axes({"finetune.optim.lr": [1e-3, "5e-3"]}, **KNOWN)
    assert found == {
        "lr": {
            "0.001": {"finetune": {"optim": {"lr": 1e-3}}},
            "5e-3": {"finetune": {"optim": {"lr": "5e-3"}}},
        }
    }


def test_values_that_cannot_stand_in_a_folder_s_name_get_one_that_can():
    found = read_axes({"finetune.sections": ["0:65", [0, 130]]}, **KNOWN)
    assert list(found["sections"]) == ["0_65", "0_130"]
    assert found["sections"]["0_130"] == {"finetune": {"sections": [0, 130]}}


def test_an_axis_of_anything_keeps_the_names_it_was_given():
    parts = {"mamba": {"finetune": {"train": ["mamba"]}}, "all": {}}
    assert read_axes({"parts": parts}, **KNOWN) == {"parts": parts}


@pytest.mark.parametrize(
    "axes, words",
    [
        ({"size": {"a": {}}}, "axes.size: names are .*taken: size, seed"),
        ({"a b": {"a": {}}}, "axes.a b: names"),
        ({"finetune.seed": [1]}, "axes.finetune.seed: names"),
        ({"finetune.lr": [1], "pretrain.lr": [1]}, "axes.pretrain.lr: names"),
        ({"finetune.lr": []}, r"axes.finetune.lr is \[\], expected STAGE.SETTING"),
        ({"prepare.lr": [1]}, "axes.prepare.lr is .*expected STAGE.SETTING"),
        ({"finetune.lr": [1, 1]}, "axes.finetune.lr has 1 twice"),
        ({"lr": [1]}, r"axes.lr is \[1\], expected {VALUE"),
        ({"x": {"a/b": {}}}, "axes.x.a/b: labels"),
        ({"x": {"..": {}}}, r"axes.x...: labels"),
        ({"x": {"a": 3}}, "axes.x.a is 3, expected settings of some"),
        ({"x": {"a": {"prepare": {}}}}, "axes.x.a is .*expected settings of some"),
        ({"x": {"a": {"finetune": 3}}}, "axes.x.a.finetune is 3, expected settings"),
    ],
)
def test_an_axis_without_a_usable_name_value_or_stage_is_refused(axes, words):
    with pytest.raises(ValueError, match=words):
        read_axes(axes, **KNOWN)


def test_settings_are_changed_key_by_key_and_stay_as_they_were():
    settings = {"optim": {"lr": 1, "clip": 2}, "steps": 7}
    changed = merged(settings, {"optim": {"lr": 3}, "crop": {"z": 1}})
    assert changed == {"optim": {"lr": 3, "clip": 2}, "steps": 7, "crop": {"z": 1}}
    assert settings == {"optim": {"lr": 1, "clip": 2}, "steps": 7}
    assert merged({"crop": [1, 2]}, {"crop": [3]}) == {"crop": [3]}
