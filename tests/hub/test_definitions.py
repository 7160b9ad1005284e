import ast

import pytest

from tokenunify_scale.hub.definitions import Place, read, source, used


def test_a_modules_top_level_is_read():
    found = read("tokenunify_scale.models.mamba")
    assert {"DIRECTIONS", "TriOrientedMamba", "MambaLayer"} <= found.defined.keys()
    assert found.taken["tri_mamba"] == Place("tokenunify_scale.ops.tri_mamba", "tri_mamba")
    assert found.foreign["math"] == ("math", None)
    assert found.foreign["Tensor"] == ("torch", "Tensor")


def test_a_text_below_a_constant_belongs_to_it():
    place = Place("tokenunify_scale.ops.order", "STEPS")
    assert source(place).startswith("STEPS = ") and source(place).endswith('"""')
    assert source(Place("tokenunify_scale.ops.order", "nothing")) == ""


@pytest.mark.parametrize(
    "text, names",
    [
        ("A: B = C(D.e)", {"A", "B", "C", "D"}),
        ("def f(x: A) -> B:\n    return x", {"A", "B", "x"}),
    ],
)
def test_what_a_statement_mentions(text, names):
    assert used(ast.parse(text).body[0]) == names
