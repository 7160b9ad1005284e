"""One Python file out of the modules that a class is made of, for where this package is not.

Definitions are taken as they stand, with their comments; only what is reachable from the roots.
Names that two modules share are made two. What the package needs at home alone (registries,
kernels for numba) is not reachable, or exchanged for a part made for the purpose.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

from tokenunify_scale.hub.definitions import PACKAGE, Place, read, source, used

VAGUE = {"forward", "backward"}  # names that say nothing outside their module


def bundle(
    roots: Mapping[str, Place],
    *,
    exchange: Mapping[Place, Place],
    beside: Mapping[str, str],
    heading: str,
) -> str:
    """The text of a module with some names and all that they need.

    Args:
        roots: what the file defines last, by the name it goes by there.
        exchange: what is taken in the place of what.
        beside: modules that become files of their own, and how they are imported: ``.name``.
        heading: the module's docstring.

    Raises:
        ValueError: a function imports from this package when it is called, or has a variable by
            the name of something that is renamed.
    """
    order: list[Place] = []
    for place in roots.values():
        _collect(_resolve(place, exchange), order, exchange, beside)
    names = _names(order)
    order = [p for p in order if p == _first_alike(p, order)]
    names |= {_resolve(place, exchange): name for name, place in roots.items()}
    foreign: set[tuple[str, str | None, str]] = set()
    sections = []
    for module in _in_order(order, exchange):
        texts = {0: f"# From {module.replace('.', '/')}.py."}
        for name in (place.name for place in order if place.module == module):
            for statement in read(module).defined[name]:
                mentioned = used(statement) | {name}
                known = {n: _resolve(Place(module, n), exchange) for n in mentioned}
                renamed = {n: names[p] for n, p in known.items() if p in names and names[p] != n}
                texts[statement.lineno] = _text(read(module).lines, statement, renamed)
                imported = read(module).foreign
                foreign |= {(*imported[n], n) for n in mentioned if n in imported}
                foreign |= {
                    (beside[p.module], p.name, n) for n, p in known.items() if p.module in beside
                }
        sections.append(_joined(texts))
    head = f'"""{heading}"""\n\n{_imports(foreign)}'
    return "\n\n\n".join([head, *sections]) + "\n"


def _joined(texts: Mapping[int, str]) -> str:
    """Texts in order: two empty lines around functions and classes, none between constants."""
    spaced = (f"\n\n{t}\n\n" if "\n    " in t else t for _, t in sorted(texts.items()))
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(spaced)).strip("\n")


def _resolve(place: Place, exchange: Mapping[Place, Place]) -> Place:
    """Where a name is defined: followed through imports, exchanged where that is asked for."""
    seen = set()
    while place not in seen:
        seen.add(place)
        place = exchange.get(place, place)
        if place.module.split(".")[0] == PACKAGE:
            place = read(place.module).taken.get(place.name, place)
    return place


def _collect(
    place: Place,
    order: list[Place],
    exchange: Mapping[Place, Place],
    beside: Mapping[str, str],
) -> None:
    """Add a definition behind all that it needs."""
    pending: set[Place] = set()

    def visit(place: Place) -> None:
        if place in pending or place in order or place.module in beside:
            return
        found = read(place.module)
        pending.add(place)
        for statement in found.defined[place.name]:
            _refuse_late_imports(place, statement)
            for name in sorted(used(statement)):
                if name in found.defined or name in found.taken:
                    visit(_resolve(Place(place.module, name), exchange))
        order.append(place)

    visit(place)


def _refuse_late_imports(place: Place, statement: ast.stmt) -> None:
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == PACKAGE:
            raise ValueError(f"{place.module}.{place.name} imports {node.module} when it is called")


def _in_order(order: Sequence[Place], exchange: Mapping[Place, Place]) -> list[str]:
    """Modules, each behind those that it needs, as far as they do not need each other."""
    needs: dict[str, set[str]] = {}
    for place in order:
        mentioned = set().union(*map(used, read(place.module).defined[place.name]))
        places = {_resolve(Place(place.module, name), exchange) for name in mentioned}
        places = {_first_alike(each, order) for each in places}
        needs.setdefault(place.module, set()).update(each.module for each in places)
    done: list[str] = []
    pending: set[str] = set()

    def visit(module: str) -> None:
        if module in needs and module not in pending:
            pending.add(module)
            for other in sorted(needs[module]):
                visit(other)
            done.append(module)

    for module in needs:
        visit(module)
    return done


def _first_alike(place: Place, order: Sequence[Place]) -> Place:
    """The first definition of this name with the same text."""
    same = (p for p in order if p.name == place.name and source(p) == source(place))
    return next(same, place)


def _names(order: Sequence[Place]) -> dict[Place, str]:
    """What each definition is called in the file: as at home, unless that is taken or vague."""
    names = {}
    for place in order:
        stem = place.module.rpartition(".")[2]
        hidden, plain = "_" * place.name.startswith("_"), place.name.lstrip("_")
        often = {source(other) for other in order if other.name == place.name}
        clear = len(often) == 1 and place.name not in VAGUE
        names[place] = place.name if clear else f"{hidden}{stem}_{plain}"
    return names


def _text(lines: list[str], statement: ast.stmt, renamed: Mapping[str, str]) -> str:
    """A statement's lines with the comments above it, and names exchanged."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(node.lineno for node in decorators)])
    rows = lines[first - 1 : statement.end_lineno]
    for row, start, end, name in sorted(_spots(statement, renamed), reverse=True):
        at = row - first
        line = rows[at].encode()
        rows[at] = (line[:start] + renamed[name].encode() + line[end:]).decode()
    if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name in renamed:
        at, new = statement.lineno - first, renamed[statement.name]
        rows[at] = re.sub(rf"\b(def|class) {statement.name}\b", rf"\1 {new}", rows[at])
    above = first - 1
    while above and lines[above - 1].startswith("#") and "fmt:" not in lines[above - 1]:
        above -= 1
    return "\n".join([*lines[above : first - 1], *rows])


def _spots(statement: ast.stmt, renamed: Mapping[str, str]) -> Iterator[tuple[int, int, int, str]]:
    """Where names to be exchanged stand: line, first and last byte, name."""
    nodes = list(ast.walk(statement))
    inner = {node.arg for node in nodes if isinstance(node, ast.arg)}
    if isinstance(statement, ast.FunctionDef):
        names = (node for node in nodes if isinstance(node, ast.Name))
        inner |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for old, new in renamed.items():
        if hidden := {old, new} & inner:
            raise ValueError(f"{min(hidden)} has another meaning where {old} is to become {new}")
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in renamed:
            yield node.lineno, node.col_offset, node.end_col_offset, node.id


def _imports(foreign: set[tuple[str, str | None, str]]) -> str:
    """Import statements, standard library first."""
    lines: dict[tuple[bool, str], str] = {}
    parts: dict[str, set[str]] = {}
    for module, inner, name in foreign:
        alias = f" as {name}" if name != (inner or module) else ""
        if inner is None:
            lines[False, module] = f"import {module}{alias}"
        else:
            parts.setdefault(module, set()).add(inner + alias)
    for module, names in parts.items():
        lines[True, module] = f"from {module} import {', '.join(sorted(names))}"
    groups: list[list[str]] = [[], [], []]
    for (_, module), line in sorted(lines.items()):
        top = module.partition(".")[0]
        groups[2 if not top else int(top not in sys.stdlib_module_names)].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)
