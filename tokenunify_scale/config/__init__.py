"""Strict configuration: YAML and command-line words in, frozen dataclasses out, errors by name.

A config is a frozen dataclass that lives beside its owner. This module builds one from plain data,
refuses what it does not know, and says of each wrong word its value, its place and the nearest
valid one. All mistakes of a request are reported at once.
"""

from tokenunify_scale.config.build import Named, build, build_named, field_docs, to_dict
from tokenunify_scale.config.document import (
    Document,
    assign,
    dump_yaml,
    load_document,
    load_recipe,
    load_yaml,
    override,
    scalar,
)
from tokenunify_scale.config.errors import (
    ConfigError,
    DataError,
    DivergedError,
    HostError,
    Stopped,
    did_you_mean,
)

__all__ = [
    "ConfigError",
    "DataError",
    "DivergedError",
    "Document",
    "HostError",
    "Named",
    "Stopped",
    "assign",
    "build",
    "build_named",
    "did_you_mean",
    "dump_yaml",
    "field_docs",
    "load_document",
    "load_recipe",
    "load_yaml",
    "override",
    "scalar",
    "to_dict",
]
