"""One parser for ``tokenunify VERB``, scripts/VERB.py and ``python -m tokenunify_scale VERB``."""

import argparse
import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenunify_scale import __version__
from tokenunify_scale.config import (
    ConfigError,
    DivergedError,
    Document,
    HostError,
    Stopped,
    build,
    did_you_mean,
    dump_yaml,
    to_dict,
)
from tokenunify_scale.flags import Parser, add_slurm_options, parser_of, request
from tokenunify_scale.hub.settings import told
from tokenunify_scale.train.allocator import keep_freed_memory
from tokenunify_scale.train.leash import take_leash
from tokenunify_scale.train.outlet import outliving_readers
from tokenunify_scale.train.ranks import seat_of
from tokenunify_scale.train.sbatch import Batch, sbatch_text

VERBS = {
    "prepare": "cut volumes into shards of training crops",
    "pretrain": "learn from unlabelled crops",
    "finetune": "learn affinities from a labelled volume",
    "launch": "start a training on many ranks, and again when it crashes",
    "predict": "turn a volume into affinities",
    "segment": "turn affinities, or a volume and a model, into neurons",
    "evaluate": "score and draw a segmentation, or what pretrained networks predict",
    "export": "write a Hugging Face folder",
    "import-official": "turn a checkpoint of the paper's release into a run",
    "doctor": "look at this machine, or at all hosts of a job, before training",
    "benchmark": "measure speed, memory and exactness beside what else there is",
}
PRINTERS = {"models": "list the networks and what they cost", "status": "show how runs stand"}


