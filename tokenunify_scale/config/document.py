"""Requests as plain data: YAML files with their line numbers, recipes, overrides."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tokenunify_scale.config.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data, with the line of each dotted key for error messages."""

    data: dict[str, Any]
    path: Path | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Where ``key`` stands: file and line if it came from a file, else the key alone."""
        if self.path is not None and key in self.lines:
            return f"{key} ({self.path}:{self.lines[key]})"
        return key


def scalar(text: str) -> Any:
    """One plain word as null, boolean, number, or itself; unlike YAML 1.1, ``0:50`` is text."""
    words = {"": None, "null": None, "~": None, "none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return text


def load_document(path: Path | str) -> Document:
    """Read a YAML file of one mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, repeats a key, or is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    lines: dict[str, int] = {}
    data = _plain(node, key="", lines=lines, path=path) if node is not None else {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {data!r}")
    return Document(data, path, lines)


def load_yaml(path: Path | str) -> dict[str, Any]:
    """The plain data of a YAML file; errors as ``load_document``."""
    return load_document(path).data


def load_recipe(name: Path | str) -> Document:
    """Read a recipe: a file's path, or the name of one that comes with the package.

    Raises:
        ConfigError: no such file or recipe, or as ``load_document``.
    """
    path, shipped = Path(name), Path(__file__).parents[1] / "recipes"
    if not path.is_file() and (shipped / f"{path.stem}.yaml").is_file() and path.parent == Path():
        path = shipped / f"{path.stem}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in shipped.glob("*.yaml"))
        raise ConfigError(f"recipe {name}: no such file; {did_you_mean(Path(name).stem, names)}")
    return load_document(path)


def _plain(node: yaml.Node, *, key: str, lines: dict[str, int], path: Path) -> Any:
    lines[key] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return scalar(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(item, key=f"{key}[{i}]", lines=lines, path=path)
            for i, item in enumerate(node.value)
        ]
    data: dict[str, Any] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise ConfigError(f"{path}:{name.start_mark.line + 1}: a key must be one word")
        inner = f"{key}.{name.value}" if key else str(name.value)
        if name.value in data:
            raise ConfigError(f"{path}:{name.start_mark.line + 1}: {inner} stands twice")
        data[name.value] = _plain(value, key=inner, lines=lines, path=path)
        lines[inner] = name.start_mark.line + 1
    return data


def override(data: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of ``data`` with one ``a.b=value`` applied; lists are written ``[1, 2]``.

    Raises:
        ConfigError: there is no ``=`` or no key before it.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: expected key=value, as in --set optim.lr=3e-4")
    value = scalar(text)
    if text[:1] in ("[", "{"):
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: {text!r} is not a list or mapping") from None
        value = _plain(node, key=key, lines={}, path=Path("--set"))
    return assign(data, key.split("."), value)


def assign(data: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of ``data`` with the value at ``keys`` replaced; a bare name becomes a mapping."""
    head, *rest = keys
    if not rest:
        return {**data, head: value}
    inner = data.get(head) or {}
    if isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{head} is {inner!r}, so {'.'.join(keys)} cannot be set")
    return {**data, head: assign(inner, rest, value)}


class _Dumper(yaml.SafeDumper):
    """Quotes what ``scalar`` would not read as text."""


def _represent_text(dumper: yaml.Dumper, text: str) -> yaml.Node:
    style = None if scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text of plain data, keys in their order; ``load_yaml`` reads the same data back."""
    return yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )
