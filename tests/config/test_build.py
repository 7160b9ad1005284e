from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from tokenunify_scale.config import (
    ConfigError,
    Named,
    build,
    build_named,
    did_you_mean,
    dump_yaml,
    field_docs,
    load_document,
    to_dict,
)
from tokenunify_scale.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Options of one entry."""

    sigma: float = 2.0
    """Width in voxels."""

    sides: tuple[int, int] = (3, 5)
    """Two sides."""

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")


FILTERS = Registry("filter")


FILTERS.add("blur", lambda options: options, Blur(), source="a test")


FILTERS.add("strong_blur", lambda options: options, Blur(sigma=9.0), source="a test")


FILTERS.add("nothing", lambda options: options, source="a test")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """A section."""

    rate: float = 1e-3
    """How fast."""

    steps: int = 10
    """How long."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A request of every kind of field."""

    volume: str
    """What to read."""

    out: Path = Path("runs/x")
    """Where to write: a sentence
    on two lines."""

    crop: tuple[int, int, int] = (16, 160, 160)
    """Size."""

    sections: tuple[int, int] | None = None
    """A range."""

    names: tuple[str, ...] = ()
    """Some words."""

    mode: Literal["mean", "max"] = "mean"
    """One of two."""

    share: float = 0.5
    """A number."""

    optim: Optim = field(default_factory=Optim)
    """A section."""

    filter: Annotated[Named, FILTERS] = field(default_factory=lambda: Named("blur", Blur()))
    """A choice."""

    other: Annotated[Named, FILTERS] | None = None
    """A choice that may be left open."""

    flag: bool = False
    """A switch."""


def write(folder: Path, text: str) -> Path:
    path = folder / "request.yaml"
    path.write_text(text)
    return path


def test_every_kind_of_field_is_understood():
    config = build(
        Config,
        {
            "volume": 7,
            "out": "runs/y",
            "crop": "16x64x64",
            "sections": "150:250",
            "names": ["a", "b"],
            "mode": "max",
            "share": "1e-6",
            "optim": {"rate": 3, "steps": "1e3"},
            "filter": {"name": "blur", "sigma": "0.5"},
            "flag": "true",
        },
    )
    assert config == Config(
        volume="7",
        out=Path("runs/y"),
        crop=(16, 64, 64),
        sections=(150, 250),
        names=("a", "b"),
        mode="max",
        share=1e-6,
        optim=Optim(rate=3.0, steps=1000),
        filter=Named("blur", Blur(sigma=0.5)),
        flag=True,
    )
    assert isinstance(config.optim.rate, float) and isinstance(config.optim.steps, int)


@pytest.mark.parametrize("crop", ["16,64,64", "16x64x64", "16:64:64", [16, 64, 64], (16, 64.0, 64)])
def test_three_sizes_can_be_written_in_many_ways(crop):
    assert build(Config, {"volume": "v", "crop": crop}).crop == (16, 64, 64)


