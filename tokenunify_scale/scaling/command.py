"""The words of `tokenunify scaling`: plan, run, collect, fit and plot."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tokenunify_scale.config import ConfigError, build, load_recipe, override
from tokenunify_scale.scaling import collect, fit, plot
from tokenunify_scale.scaling.plan import Job, Study, check, plan, table
from tokenunify_scale.scaling.run import run_study, states

ACTIONS = ("plan", "run", "collect", "fit", "plot")
RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of `tokenunify scaling` to a parser."""
    add = parser.add_argument
    add("action", choices=ACTIONS, help="run does it all: run, then collect, fit and plot")
    add("source", help="a study: a recipe's file or name; fit and plot also take FILE.csv")
    add("--out", type=Path, help="folder of the study [runs/NAME]")
    add("--set", action="append", default=[], metavar="A.B=C", help="change a recipe's setting")
    add("--jobs", type=int, metavar="N", help="jobs side by side [cores / threads of a job]")
    add("--dry-run", action="store_true", help="print the plan, start nothing")
    add("--x", default="parameters", help="column of the sizes [parameters]")
    add("--y", default="voi", help="column of the losses [voi]")
    add("--group", default="init", help="columns that make a curve each, A,B; '' for one [init]")


def main(args: argparse.Namespace) -> int:
    """Do what ``args``, parsed by a parser of ``add_arguments``, say; returns the exit code.

    Raises:
        ConfigError: the request is wrong.
        DataError: a table or a result is missing or damaged.
        HostError: another run of the study goes on.
    """
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {args.jobs}")
    if Path(args.source).suffix == ".csv":
        if args.action not in ("fit", "plot"):
            raise ConfigError(f"{args.action} needs a recipe; {args.source} is a table")
        out = args.out or RUNS / Path(args.source).stem
        _fit(Path(args.source), out, args, title=Path(args.source).stem)
        return 0
    study = load_study(args.source, overrides=args.set)
    out = args.out or RUNS / study.name
    jobs = plan(study, out)
    if args.action == "plan" or args.dry_run:
        check(jobs)
        print(table(jobs, states(jobs)))
        return 0
    code = 0
    if args.action == "run":
        check(jobs)
        code = run_study(study, out, args.jobs)
    complete = _collect(jobs, out)
    if args.action != "collect" and (complete or not code):
        _fit(out / "table.csv", out, args, title=study.name)
    return code


def load_study(source: str | Path, *, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a recipe.

    Args:
        source: a YAML file, or the name of one of the package's recipes.
        overrides: changes of it, as ``finetune.steps=20``.

    Raises:
        ConfigError: no such recipe, or a mistake in it.
    """
    document = load_recipe(source)
    for assignment in overrides:
        document = dataclasses.replace(document, data=override(document.data, assignment))
    return build(Study, document, where=str(source))


def _collect(jobs: list[Job], out: Path) -> bool:
    """Write and print the tables; whether any row has scores."""
    rows = collect.collect(jobs, states(jobs))
    paths = collect.write_tables(rows, out)
    print(f"\n{collect.to_markdown(rows)}")
    _tell(paths)
    return any(row.voi is not None for row in rows)


def _fit(source: Path, out: Path, args: argparse.Namespace, *, title: str) -> None:
    """Fit a table's curves and, unless only the fit is asked for, draw them."""
    columns = {"x": args.x, "y": args.y, "group": args.group or None}
    fits = fit.fit_csv(source, **columns)
    fit.write_fits(fits, out / "fit.json")
    print(f"\nL(N) = E + A N^-alpha, L: {args.y}, N: {args.x}\n{fit.describe(fits)}\n")
    paths = [out / "fit.json"]
    if args.action != "fit":
        paths += plot.plot_csv(source, out / "scaling", **columns, fits=fits, title=title)
    _tell(paths)


def _tell(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)
