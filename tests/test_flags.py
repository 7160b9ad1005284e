from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.flags import parser_of, request


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section."""

    depth: int = 1
    """How deep."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A verb's config."""

    kind: Literal["long", "short"]
    """Which of two."""

    file: Path = field(metadata={"word": True})
    """What to read."""

    many: tuple[str, ...] = ()
    """Any number of names."""

    rate: float = 0.5
    """At most 50 %."""

    part: Part = Part()
    """Set by --set."""


def parser():
    return parser_of("work", Config, purpose="do it")


def asked(*words):
    return request(Config, parser().parse_args([*words])).data


def test_what_must_be_said_is_a_word_and_all_else_a_flag():
    assert asked("long", "a.txt") == {"kind": "long", "file": "a.txt"}
    found = asked("long", "a.txt", "--many", "a", "b", "--rate", "0.1")
    assert found["many"] == ["a", "b"] and found["rate"] == "0.1"


def test_a_later_word_wins_over_a_flag_and_a_flag_over_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rate: 0.2\nmany: [x]\npart: {depth: 3}\n")
    words = ["long", "a.txt", "--recipe", str(recipe)]
    assert asked(*words)["rate"] == 0.2
    words += ["--rate", "0.3"]
    assert asked(*words)["rate"] == "0.3" and asked(*words)["many"] == ["x"]
    words += ["--set", "rate=0.4", "--set", "part.depth=4"]
    assert asked(*words)["rate"] == 0.4 and asked(*words)["part"] == {"depth": 4}


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "Do it." in shown and "At most 50 %." in shown and "long|short" in shown
    assert "FILE" in shown and "What to read." in shown and "--part" not in shown


def test_an_unknown_flag_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown option --raet: did you mean '--rate'"):
        parser().parse_args(["long", "a.txt", "--raet", "1"])
