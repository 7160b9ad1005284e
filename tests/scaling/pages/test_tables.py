import html as escaping
from html.parser import HTMLParser

import pytest

from tokenunify_scale.scaling.pages.tables import (
    SPECIALS,
    Table,
    escape_html,
    escape_latex,
    html,
    latex,
    markdown,
    render,
    text,
    write_table,
)

NASTY = 'a & b_c {50 %} $x$ #1 ~ ^ \\ <i> | --x "q"'
TABLE = Table(
    columns=("name", "VOI"),
    rows=(("mae", "1.2 +- 0.1"), (NASTY, "-")),
    words=frozenset({"name"}),
    bold=frozenset({(0, 1)}),
    rules=frozenset({0, 1}),
    caption="Of 50 % & more",
    notes=("Lower is better_",),
)


def unescaped_specials(words):
    """Characters of a LaTeX text that it would not print: none is behind a backslash."""
    known = sorted(SPECIALS.values(), key=len, reverse=True)
    for command in (*known, r"$\pm$", r"\textbf{", "-{}-", r"\\"):
        words = words.replace(command, "")
    return [letter for letter in words.replace(" & ", " ").replace("}", "") if letter in SPECIALS]


def test_every_form_holds_every_cell():
    for form in ("markdown", "latex", "html", "text"):
        done = render(TABLE, form)
        assert done.endswith("\n") and "mae" in done and "Lower is better" in done


def test_markdown_lines_up_and_marks_the_best():
    lines = [line for line in markdown(TABLE).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert "**1.2 +- 0.1**" in lines[2] and "\\|" in lines[3]
    assert lines[1].endswith("-: |") and set(lines[1]) == set("|-: ")


def test_plain_text_says_what_its_star_means():
    assert "1.2 +- 0.1 *" in text(TABLE) and "* best" in text(TABLE)


def test_latex_is_balanced_and_prints_what_was_written():
    done = latex(TABLE)
    begun = [line for line in done.splitlines() if line.startswith(r"\begin")]
    assert len(begun) == done.count(r"\end{") == 2
    for rule in (r"\toprule", r"\bottomrule"):
        assert done.count(rule) == 1
    assert done.count(r"\midrule") == 2  # under the head, and before the second group
    plain = done.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    rows = [line for line in done.splitlines() if line.endswith(r"\\") and "rule" not in line]
    for row in rows:
        assert row.replace(r"\&", "").count("&") == 1
        assert unescaped_specials(row) == []
    assert r"\textbf{1.2 $\pm$ 0.1}" in done


@pytest.mark.parametrize("letter", SPECIALS)
def test_each_special_character_is_escaped_in_latex(letter):
    done = escape_latex(f"a{letter}b")
    assert done != f"a{letter}b" and unescaped_specials(done) == []


def test_a_break_within_a_cell_does_not_break_a_row():
    broken = Table(columns=("a",), rows=(("one\n\ntwo",),))
    assert "one two" in latex(broken) and len(markdown(broken).splitlines()) == 3


class Cells(HTMLParser):
    """The texts of a table's cells, as a browser reads them."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "td":
            self.found.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.found[-1] += data


def test_html_reads_back_as_what_was_written():
    parser = Cells()
    parser.feed(html(TABLE))
    assert parser.open == []
    written = [cell.replace("+-", "\u00b1") for row in TABLE.rows for cell in row]
    assert parser.found == written
    assert escaping.unescape(escape_html(NASTY)) == NASTY


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 0 has 1 cells, 2 expected"):
        Table(columns=("a", "b"), rows=(("1",),))


def test_a_table_is_written_as_markdown_and_latex(tmp_path):
    paths = write_table(TABLE, tmp_path / "out" / "ranking")
    assert [path.name for path in paths] == ["ranking.md", "ranking.tex"]
    assert [path.read_text() for path in paths] == [markdown(TABLE), latex(TABLE)]
