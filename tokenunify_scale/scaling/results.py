"""What a study or any table of points gives: tables, fits, a verdict, figures, one report."""

import argparse
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenunify_scale.config import ConfigError, dump_yaml, to_dict
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.grid.study import Study
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.scaling.jobs.states import State, states
from tokenunify_scale.scaling.laws.fit import Fit, describe, fit_law, write_fits
from tokenunify_scale.scaling.laws.frontier import budgets_of, frontier, iso_flop
from tokenunify_scale.scaling.laws.points import Points, read_points
from tokenunify_scale.scaling.laws.verdict import verdict
from tokenunify_scale.scaling.pages import collect, plot, published, tables
from tokenunify_scale.scaling.pages.comparison import SOURCES, comparison, conditions
from tokenunify_scale.scaling.pages.ranking import ranking_table
from tokenunify_scale.scaling.pages.report import Report, environments, write_report
from tokenunify_scale.train.runlog import write_atomically

PAPER_NOISE = 0.046  # bits; standard deviation of TokenUnify's VOI on wafer 4 (Table 7)
PARAGRAPH = "\n\n"
BUDGETS = 5  # of a frontier, where points have none in common


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What is fitted, compared and drawn."""

    x: tuple[str, ...]
    y: str
    group: str | None
    """Columns that make a curve each, joined by commas; None for all that the table has of the
    study's."""
    flops: str | None = None
    noise: float | None = None
    scale: str = "logx"
    width: str = "page"
    paper: str | None = None
    """Backbone of the paper's figure behind the curves."""

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Curves":
        """From the flags of the command.

        Raises:
            ConfigError: a noise that is not positive.
        """
        if args.noise is not None and not args.noise > 0:
            raise ConfigError(f"--noise is a standard deviation, > 0, got {args.noise}")
        x = tuple(name.strip() for name in args.x.split(","))
        names = ("y", "group", "flops", "noise", "scale", "width")
        paper = published.BACKBONES[0] if args.paper == "" else args.paper
        return cls(x=x, paper=paper, **{name: getattr(args, name) for name in names})

    def of_study(self, study: Study) -> "Curves":
        """One curve for each initialisation and value of the study's axes, unless told."""
        named = ",".join(("init", *study.grid)) if self.group is None else self.group
        return dataclasses.replace(self, group=named)

    def columns(self, table: Path) -> str | None:
        """The groups of a table, ``init`` where it has that and nothing was told."""
        if self.group is None:
            return "init" if table.is_file() and "init" in _header(table) else None
        return self.group or None

    def points(self, table: Path) -> dict[str, Points]:
        """Read them; errors as ``read_points``."""
        group = self.columns(table)
        return read_points(table, x=self.x, y=self.y, group=group, flops=self.flops)


def _header(table: Path) -> list[str]:
    with table.open(encoding="utf-8-sig") as file:
        return [name.strip() for name in file.readline().split(",")]


def fit_table(table: Path, out: Path, curves: Curves) -> tuple[dict[str, Fit], str]:
    """Fit a table's curves, write fit.json, print and return what they say."""
    points = curves.points(table)
    fits = {name: fit_law(each, noise=curves.noise) for name, each in points.items()}
    write_fits(fits, out / "fit.json")
    law = "E + A N^-alpha + B D^-beta" if len(curves.x) > 1 or curves.flops else "E + A N^-alpha"
    parts = [f"L = {law}; L: {curves.y}, N: {curves.x[0]}", describe(fits)]
    parts += [_optima(name, fits[name], each) for name, each in points.items()]
    said = "\n".join(part for part in parts if part)
    print(f"\n{said}\n\n{out / 'fit.json'}")
    return fits, said


def _optima(name: str, fit: Fit, points: Points) -> str:
    """Where compute is best spent, of a law of two variables."""
    if points.x.shape[1] < 2:
        return ""
    budgets = [flops for flops, _ in budgets_of(points)]
    if len(budgets) > BUDGETS:
        budgets = list(np.geomspace(min(budgets), max(budgets), BUDGETS))
    title = f"compute-optimal {name}".rstrip()
    return f"{title}: {frontier(fit, budgets).text()}\n{iso_flop(points).text()}"


