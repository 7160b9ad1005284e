"""Command-line flags of a verb, made from the fields of its config."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokenunify_scale.config import (
    ConfigError,
    Document,
    Named,
    assign,
    did_you_mean,
    field_docs,
    load_recipe,
    override,
)


def parser_of(verb: str, config: type, *, purpose: str) -> "Parser":
    """Flags of a verb: the common ones, and one for each plain field of its config.

    Args:
        verb: as typed.
        config: the verb's dataclass.
        purpose: what it does, for the help.
    """
    parser = Parser(prog=f"tokenunify {verb}", description=purpose.capitalize() + ".")
    parser.add_argument(
        "--recipe", metavar="FILE", help="YAML file of the request, or the name of one of ours"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one key, repeatable"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, start nothing"
    )
    parser.add_argument("--list", action="store_true", help="print the names that can be chosen")
    docs = field_docs(config)
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]) and hints[field.name] is not Named:
            continue  # a section: its keys are set by --set
        choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is Literal else ()
        if field.metadata.get("word") or (choices and field.default is dataclasses.MISSING):
            # What must be said is a word of its own: tokenunify benchmark scan.
            word = "|".join(choices) or field.name.upper()
            rest: dict[str, Any] = {}
            if hints[field.name] == tuple[str, ...]:  # another command, with options of its own
                rest = {"nargs": argparse.REMAINDER}
            parser.add_argument(
                f"field_{field.name}", metavar=word, help=_escape(docs[field.name]), **rest
            )
            continue
        flag = f"--{field.name.replace('_', '-')}"
        repeated = hints[field.name] in (tuple[str, ...], tuple[Path, ...])
        extra: dict[str, Any] = {"nargs": "+", "action": "extend"} if repeated else {}
        parser.add_argument(
            flag,
            dest=f"field_{field.name}",
            metavar="X",
            help=_escape(docs.get(field.name)),
            **extra,
        )
    if any(field.name == "model" for field in dataclasses.fields(config)) and verb != "predict":
        parser.add_argument("--size", help="short for --set model.name=emmamba_SIZE; or wN")
    if any(field.name == "expect_world" for field in dataclasses.fields(config)):
        add_slurm_options(parser)
    if verb == "segment":
        parser.add_argument(
            "--model", metavar="FOLDER", help="predict with this run or export first"
        )
        parser.add_argument("--volume", metavar="VOLUME", help="what to predict on, with --model")
    return parser


def add_slurm_options(parser: argparse.ArgumentParser) -> None:
    """Flags by which a training writes a batch script for Slurm instead of starting."""
    parser.add_argument(
        "--slurm", metavar="FILE", type=Path, help="write a batch script for sbatch, start nothing"
    )
    parser.add_argument("--nodes", metavar="N", type=int, help="with --slurm; by default 1")
    parser.add_argument(
        "--gpus-per-node", metavar="N", type=int, help="with --slurm: ranks of a node; by default 1"
    )
    parser.add_argument(
        "--sbatch", metavar="OPTION", action="append", default=[],
        help="with --slurm: a line more for Slurm, repeatable: --sbatch=--partition=a100",
    )  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Errors as everywhere else: one line, exit code 2."""

    def error(self, message: str) -> None:
        """Refuse a command line."""
        if message.startswith("unrecognized arguments: "):
            words = message.partition(": ")[2].split()
            flags = [flag for action in self._actions for flag in action.option_strings]
            message = f"unknown option {words[0]}: {did_you_mean(words[0].split('=')[0], flags)}"
        raise ConfigError(f"{self.prog}: {message}")


def _escape(text: str | None) -> str | None:
    return text.replace("%", "%%") if text else None


def request(config: type, options: argparse.Namespace) -> Document:
    """What was asked for: recipe, then flags, then --set, each over the one before.

    Args:
        config: the verb's dataclass.
        options: as ``parser_of``'s parser returned them.

    Raises:
        ConfigError: no such recipe, or it is not YAML; an assignment that is none.
    """
    document = load_recipe(options.recipe) if options.recipe else Document({})
    data, lines = document.data, dict(document.lines)
    for field in dataclasses.fields(config):
        value = getattr(options, f"field_{field.name}", None)
        if value is not None:
            data = assign(data, [field.name], value)
            lines = {key: line for key, line in lines.items() if key.split(".")[0] != field.name}
    if getattr(options, "size", None):
        data = assign(data, ["model", "name"], f"emmamba_{options.size}")
    for assignment in options.set:
        data = override(data, assignment)
    return Document(data, document.path, lines)
