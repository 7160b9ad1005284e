"""One page that tells a study: what was run, what came out, on what, and how to repeat it."""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.jobs.retry import attempts
from tokenunify_scale.scaling.pages import tables
from tokenunify_scale.scaling.pages.collect import Row, axes_of, to_table, values_of
from tokenunify_scale.scaling.pages.tables import Table
from tokenunify_scale.train.runlog import write_atomically

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #fff; --soft: #666; --line: #d5d5d5;
  --box: #f5f5f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #17181a; --soft: #a0a0a0;
  --line: #3c3e42; --box: #222427; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 0.3rem; }
th, td { text-align: left; padding: 0.2rem 0.7rem 0.2rem 0; vertical-align: top;
  white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); }
tr.group td { border-top: 1px solid var(--line); }
.n { text-align: right; }
.note, figcaption { color: var(--soft); font-size: 0.85rem; margin: 0.3rem 0; max-width: 46rem; }
figure { margin: 1rem 0; max-width: 46rem; }
figure div { background: #fff; overflow-x: auto; border-radius: 4px; }
figure svg { display: block; width: 100%; min-width: 32rem; height: auto; }
pre { background: var(--box); padding: 0.7rem; border-radius: 4px; overflow-x: auto;
  font: 0.8rem/1.45 ui-monospace, monospace; }
pre.words { white-space: pre-wrap; }
@media print { :root { color-scheme: light; --ink: #000; --page: #fff; --soft: #444; --line: #bbb;
  --box: #fff; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  figure svg { min-width: 0; } pre { white-space: pre-wrap; border: 1px solid var(--line); }
  .wide { overflow: visible; } th, td { white-space: normal; } }
"""
# Of environment.json, and what they are called on the page.
FACTS = {"platform": "platform", "python": "Python", "device": "device", "git_commit": "commit"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What stands on the page, in its order; what is empty is left out."""

    title: str
    rows: Sequence[Row]
    rankings: Sequence[Table] = ()
    figures: Mapping[str, Path] | None = None
    """SVG files by their captions; those of matplotlib, or others without links."""
    words: Mapping[str, str] | None = None
    """Texts by their headings, as the screen shows them: fits, verdict."""
    comparison: Table | None = None
    failures: Mapping[str, str] | None = None
    """Why jobs failed, by name."""
    environments: Sequence[Mapping[str, Any]] = ()
    """What environment.json of each finished run holds."""
    recipe: str = ""
    """The study as YAML."""
    commands: Sequence[str] = ()
    """What to type to repeat it."""


def write_report(report: Report, path: Path) -> Path:
    """Write a report as one HTML file that needs no other; returns its path.

    Raises:
        DataError: a figure is missing or is no SVG.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(report))
    return path


def page(report: Report) -> str:
    """The report as HTML; errors as ``write_report``."""
    sections = [f"<h1>{_text(report.title)}</h1>", f"<p>{_text(_summary(report.rows))}</p>"]
    if report.rankings:
        sections += ["<h2>Ranking</h2>", *map(_wide, report.rankings)]
    if report.figures:
        sections += ["<h2>Figures</h2>"]
        sections += [
            _figure(caption, file, mark=f"f{number}-")
            for number, (caption, file) in enumerate(report.figures.items())
        ]
    for heading, words in (report.words or {}).items():
        sections += [f"<h2>{_text(heading)}</h2>", f'<pre class="words">{_text(words)}</pre>']
    if report.comparison:
        sections += ["<h2>Beside the paper</h2>", _wide(report.comparison)]
    sections += ["<h2>What is missing</h2>", *_missing(report)]
    sections += ["<h2>All rows</h2>", _wide(to_table(report.rows))]
    if report.environments:
        sections += ["<h2>Environment</h2>", _wide(environment_table(report.environments))]
    if report.recipe:
        sections += ["<h2>Recipe</h2>", f"<pre>{_text(report.recipe)}</pre>"]
    if report.commands:
        sections += ["<h2>To repeat it</h2>", f"<pre>{_text(chr(10).join(report.commands))}</pre>"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _text(words: str) -> str:
    return html.escape(words)


def _wide(table: Table) -> str:
    return f'<div class="wide">{tables.html(table)}</div>'


def _summary(rows: Sequence[Row]) -> str:
    """What was run, in sentences."""
    if not rows:
        return "The study has no runs."
    axes = {"size": "sizes", "init": "initialisations", "seed": "seeds"}
    axes |= {name: name for name in axes_of(rows)}
    parts = []
    for name, called in axes.items():
        values = dict.fromkeys(at[name] for row in rows if name in (at := values_of(row)))
        parts.append(f"{called} {', '.join(values)}")
    done = [row for row in rows if not row.missing]
    seconds = sum(row.seconds or 0 for row in done)
    time = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
    return (
        f"A grid of {len(rows)} cells ({'; '.join(parts)}), {len(done)} of them complete. The runs "
        f"of these took {time} one after another; a run that cells share is counted in each."
    )


def _missing(report: Report) -> list[str]:
    """What has no result, and why, in words."""
    lines = []
    for row in report.rows:
        if row.missing:
            where = ", ".join(f"{name} {value}" for name, value in values_of(row).items())
            lines.append(f"{where}: {row.missing} has no result")
    lines += [f"{name} failed: {why}" for name, why in (report.failures or {}).items()]
    if not lines:
        return ["<p>Nothing: every cell has its scores, and no run failed.</p>"]
    return ["<ul>", *(f"<li>{_text(line)}</li>" for line in lines), "</ul>"]


def _figure(caption: str, file: Path, *, mark: str) -> str:
    """An SVG file as an inline figure; ``mark`` keeps its names apart from other figures'."""
    drawing = inline_svg(file, mark=mark)
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{_text(caption)}"', 1)
    return f"<figure><div>{drawing}</div>\n<figcaption>{_text(caption)}</figcaption></figure>"


def inline_svg(file: Path, *, mark: str) -> str:
    """An SVG file's drawing for a page: without prologue, metadata, comments and name spaces.

    Args:
        file: an SVG file.
        mark: put before every id, so that two drawings on a page do not share one.

    Raises:
        DataError: no such file, no SVG in it, or one with scripts or links to elsewhere.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such figure")
    found = re.search(r"<svg.*</svg>", file.read_text(), re.DOTALL)
    if found is None:
        raise DataError(f"{file}: no SVG in it")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", found[0], flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    if re.search(r"<script|<foreignObject|\bon\w+=|(href|src)=\"(?!#)|url\((?!#)", text):
        raise DataError(f"{file}: has scripts or links; a report takes plain drawings")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}", text)


def environments(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """environment.json of every run that has a result, with its host, in the plan's order."""
    found = []
    for job in jobs:
        file = job.folder / "environment.json"
        if file.is_file() and (job.folder / "result.json").is_file():
            host = {"host": last[-1].host} if (last := attempts(job.folder)) else {}
            found.append({**host, **json.loads(file.read_text())})
    return found


def environment_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Facts of environments, a column for each that differs in more than its host's name.

    Args:
        found: as ``environments`` gives them.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for facts in found:
        alike = {key: facts.get(key) for key in (*FACTS, "packages")}
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(facts)
    lines: dict[str, list[str]] = {}
    for number, members in enumerate(groups.values()):
        facts = members[0]
        said = {"hosts": _list(m.get("host") for m in members), "runs": str(len(members))}
        said |= {name: str(facts[key]) for key, name in FACTS.items() if facts.get(key)}
        scans = (m["scan"]["backend"] for m in members if isinstance(m.get("scan"), Mapping))
        said |= {"selective scan": _list(scans), "ranks": _list(m.get("world") for m in members)}
        said |= {name: str(version) for name, version in (facts.get("packages") or {}).items()}
        for name, value in said.items():
            line = lines.setdefault(name, [tables.EMPTY] * len(groups))
            line[number] = value or tables.EMPTY
    heads = [f"environment {n}" if len(groups) > 1 else "value" for n in range(1, len(groups) + 1)]
    return Table(
        columns=("fact", *heads),
        rows=tuple((name, *values) for name, values in lines.items()),
        words=frozenset(("fact", *heads)),
    )


def _list(values: Iterable[Any]) -> str:
    """Different values, in order of appearance."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