def judge_table(table: Path, out: Path, curves: Curves, *, brief: bool = False) -> str:
    """Compare a table's curves, write verdict.json, print and return what may be said.

    Args:
        table: a CSV file.
        out: where to write.
        curves: what is compared.
        brief: print no more than which curves differ.
    """
    found = verdict(curves.points(table), noise=curves.noise)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "verdict.json", json.dumps(found.to_dict(), indent=1) + "\n")
    said = found.text()
    print(f"\n{said.split(PARAGRAPH)[0] if brief else said}\n\n{out / 'verdict.json'}")
    return said


def draw_table(
    table: Path, out: Path, curves: Curves, *, fits: Mapping[str, Fit], title: str
) -> list[Path]:
    """Draw a table's curves; returns the files."""
    paper = {"paper": curves.paper, "paper_x": curves.x[0]} if curves.paper else {}
    return plot.plot_csv(
        table,
        out / "scaling",
        x=curves.x,
        y=curves.y,
        group=curves.columns(table),
        flops=curves.flops,
        fits=fits,
        title=title,
        scale=curves.scale,
        width=curves.width,
        **paper,
    )


def draw_paper(out: Path, backbones: Sequence[str]) -> None:
    """The paper's Figure 6 alone: its points, fits with intervals, and what they do not tell.

    One value a size is printed: the noise of a run is taken from Table 7, another experiment.
    """
    for backbone in backbones:
        points = published.figure6(backbone)
        fits = {name: fit_law(each, noise=PAPER_NOISE) for name, each in points.items()}
        said = verdict(points, noise=PAPER_NOISE).text()
        print(f"\n{backbone}\n{describe(fits)}\n\n{said}\n")
        notes = said.split(PARAGRAPH)[0].splitlines()
        _tell(plot.plot_paper(out / f"figure6_{backbone}", backbone=backbone, fits=fits,
                              notes=notes))  # fmt: skip


class Tables(NamedTuple):
    """What a study measured."""

    rows: list[collect.Row]
    ranking: tables.Table
    beside: tables.Table | None
    """The paper's beside ours, where it has one."""


def write_tables(study: Study, jobs: list[Job], out: Path) -> Tables:
    """Write and print what a study measured."""
    rows = collect.collect(jobs, states(jobs))
    paths = collect.write_tables(rows, out)
    ranking = ranking_table(rows)
    paths += tables.write_table(ranking, out / "ranking")
    print(f"\n{collect.to_markdown(rows)}\n{tables.text(ranking)}")
    beside = None
    if study.name in SOURCES:
        beside = comparison(rows, study.name, conditions=conditions(jobs))
        paths += tables.write_table(beside, out / "beside_paper")
        print(f"\n{tables.text(beside)}")
    _tell(paths)
    return Tables(rows, ranking, beside)


def write_study(
    study: Study, jobs: list[Job], out: Path, curves: Curves, *, words: Sequence[str]
) -> None:
    """Everything that a study's results give, from its tables to report.html.

    Args:
        study: what was run.
        jobs: of it.
        out: its folder.
        curves: what is fitted and drawn; by default one for each initialisation and value of axes.
        words: of the command that ran it.
    """
    rows, ranking, beside = write_tables(study, jobs, out)
    if not any(row.voi is not None for row in rows):
        return
    curves, table = curves.of_study(study), out / "table.csv"
    fits, laws = fit_table(table, out, curves)
    said = judge_table(table, out, curves, brief=True)
    paths = draw_table(table, out, curves, fits=fits, title=study.name)
    caption = f"{curves.y} against {', '.join(curves.x)}; every point is a run."
    report = Report(
        title=study.name,
        rows=rows,
        rankings=[ranking],
        figures={caption: out / "scaling.svg"},
        words={"Fits": laws, "Verdict": said},
        comparison=beside,
        failures=_failures(jobs, states(jobs)),
        environments=environments(jobs),
        recipe=dump_yaml(to_dict(study)),
        commands=[shlex.join(("tokenunify", "scaling", *words))],
    )
    _tell([*paths, write_report(report, out / "report.html")])


def _failures(jobs: Sequence[Job], found: Mapping[str, State]) -> dict[str, str]:
    """Why jobs failed: how often, with which exit code, and where their log is."""
    failed = {job.name: attempts(job.folder) for job in jobs if found[job.name] == "failed"}
    return {
        name: f"exit code {tried[-1].code} after {len(tried)} starts, see {name}/log.txt"
        for name, tried in failed.items()
    }


def _tell(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)
