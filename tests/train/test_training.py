import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.retention import SaveConfig
from tokenunify_scale.train.training import Training, deepspeed_config


def test_the_strategy_is_the_sizes_unless_another_is_named():
    assert deepspeed_config(Training(), size="huge", world=8)["zero_optimization"]["stage"] == 3
    config = deepspeed_config(Training(strategy="atto", zero=2), size="huge", world=8)
    assert config["zero_optimization"]["stage"] == 2
    with pytest.raises(ConfigError, match="5 ranks"):
        deepspeed_config(Training(global_batch=8), size="atto", world=5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"hang_after": -1.0}, "hang_after must be >= 0"),
        ({"saves": SaveConfig(keep_every=750)}, "750 is not a multiple of save_every 500"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Training(**settings)
