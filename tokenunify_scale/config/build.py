"""Frozen dataclasses from plain data, strictly, and back; the help text they carry."""

import ast
import dataclasses
import inspect
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tokenunify_scale.config.document import Document, scalar
from tokenunify_scale.config.errors import ConfigError, did_you_mean

T = TypeVar("T")
SEPARATORS = {int: r"[,x:]", float: r"[,x:]"}  # of words such as 16x64x64 and 150:250


@dataclass(frozen=True)
class Named:
    """A registry's entry and its options: in YAML ``{name: waterz, bins: 256}``."""

    name: str
    options: Any = None


def build(cls: type[T], data: Mapping[str, Any] | Document, *, where: str = "config") -> T:
    """Make a config of class ``cls`` from plain data, strictly.

    Args:
        cls: a dataclass; nested dataclasses, ``X | None``, ``Literal``, ``tuple``, ``Path`` and
            ``Annotated[Named, REGISTRY]`` fields are understood.
        data: the plain data, or a document, whose lines then appear in errors.
        where: what the request is called in an error.

    Raises:
        ConfigError: unknown or missing keys and values of a wrong kind, all of them in one message.
    """
    document = data if isinstance(data, Document) else Document(dict(data))
    errors: list[str] = []
    result = _dataclass(cls, document.data, "", document, errors, base=None)
    if errors:
        raise ConfigError("; ".join(f"{where}: {error}" for error in errors))
    return result


def build_named(data: Mapping[str, Any] | str, registry: Any, *, where: str) -> Named:
    """Make a registry choice from its name, or a mapping of its name and options.

    Raises:
        ConfigError: as ``build``.
    """
    errors: list[str] = []
    result = _named(data, registry, "", Document({}), errors)
    if errors:
        raise ConfigError("; ".join(f"{where}: {error}" for error in errors))
    return result


def _dataclass(cls, data, path: str, document: Document, errors: list[str], *, base) -> Any:
    """Build ``cls``; fields ``data`` leaves out come from ``base`` or the class's defaults."""
    hints = get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = {n: getattr(base, n) for n in fields} if base is not None else _defaults(fields)
    before = len(errors)
    for name, value in data.items():
        inner = f"{path}.{name}" if path else name
        if name not in fields:
            errors.append(
                f"unknown key {document.place(inner)}: {did_you_mean(name, list(fields))}"
            )
            continue
        base_value = values.get(name)
        values[name] = _convert(value, hints[name], inner, document, errors, base=base_value)
    for name in (name for name in fields if name not in values):
        errors.append(f"{path}.{name} is missing" if path else f"{name} is missing")
    if len(errors) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        errors.append(f"{document.place(path)}: {error}" if path else str(error))
        return None


def _defaults(fields: Mapping[str, dataclasses.Field]) -> dict[str, Any]:
    """The values of the fields that have a default."""
    missing, values = dataclasses.MISSING, {}
    for name, entry in fields.items():
        if entry.default is not missing:
            values[name] = entry.default
        elif entry.default_factory is not missing:
            values[name] = entry.default_factory()
    return values


def _convert(value, hint, path: str, document: Document, errors: list[str], *, base=None) -> Any:
    """``value`` as the type ``hint``; keys a section lacks come from ``base``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _named(value, arguments[1], path, document, errors, base=base)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        trials: list[list[str]] = []
        for kind in kinds:
            trial: list[str] = []
            result = _convert(value, kind, path, document, trial, base=base)
            if not trial:
                return result
            trials.append(trial)
        errors.extend(trials[0])
        return None
    if origin is Literal:
        if value in arguments:
            return value
        hint_text = did_you_mean(str(value), [str(a) for a in arguments])
        errors.append(f"{document.place(path)} is {value!r}: {hint_text}")
        return None
    if origin is tuple:
        return _tuple(value, arguments, path, document, errors)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _dataclass(hint, value, path, document, errors, base=base)
    elif origin in (dict, Mapping) or hint in (dict, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is Any:
        return value
    else:
        result = _atom(value, hint)
        if result is not None:
            return result
    kind = getattr(hint, "__name__", str(hint))
    errors.append(f"{document.place(path)} is {value!r}, expected {kind}")
    return None


def _atom(value: Any, hint: type) -> Any:
    """A number, text, boolean or path; None if it is not one."""
    if isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)):
        return value
    if hint in (int, float):
        number = scalar(value) if isinstance(value, str) else value
        if not isinstance(number, int | float) or isinstance(number, bool):
            return None
        if hint is float:
            return float(number)
        return int(number) if math.isfinite(number) and number == int(number) else None
    if hint is bool and isinstance(value, str):
        return scalar(value) if isinstance(scalar(value), bool) else None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is str and isinstance(value, int | float | Path):
        return str(value)
    return None


def _tuple(value, arguments, path: str, document: Document, errors: list[str]) -> Any:
    """A tuple from a list or from words such as ``16,64,64``, ``16x64x64`` and ``150:250``."""
    if isinstance(value, str) and arguments[0] in SEPARATORS:
        value = [p for p in re.split(SEPARATORS[arguments[0]], value) if p]
    elif not isinstance(value, list | tuple):
        value = [value]
    open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
    if not open_ended and len(value) != len(arguments):
        found = f"{len(value)} values {list(value)}, expected {len(arguments)}"
        errors.append(f"{document.place(path)} has {found}")
        return None
    kinds = [arguments[0]] * len(value) if open_ended else arguments
    return tuple(
        _convert(v, k, f"{path}[{i}]", document, errors)
        for i, (v, k) in enumerate(zip(value, kinds, strict=True))
    )


def _named(value, registry, path: str, document: Document, errors: list[str], *, base=None) -> Any:
    """A registry choice from its name, or a mapping of its name (else ``base``'s) and options."""
    if isinstance(value, Named):
        return value
    if not isinstance(value, str | Mapping | None):
        errors.append(f"{document.place(path)} is {value!r}, expected a name or a mapping with one")
        return None
    data = {"name": value} if isinstance(value, str) else dict(value or {})
    name = data.pop("name", base.name if base else None)
    if not isinstance(name, str):
        errors.append(f"{document.place(path)}.name is missing: {', '.join(registry.names())}")
        return None
    try:
        entry = registry.get(name)
    except ConfigError as error:
        errors.append(f"{document.place(path + '.name')}: {error}")
        return None
    if entry.config is None:
        errors.extend(f"{path}.{key}: {name!r} takes no options" for key in data)
        return Named(name)
    before = base.options if base and base.name == name else entry.config
    options = _dataclass(type(entry.config), data, path, document, errors, base=before)
    return Named(name, options)


def to_dict(config: Any) -> Any:
    """Plain data that ``build`` turns back into ``config``."""
    if isinstance(config, Named):
        return {"name": config.name, **(to_dict(config.options) or {})}
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def field_docs(cls: type) -> dict[str, str]:
    """The sentence under each field of a dataclass: the one home of the command line's help."""
    docs: dict[str, str] = {}
    for owner in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = ast.parse(inspect.cleandoc(inspect.getsource(owner))).body[0].body
        for line, after in zip(body, body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr):
                if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                    docs[line.target.id] = " ".join(after.value.value.split())
    return docs