@outliving_readers()
def main(verb: str | None = None, words: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        verb: the command, where the caller is a script of its own; else the first word.
        words: what the user typed; by default the process's own arguments.

    Returns:
        The exit code: 0 done, 2 wrong request, 3 environment, 4 data, 5 diverged, 75 stopped by a
        signal and can go on.
    """
    typed = list(sys.argv[1:] if words is None else words)
    # DeepSpeed's launcher puts this word before the user's.
    typed = [word for word in typed if not word.startswith(("--local_rank=", "--local-rank="))]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    leash, code = None, 1
    try:
        leash = take_leash(os.environ, rank=seat_of(os.environ).rank)
        code = _dispatch([verb, *typed] if verb else typed)
    except (ValueError, RuntimeError, OSError) as error:
        known = getattr(error, "exit_code", 4 if isinstance(error, OSError) else None)
        if known is None:
            raise
        code = known
        _say_error(error)
    except KeyboardInterrupt:
        code = 130
    finally:
        if leash:
            leash.tell(code)
    return code


def _say_error(error: Exception) -> None:
    """One line a reason. What is the same on all ranks, as a wrong request is, one of them says."""
    rank = 0
    with suppress(HostError):
        rank = seat_of(os.environ).rank
    shared = isinstance(error, ConfigError | DivergedError | Stopped)
    if rank == 0 or not getattr(error, "of_main", shared):
        place = f"[rank {rank}] " if rank else ""
        for reason in str(error).splitlines() or [""]:
            print(f"{place}error: {' '.join(reason.split())}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    verbs = [*VERBS, "scaling", *PRINTERS]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        print(f"tokenunify-scale {__version__}")
        return 0
    if verb == "scaling":
        from tokenunify_scale.scaling import command

        parser = Parser(prog="tokenunify scaling", description="Plan, run and read a study.")
        command.add_arguments(parser)
        return command.main(parser.parse_args(rest))
    if verb in PRINTERS:
        return _models(rest) if verb == "models" else _status(rest)
    if verb not in VERBS:
        raise ConfigError(f"unknown command {verb!r}: {did_you_mean(verb, verbs)}")
    return _run_verb(verb, rest)


def _run_verb(verb: str, words: list[str]) -> int:
    module = _module(verb)
    parser = parser_of(verb, module.Config, purpose=VERBS[verb])
    options = parser.parse_args(words)
    if options.list:
        _module("show").choices(module.Config)
        return 0
    document = request(module.Config, options)
    if getattr(options, "slurm", None):
        _write_batch(verb, words, build(module.Config, document, where=verb), options)
    elif verb == "segment" and (options.model or options.volume):
        _from_volume_to_neurons(module.Config, document, options)
    else:
        _do(verb, document, dry_run=options.dry_run)
    return 0


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"tokenunify_scale.{verb.replace('-', '_')}")


def _do(verb: str, request: Document | dict[str, Any], *, dry_run: bool) -> None:
    """Run one verb, or print what it would do."""
    module = _module(verb)
    config = build(module.Config, request, where=verb)
    if dry_run:
        print(dump_yaml({"config": to_dict(config), "plan": module.plan(config)}), end="")
        return
    result = module.run(config)
    if result:
        _say(verb, config, result)


def _write_batch(verb: str, words: list[str], config: Any, options: argparse.Namespace) -> None:
    """``pretrain --slurm FILE``: the same command as a batch script."""
    taken = Parser(add_help=False)
    add_slurm_options(taken)
    _, rest = taken.parse_known_args(words)
    asked = {"nodes": options.nodes, "gpus_per_node": options.gpus_per_node}
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        batch = Batch(**given, options=tuple(options.sbatch))
    except ValueError as error:
        raise ConfigError(f"{verb}: {error}") from None
    text = sbatch_text(batch, [verb, *rest], name=config.out.name, out=config.out)
    options.slurm.write_text(text)
    print(f"{verb}: wrote {options.slurm}; sbatch {options.slurm} queues it")


def _from_volume_to_neurons(config: type, document: Document, options: argparse.Namespace) -> None:
    """``segment --model M --volume V``: predict, segment and draw, each into its own folder."""
    if not (options.model and options.volume):
        raise ConfigError("segment: --model and --volume go together")
    if "affinities" in document.data:
        raise ConfigError("segment: give --affinities, or --model and --volume, not both")
    default = next(field.default for field in dataclasses.fields(config) if field.name == "out")
    out = document.data.get("out", default)
    affinities = f"{out}/affinities"
    tiling, known = told(options.model)
    data = {**_over(known, document.data), "affinities": affinities}
    segment = dataclasses.replace(document, data=data)
    build(config, segment, where="segment")  # refused now, not after the prediction
    predict = {**tiling, "model": options.model, "volume": options.volume, "out": affinities}
    _do("predict", predict, dry_run=options.dry_run)
    if not options.dry_run:
        _do("segment", segment, dry_run=False)
        pictures = {"segmentation": str(out), "affinities": affinities, "raw": options.volume}
        _do("evaluate", {**pictures, "out": f"{out}/pictures"}, dry_run=False)


def _over(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """How an exported model was used when it was scored, with what the user says over it."""
    before, now = known.get("postprocess", {}), asked.get("postprocess", {})
    if now.get("name", before.get("name")) != before.get("name"):
        return asked  # settings of another post-processing
    return {**known, **asked, **({"postprocess": {**before, **now}} if before or now else {})}


@dataclasses.dataclass(frozen=True)
class _Crop:
    """What ``models --crop`` takes."""

    crop: tuple[int, int, int] | None = None


def _models(words: list[str]) -> int:
    parser = Parser(prog="tokenunify models", description="List the networks, and what they cost.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only; by default all")
    parser.add_argument("--crop", metavar="Z,Y,X", help="cost of this crop, not the published one")
    parser.add_argument("--draw", metavar="FILE", type=Path, help="PNG or SVG of size against cost")
    options = parser.parse_args(words)
    crop = build(_Crop, {"crop": options.crop} if options.crop else {}, where="models").crop
    return _module("show").models(options.names, crop=crop, draw=options.draw)


def _status(words: list[str]) -> int:
    parser = Parser(prog="tokenunify status", description="Show how runs stand.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(words)
    return _module("show").status(*options.runs, form="json" if options.json else "text")


def _say(verb: str, config: Any, result: dict[str, Any]) -> None:
    """One closing line: what came out, and where it is."""
    metrics = result.get("metrics") or {}
    shown = ", ".join(
        f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)
    )
    print(f"{verb}: {config.out} in {result['seconds']:.0f} s{': ' if shown else ''}{shown}")


def _overview() -> str:
    rows = {**VERBS, "scaling": "plan, run, collect, fit and draw a study", **PRINTERS}
    lines = [f"  {name:15} {text}" for name, text in rows.items()]
    usage = (
        "usage: tokenunify COMMAND [--help] [--recipe FILE] [--set a.b=c] [--out DIR] [--dry-run]"
    )
    return "\n".join([usage, "", "commands:", *lines])
