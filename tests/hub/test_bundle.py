import ast

import pytest

from tokenunify_scale.hub import definitions
from tokenunify_scale.hub.bundle import bundle
from tokenunify_scale.hub.definitions import Place

SHAPES = '''
"""Shapes."""

import math as m
from dataclasses import dataclass

LIMIT = 3
"""Of sides."""

UNUSED = 4


@dataclass
class Box:
    side: int = LIMIT


# Of a box.
def area(box: Box) -> float:
    return m.pow(box.side, 2)


def _helper(x):
    return x
'''
USER = '''
"""Uses shapes."""

from collections.abc import Sequence

from tokenunify_scale.shapes import area as size
from tokenunify_scale.shapes import _helper as theirs
from tokenunify_scale.kernels import fast


def _helper(x: Sequence) -> float:
    return theirs(x) + 1


def forward(box, more=0):
    """Not the area: size(box)."""
    return _helper(size(box)) + fast(box) + more
'''
KERNELS = "def fast(box):\n    return 1\n"
PART = "def fast(box):\n    return 2\n"


@pytest.fixture(autouse=True)
def sources(tmp_path, monkeypatch):
    texts = {"shapes": SHAPES, "user": USER, "kernels": KERNELS, "part": PART}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text.lstrip("\n"))
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    definitions.read.cache_clear()
    yield tmp_path
    definitions.read.cache_clear()


def made(**words):
    defaults = {"exchange": {}, "beside": {}, "heading": "All of it."}
    return bundle(
        {"forward": Place("tokenunify_scale.user", "forward")}, **{**defaults, **words}
    )


def ran(text):
    names = {}
    exec(compile(text, "bundled", "exec"), names)
    return names


def test_what_is_reachable_is_there_and_nothing_else():
    text = made()
    names = ran(text)
    assert names["forward"](names["Box"]()) == 11
    assert "UNUSED" not in text and "tokenunify_scale import" not in text
    assert ast.get_docstring(ast.parse(text)) == "All of it."


def test_comments_and_texts_below_constants_stay():
    text = made()
    assert 'LIMIT = 3\n"""Of sides."""' in text and "# Of a box.\ndef area" in text


def test_names_of_two_modules_are_made_two_and_texts_stay():
    text = made()
    assert "def _user_helper" in text and "return _shapes_helper(x) + 1" in text
    assert '"""Not the area: size(box)."""' in text


def test_one_thing_is_exchanged_for_another():
    place = {Place("tokenunify_scale.kernels", "fast"): Place("tokenunify_scale.part", "fast")}
    names = ran(made(exchange=place))
    assert names["forward"](names["Box"]()) == 12


def test_modules_beside_are_imported():
    text = made(beside={"tokenunify_scale.kernels": ".kernels"})
    assert "from .kernels import fast" in text and "return 1" not in text


def test_a_name_defined_twice_alike_is_there_once(sources):
    (sources / "kernels.py").write_text("LIMIT = 3\n\n\ndef fast(box):\n    return LIMIT\n")
    (sources / "shapes.py").write_text(SHAPES.lstrip("\n").replace('"""Of sides."""\n', ""))
    text = made()
    assert text.count("LIMIT = 3") == 1 and "shapes_LIMIT" not in text


def test_an_import_at_call_time_is_refused(sources):
    late = "def fast(box):\n    from tokenunify_scale.part import fast\n    return fast(box)\n"
    (sources / "kernels.py").write_text(late)
    with pytest.raises(ValueError, match=r"kernels.fast imports tokenunify_scale.part when"):
        made()


@pytest.mark.parametrize("variable", ["_helper", "theirs"])
def test_a_variable_in_the_way_is_refused(sources, variable):
    text = (sources / "user.py").read_text()
    changed = text.replace("    return theirs(x)", f"    {variable} = x\n    return theirs(x)")
    (sources / "user.py").write_text(changed)
    message = f"^{variable} has another meaning where {variable} is to become _"
    with pytest.raises(ValueError, match=message):
        made()
