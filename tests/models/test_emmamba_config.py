import pytest
import torch

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model
from tokenunify_scale.models.emmamba_config import (
    PRESETS,
    SIZES,
    SMALL_SIZES,
    EMmambaConfig,
    Habits,
    of_width,
    size_above,
)

SMALL = {"features": (2, 2, 4, 4), "hidden": 4}


@pytest.mark.parametrize("preset", PRESETS)
def test_habits_are_the_presets_unless_a_field_says_otherwise(preset):
    assert EMmambaConfig(**SMALL, preset=preset).habits == PRESETS[preset]
    changed = EMmambaConfig(**SMALL, preset=preset, sections="keep", crops="padded").habits
    own = PRESETS[preset]
    assert changed == Habits("keep", own.mixing, own.interleave, "padded")


def test_presets_have_no_habit_in_common():
    default, official = (vars(PRESETS[name]) for name in ("default", "official"))
    assert all(default[name] != official[name] for name in default)


def test_a_word_that_is_no_habit_is_refused_by_name():
    with pytest.raises(ConfigError, match="keep"):
        build_model("emmamba_atto", sections="kept")


def test_sizes_double_their_channels_from_stage_to_stage_but_for_one_of_the_papers():
    for size, config in {**SMALL_SIZES, **SIZES}.items():
        doubled = tuple(config.features[0] * 2**i for i in range(4))
        assert (config.features == doubled) == (size != "large"), size
        assert config.preset == "default" and config.depths == (2, 2, 2, 2)


@pytest.mark.parametrize("empty", [{"hidden": 0}, {"depths": (1, 0, 1, 1)}, {"state": 0}])
def test_empty_layers_are_refused(empty):
    with pytest.raises(ValueError, match="must be >= 1"):
        EMmambaConfig(**{**SMALL, **empty})


def test_an_even_skip_kernel_is_refused():
    with pytest.raises(ValueError, match="odd and >= 1, got 4"):
        EMmambaConfig(features=(2, 2, 4, 4), hidden=4, skip_kernel=4)


@pytest.mark.parametrize("size", ["atto", "femto", "pico", "nano", "tiny", "small"])
def test_a_width_is_the_size_that_has_it(size):
    config = {**SMALL_SIZES, **SIZES}[size]
    assert of_width(config.features[0]) == config and size_above(config) == size


def test_widths_between_the_sizes_make_networks_between_them():
    assert size_above(of_width(6)) == "femto" and size_above(of_width(500)) == "huge"
    network = build_model("emmamba_w1")
    assert network(torch.zeros(1, 1, 16, 32, 32)).shape == (1, 3, 16, 32, 32)
    for wrong in ("w0", "w5000"):
        with pytest.raises(ConfigError, match="the width is 1 to 4096"):
            build_model(f"emmamba_{wrong}")