def test_an_optional_field_takes_null_and_another_does_not():
    assert build(Config, {"volume": "v", "sections": None}).sections is None
    with pytest.raises(ConfigError, match="crop"):
        build(Config, {"volume": "v", "crop": None})


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("share", "fast", "share is 'fast', expected float"),
        ("share", True, "share is True, expected float"),
        ("crop", [1, 2], "crop has 2 values [1, 2], expected 3"),
        ("crop", "1x2xz", "crop[2] is 'z', expected int"),
        ("crop", [1, 2, 3.5], "crop[2] is 3.5, expected int"),
        ("mode", "men", "mode is 'men': did you mean 'mean'? valid: mean, max"),
        ("optim", 3, "optim is 3, expected Optim"),
        ("optim", {"steps": "soon"}, "optim.steps is 'soon', expected int"),
        ("filter", "blurr", "unknown filter 'blurr': did you mean 'blur'?"),
        ("other", {"sigma": 1}, "other.name is missing: blur, strong_blur, nothing"),
        ("filter", {"name": "blur", "sigm": 1}, "unknown key filter.sigm: did you mean 'sigma'?"),
        ("filter", {"name": "blur", "sigma": -1}, "filter: sigma must be > 0, got -1.0"),
        ("filter", {"name": "nothing", "sigma": 1}, "filter.sigma: 'nothing' takes no options"),
        ("voulme", "v", "unknown key voulme: did you mean 'volume'?"),
        ("flag", "perhaps", "flag is 'perhaps', expected bool"),
        ("out", 3.5, "out is 3.5, expected Path"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_was_expected(key, value, words):
    with pytest.raises(ConfigError) as caught:
        build(Config, {"volume": "v", key: value}, where="predict")
    assert f"predict: {words}" in str(caught.value) or words in str(caught.value)


def test_all_mistakes_are_reported_at_once_with_file_and_line(tmp_path):
    text = (
        "shar: 1\noptim:\n  rate: quick\n  step: 5\ncrop: [1, 2]\nfilter: {name: blur, sgma: 1}\n"
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        build(Config, load_document(path), where="predict")
    message = str(caught.value)
    assert f"unknown key shar ({path}:1): did you mean 'share'?" in message
    assert f"optim.rate ({path}:3) is 'quick'" in message
    assert f"unknown key optim.step ({path}:4): did you mean 'steps'?" in message
    assert f"crop ({path}:5) has 2 values" in message
    assert f"unknown key filter.sgma ({path}:6)" in message
    assert "volume is missing" in message
    assert message.count("predict: ") == 6


def test_a_choice_starts_from_the_options_of_its_entry():
    config = build(Config, {"volume": "v", "filter": {"name": "strong_blur", "sides": "1,2"}})
    assert config.filter == Named("strong_blur", Blur(sigma=9.0, sides=(1, 2)))
    assert build(Config, {"volume": "v", "filter": "nothing"}).filter == Named("nothing")
    assert build_named("strong_blur", FILTERS, where="a header").options.sigma == 9.0
    with pytest.raises(ConfigError, match="a header: .*unknown filter 'bulr'"):
        build_named("bulr", FILTERS, where="a header")


def test_a_section_given_in_part_keeps_the_rest_of_the_owners_default():
    @dataclass(frozen=True, kw_only=True)
    class Owner:
        optim: Optim = field(default_factory=lambda: Optim(rate=5.0, steps=7))
        filter: Annotated[Named, FILTERS] = field(
            default_factory=lambda: Named("blur", Blur(sigma=4.0))
        )

    config = build(Owner, {"optim": {"steps": 8}, "filter": {"sides": [1, 1]}})
    assert config.optim == Optim(rate=5.0, steps=8)
    assert config.filter == Named("blur", Blur(sigma=4.0, sides=(1, 1)))


def test_plain_data_and_yaml_turn_back_into_the_same_config(tmp_path):
    config = Config(
        volume="a.h5:raw",
        out=Path("runs/0:50"),
        sections=(0, 50),
        names=("1", "b c", "true", "a: b"),
        share=1e-6,
        optim=Optim(rate=1e20),
        filter=Named("strong_blur", Blur(sigma=9.0)),
    )
    assert build(Config, to_dict(config)) == config
    assert build(Config, load_document(write(tmp_path, dump_yaml(to_dict(config))))) == config


def test_keys_are_written_in_the_order_of_the_fields():
    assert list(to_dict(Config(volume="v")))[:3] == ["volume", "out", "crop"]
    assert dump_yaml({"b": [1], "a": [2]}) == "b: [1]\na: [2]\n"


def test_help_comes_from_the_sentence_under_each_field():
    docs = field_docs(Config)
    assert docs["out"] == "Where to write: a sentence on two lines."
    assert set(docs) == set(to_dict(Config(volume="v")))


def test_help_of_inherited_fields_is_found_too():
    @dataclass(frozen=True, kw_only=True)
    class Wider(Optim):
        """More fields."""

        extra: int = 1
        """One more."""

    assert field_docs(Wider) == {"rate": "How fast.", "steps": "How long.", "extra": "One more."}


def test_a_hint_names_the_nearest_word_only_where_one_is_near():
    assert did_you_mean("hgue", ["tiny", "huge"]) == "did you mean 'huge'? valid: tiny, huge"
    assert did_you_mean("qqqq", ["tiny", "huge"]) == "valid: tiny, huge"
