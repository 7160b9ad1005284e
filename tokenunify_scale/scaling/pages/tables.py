"""Tables of cells that are text already, set as Markdown, LaTeX, HTML or plain text."""

import html as _html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenunify_scale.train.runlog import write_atomically

Form = Literal["markdown", "latex", "html", "text"]
EMPTY = "-"  # what is not there

# What LaTeX would read as an instruction.
SPECIALS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under column names."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """One text a column; "+-" between a number and its spread becomes a sign where there is one."""
    words: frozenset[str] = frozenset()
    """Columns that hold words, set to the left; numbers are set to the right."""
    bold: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the cells that stand out."""
    rules: frozenset[int] = frozenset()
    """Rows that begin a new group."""
    caption: str = ""
    notes: tuple[str, ...] = ()
    """Sentences under the table."""

    def __post_init__(self) -> None:
        """Refuse rows of another length than the head."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, {len(self.columns)} expected")


def render(table: Table, form: Form) -> str:
    """A table in one of the forms, with a line break at its end."""
    return {"markdown": markdown, "latex": latex, "html": html, "text": text}[form](table)


def write_table(table: Table, path: Path) -> list[Path]:
    """Write a table as Markdown and LaTeX; .md and .tex are put on the path. Returns the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(path.name + suffix) for suffix in (".md", ".tex")]
    for file, form in zip(written, (markdown, latex), strict=True):
        write_atomically(file, form(table))
    return written


def markdown(table: Table) -> str:
    """A table that lines up as plain text too, its caption over it and its notes under it."""
    cells = [[_strong(_one_line(c), table, r, n) for n, c in enumerate(row)]
             for r, row in enumerate(table.rows)]  # fmt: skip
    lines = [f"| {' | '.join(row)} |\n" for row in _aligned(table, cells, rule=True)]
    head = [f"{table.caption}\n\n"] if table.caption else []
    return "".join([*head, *lines, *(f"\n{note}\n" for note in table.notes)])


def text(table: Table) -> str:
    """A table for the screen: columns lined up, the cells that stand out with a star."""
    cells = [[c + (" *" if (r, n) in table.bold else "") for n, c in enumerate(row)]
             for r, row in enumerate(table.rows)]  # fmt: skip
    lines = ["  ".join(row).rstrip() + "\n" for row in _aligned(table, cells, rule=False)]
    head = [f"{table.caption}\n"] if table.caption else []
    star = ["* best\n"] if table.bold else []
    return "".join([*head, *lines, *star, *(f"{note}\n" for note in table.notes)])


def latex(table: Table) -> str:
    r"""A table environment for \usepackage{booktabs}, every special character escaped."""
    align = "".join("l" if name in table.words else "r" for name in table.columns)
    lines = [r"\begin{table}", r"\centering\small"]
    lines += [rf"\caption{{{escape_latex(table.caption)}}}"] if table.caption else []
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, table.columns)) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        lines += [r"\midrule"] if number and number in table.rules else []
        cells = [escape_latex(cell) for cell in row]
        for place in range(len(cells)):
            if (number, place) in table.bold:
                cells[place] = rf"\textbf{{{cells[place]}}}"
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip\footnotesize {escape_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def html(table: Table) -> str:
    """A table element with its notes, everything escaped; styles are the page's."""
    numeric = [name not in table.words for name in table.columns]
    mark = [' class="n"' if is_number else "" for is_number in numeric]
    lines = ["<table>"]
    lines += [f"<caption>{escape_html(table.caption)}</caption>"] if table.caption else []
    names = (f"<th{m}>{escape_html(n)}</th>" for n, m in zip(table.columns, mark, strict=True))
    lines += [f"<thead><tr>{''.join(names)}</tr></thead>", "<tbody>"]
    for number, row in enumerate(table.rows):
        cells = []
        for place, cell in enumerate(row):
            shown = escape_html(cell)
            shown = f"<strong>{shown}</strong>" if (number, place) in table.bold else shown
            cells.append(f"<td{mark[place]}>{shown}</td>")
        first = ' class="group"' if number and number in table.rules else ""
        lines.append(f"<tr{first}>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    lines += [f'<p class="note">{escape_html(note)}</p>' for note in table.notes]
    return "\n".join(lines) + "\n"


def escape_latex(words: str) -> str:
    """Text that LaTeX sets as it stands; "+-" becomes the sign, a lone dash a long one."""
    if words == EMPTY:
        return "--"
    escaped = "".join(SPECIALS.get(letter, letter) for letter in _one_line(words))
    return escaped.replace("+-", r"$\pm$").replace("--", "-{}-")


def escape_html(words: str) -> str:
    """Text that a browser shows as it stands; "+-" becomes the sign."""
    return _html.escape(words).replace("+-", "&plusmn;")


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _strong(cell: str, table: Table, row: int, column: int) -> str:
    cell = cell.replace("|", "\\|")
    return f"**{cell}**" if (row, column) in table.bold else cell


def _aligned(
    table: Table, cells: Sequence[Sequence[str]], *, rule: bool
) -> Iterable[tuple[str, ...]]:
    """The head, a rule if one is wanted, and the rows, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(table.columns, *cells, strict=True)]
    left = [name in table.words for name in table.columns]
    dashes = ["-" * w if is_left else "-" * (w - 1) + ":"
              for w, is_left in zip(widths, left, strict=True)]  # fmt: skip
    for line in (table.columns, *([dashes] if rule else []), *cells):
        yield tuple(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        )
