"""What stands at the top level of this package's modules, and what it needs."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = "tokenunify_scale"
ROOT = Path(__file__).resolve().parents[1]


class Place(NamedTuple):
    """A name at the top level of a module."""

    module: str
    name: str


class Found(NamedTuple):
    """What a module defines and imports, by name."""

    lines: list[str]
    defined: dict[str, list[ast.stmt]]
    """The statements of each definition, such as a constant and the text below it."""

    taken: dict[str, Place]
    """Imports from this package."""

    foreign: dict[str, tuple[str, str | None]]
    """Other imports: module, and the name in it, or None for the module itself."""


@cache
def read(module: str) -> Found:
    """The top level of one of this package's modules."""
    path = ROOT.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    found = Found(text.splitlines(), {}, {}, {})
    names: list[str] = []
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            for name in names:  # a text below a constant
                found.defined[name].append(statement)
            continue
        names = _defines(statement)
        for name in names:
            found.defined.setdefault(name, []).append(statement)
        if isinstance(statement, ast.ImportFrom) and statement.module.split(".")[0] == PACKAGE:
            for alias in statement.names:
                place = Place(statement.module, alias.name)
                found.taken[alias.asname or alias.name] = place
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                found.foreign[alias.asname or alias.name] = statement.module, alias.name
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                top = alias.asname or alias.name.split(".")[0]
                found.foreign[top] = alias.name if alias.asname else top, None
    return found


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return []
    nodes = (node for target in targets for node in ast.walk(target))
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def used(statement: ast.stmt) -> set[str]:
    """Names that a statement mentions."""
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def source(place: Place) -> str:
    """The text of a definition, without the comments above it."""
    found = read(place.module)
    spans = ((s.lineno - 1, s.end_lineno) for s in found.defined.get(place.name, ()))
    return "\n".join(line for start, end in spans for line in found.lines[start:end])
