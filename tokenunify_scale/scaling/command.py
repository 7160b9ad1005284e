"""The words of `tokenunify scaling`: from a plan to a report, and fits of any table."""

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tokenunify_scale.config import ConfigError, build, load_recipe, override
from tokenunify_scale.scaling.costs import preview
from tokenunify_scale.scaling.costs.calibrate import calibrate
from tokenunify_scale.scaling.costs.costs import costs
from tokenunify_scale.scaling.grid.plan import Job, check, plan, without
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs import process, slurm, status, task
from tokenunify_scale.scaling.jobs.run import run_jobs, run_study
from tokenunify_scale.scaling.jobs.states import states
from tokenunify_scale.scaling.laws import power
from tokenunify_scale.scaling.pages import plot, published
from tokenunify_scale.scaling.results import (
    Curves,
    draw_paper,
    draw_table,
    fit_table,
    judge_table,
    write_study,
    write_tables,
)
from tokenunify_scale.train.plan import job_size
from tokenunify_scale.train.sbatch import Batch

ACTIONS = {
    "plan": "every run with what it needs; starts nothing",
    "run": "do all that is not done, then tables, fits, verdict, figures and report.html",
    "status": "how every run stands",
    "collect": "tables and ranking, from the runs' results",
    "fit": "scaling laws of a study or of any FILE.csv",
    "verdict": "which curves differ, and whether that changes with size",
    "plot": "fits, figures and, of a study, the report; --paper alone draws the paper's Figure 6",
    "power": "what a design could resolve, before it is paid for",
}
RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of `tokenunify scaling` to a parser."""
    add = parser.add_argument
    actions = "; ".join(f"{name}: {purpose}" for name, purpose in ACTIONS.items())
    add("action", choices=(*ACTIONS, "job"), metavar="action", help=actions)
    add("source", nargs="?", help="a study: a recipe's file or name; or FILE.csv")
    add("--out", type=Path, help="folder of the study [runs/NAME]")
    add("--set", action="append", default=[], metavar="A.B=C", help="change a recipe's setting")
    group = parser.add_argument_group("plan and run")
    add = group.add_argument
    add("--jobs", type=int, metavar="N", help="jobs side by side [cores / threads of a job]")
    add("--retries", type=int, default=1, metavar="N", help="starts of a failed job beside one [1]")
    add("--hostfile", type=Path, help="train on all of these hosts, one job at a time")
    add("--max-hours", type=float, metavar="H", help="leave out cells with a job that takes longer")
    add("--calibrate", action="store_true", help="measure speeds by short runs first")
    add("--rate", type=float, metavar="X", help="price of a device-hour, for the plan")
    add("--currency", default="USD", help="of the rate [USD]")
    add("--device-memory", type=float, metavar="GIB", help="of the devices that it will run on")
    add("--device-tflops", type=float, metavar="X", help="peak of these, for times: A100 312")
    add("--dry-run", action="store_true", help="print the plan, start nothing")
    add("--watch", nargs="?", const=5.0, type=float, metavar="SECONDS", help="status: stay [5]")
    add("--slurm", action="store_true", help="submit job arrays, one a stage, in place of running")
    add("--slurm-option", action="append", default=[], metavar="=--X=Y", help="more for sbatch")
    add("--nodes", type=int, default=1, metavar="N", help="of a training under Slurm [1]")
    add("--gpus-per-node", type=int, default=1, metavar="N", help="ranks of a node [1]")
    add("--name", help=argparse.SUPPRESS)  # of the job that a task of an array runs
    add("--ranks", type=int, default=1, help=argparse.SUPPRESS)
    group = parser.add_argument_group("fit, verdict and plot")
    add = group.add_argument
    add("--x", default="parameters", help="column of the sizes N; N,D of sizes and data")
    add("--y", default="voi", help="column of the losses [voi]")
    add("--group", help="columns that make a curve each, A,B; '' for one [init and axes]")
    add("--flops", metavar="C", help="column of FLOPs that stands in for data: D = C / (6 N)")
    add("--noise", type=float, metavar="SD", help="of a run, in units of y, where it is known")
    add("--scale", choices=plot.SCALES, default="logx", help="logarithmic axes [logx]")
    add("--width", choices=list(plot.WIDTHS), default="page", help="85 or 170 mm [page]")
    add("--paper", nargs="?", const="", choices=["", *published.BACKBONES],
        help="the paper's Figure 6: behind the curves, or alone")  # fmt: skip
    group = parser.add_argument_group("power, with --noise")
    add = group.add_argument
    add("--sizes", type=int, default=5, metavar="S", help="sizes of the design [5]")
    add("--seeds", default="1..5", metavar="A..B", help="runs of each [1..5]")
    add("--effect", type=float, metavar="D", help="difference to find [the paper's, 0.138 bits]")


def main(args: argparse.Namespace) -> int:
    """Do what ``args``, parsed by a parser of ``add_arguments``, say; returns the exit code.

    Raises:
        ConfigError: the request is wrong, or cannot be run here.
        DataError: a table or a result is missing or damaged.
        HostError: another run of the study goes on.
    """
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {args.jobs}")
    for name in ("max_hours", "device_memory", "device_tflops"):
        if (value := getattr(args, name)) is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be > 0, got {value:g}")
    if args.action == "power":
        return _power(args)
    if args.source is None:
        if args.action == "plot" and args.paper is not None:
            draw_paper(args.out or RUNS / "paper", [args.paper] if args.paper else
                       published.BACKBONES)  # fmt: skip
            return 0
        raise ConfigError(f"{args.action} needs a study, as cpu_demo, or a FILE.csv")
    if args.action == "job":
        return task.run_task(Path(args.source), args.name, ranks=args.ranks, retries=args.retries)
    if Path(args.source).suffix == ".csv":
        return _table(Path(args.source), args)
    return _study(args)


def _power(args: argparse.Namespace) -> int:
    if args.noise is None or not args.noise > 0:
        raise ConfigError("power needs --noise, the standard deviation of a run, as 0.046")
    first, dots, last = args.seeds.partition("..")
    try:
        seeds = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        seeds = range(0)
    if args.sizes < 2 or not seeds or seeds[0] < 1:
        raise ConfigError(
            f"--sizes must be at least 2 and --seeds as 1..5 or 3, got {args.sizes} and "
            f"{args.seeds}"
        )
    effect = power.PAPER_EFFECT if args.effect is None else args.effect
    rows = power.power(args.sizes, seeds, args.noise, effect=effect)
    print(power.assumption(**power.PAPER, noise=args.noise))
    print(power.table(rows, effect=effect))
    return 0


def _table(table: Path, args: argparse.Namespace) -> int:
    """Fit, compare or draw the points of a file."""
    if args.action not in ("fit", "verdict", "plot"):
        raise ConfigError(f"{args.action} needs a recipe; {table} is a table")
    out, curves = args.out or RUNS / table.stem, Curves.of(args)
    if args.action == "verdict":
        judge_table(table, out, curves)
        return 0
    fits, _ = fit_table(table, out, curves)
    if args.action == "plot":
        for path in draw_table(table, out, curves, fits=fits, title=table.stem):
            print(path)
    return 0


def _study(args: argparse.Namespace) -> int:
    """Plan, run or read a study."""
    study = load_study(args.source, overrides=args.set)
    out, curves = args.out or RUNS / study.name, Curves.of(args)
    jobs = plan(study, out)
    if args.action == "status":
        status.show(jobs, out, every=args.watch)
        return 0
    if args.action in ("plan", "run"):
        left = _plan(study, jobs, out, args)
        if args.action == "plan" or args.dry_run or args.slurm:
            return _submit(left, out, args) if args.slurm else 0
        code = run_study(study, out, args.jobs, hostfile=args.hostfile, retries=args.retries,
                         names={job.name for job in left})  # fmt: skip
        if code and not any(state == "finished" for state in states(jobs).values()):
            return code
    words = ["run", args.source, *(word for each in args.set for word in ("--set", each))]
    if args.action == "collect":
        write_tables(study, jobs, out)
    elif args.action in ("run", "plot"):
        write_study(study, jobs, out, curves, words=words)
    else:
        write_tables(study, jobs, out)
        read = fit_table if args.action == "fit" else judge_table
        read(out / "table.csv", out, curves.of_study(study))
    return code if args.action == "run" else 0


def _plan(study: Study, jobs: list[Job], out: Path, args: argparse.Namespace) -> list[Job]:
    """Say what a study needs, refuse what cannot be; returns the jobs that are left to --max-hours.

    Raises:
        ConfigError: a job cannot be built, or does not fit into memory or on the disk.
    """
    found, slots = states(jobs), args.jobs or max(1, process.cores() // study.threads)
    if args.action == "run" and all(state == "finished" for state in found.values()):
        return jobs  # nothing to count, which takes seconds
    check(jobs)
    world = args.nodes * args.gpus_per_node
    if not args.slurm:
        world = job_size(args.hostfile, expected=None, started=1)[0]
    known = costs(jobs, world=world)
    if args.calibrate:
        threads = study.threads if slots > 1 else None
        calibrate(jobs, known, out, run=partial(run_jobs, out=out, slots=slots, threads=threads))
        found = states(jobs)
    pace, source = preview.pace_of(
        jobs, known, found, out, threads=study.threads, world=world, tflops=args.device_tflops
    )
    left = jobs
    if args.max_hours is not None:
        hours = {job.name: (pace.seconds(known[job.name]) or 0.0) / 3600 for job in jobs}
        long = [name for name, each in hours.items() if each > args.max_hours]
        left = without(jobs, long)
        for name in long:
            print(f"left out: {name}, about {hours[name]:.1f} h")
    money = None if args.rate is None else preview.Money(rate=args.rate, currency=args.currency)
    told = {"pace": pace, "source": source, "slots": slots}
    if args.action == "plan" or args.dry_run:
        print(preview.table(left, known, found, **told, world=world, money=money))
    else:
        print(preview.summary(left, known, found, **told))
    room = preview.room_of(out, device_memory=args.device_memory)
    preview.check_fits(left, known, found, slots=slots, room=room)
    return left


def _submit(jobs: list[Job], out: Path, args: argparse.Namespace) -> int:
    """Write the scripts of job arrays, and give them to Slurm unless it is a dry run."""
    try:
        batch = Batch(nodes=args.nodes, gpus_per_node=args.gpus_per_node,
                      options=tuple(args.slurm_option))  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from None
    arrays = slurm.write(
        jobs, states(jobs), out, batch=batch, at_once=args.jobs, retries=args.retries
    )
    for array in arrays:
        print(array.script)
    if not args.dry_run:
        for name, number in slurm.submit(arrays).items():
            print(f"submitted {name} as {number}")
    return 0


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
