import pytest

from tokenunify_scale.models.unetr_config import LADDER, RUNGS, UNETRConfig


def test_rungs_are_regular_and_grow_in_every_way():
    rungs = list(LADDER.values())
    assert list(LADDER) == list(RUNGS) == ["100m", "200m", "500m", "1b"]
    for config in rungs:
        assert config.heads * config.head == config.hidden and config.mlp == 4 * config.hidden
        assert config.positions == "sincos" and config.hidden % 64 == 0
    for low, high in zip(rungs, rungs[1:], strict=False):
        assert low.hidden < high.hidden and low.layers < high.layers
        assert low.features < high.features


@pytest.mark.parametrize("layers, taps", [(12, (4, 7, 10)), (14, (4, 8, 11)), (3, (1, 2, 3))])
def test_a_layer_after_each_quarter_joins_the_decoder(layers, taps):
    assert UNETRConfig(layers=layers).taps == taps


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": 0}, "must be >= 1"),
        ({"patch": (3, 16, 16)}, r"patch is \(3, 16, 16\), must be \(z, 16, 16\)"),
        ({"patch": (4, 8, 8)}, r"patch is \(4, 8, 8\), must be \(z, 16, 16\)"),
        ({"positions": "learned"}, "positions is 'learned', must be 'none' or 'sincos'"),
        ({"positions": "sincos", "hidden": 4}, "hidden is 4: sines and cosines of z, y, x need 6"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UNETRConfig(**options)
