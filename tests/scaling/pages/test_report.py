import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.scaling.pages.collect import Row
from tokenunify_scale.scaling.pages.plot import draw
from tokenunify_scale.scaling.pages.published import figure6
from tokenunify_scale.scaling.pages.ranking import ranking_table
from tokenunify_scale.scaling.pages.report import (
    Report,
    environment_table,
    environments,
    inline_svg,
    page,
    write_report,
)

ROWS = [
    Row(size="atto", init="mae", seed=0, voi=1.25, arand=0.2, seconds=90.0, axes={"d": "<b>"}),
    Row(size="atto", init="mae", seed=1, missing="finetune/atto-mae-s1", axes={"d": "<b>"}),
]
VOID = {"meta", "path", "use", "rect", "line", "br", "stop"}


class Reader(HTMLParser):
    """Tags, ids, links and the texts outside drawings, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.links += [value] if name in ("href", "src", "xlink:href", "data") else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def figure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return draw(figure6("mamba"), folder / "scaling", title="a & b")[1]


@pytest.fixture
def full(figure):
    return Report(
        title="study <1>",
        rows=ROWS,
        rankings=[ranking_table(ROWS)],
        figures={"VOI & parameters": figure, "again": figure},
        words={"Fits": "L < 2 & more", "Verdict": "random minus mae: <0.1>"},
        comparison=ranking_table(ROWS),
        failures={"finetune/atto-mae-s1": "exit code 5: <nan>"},
        environments=[{"host": "h<1>", "python": "3.11", "packages": {"torch": "2"}}],
        recipe="name: study # <x>",
        commands=["tokenunify scaling run a.yaml --set 'x=<1>'"],
    )


def test_the_page_is_sound_html_that_needs_nothing_from_elsewhere(full, tmp_path):
    path = write_report(full, tmp_path / "out" / "report.html")
    text = path.read_text()
    reader = Reader(text)
    assert reader.open == [] and "script" not in reader.tags and "img" not in reader.tags
    assert reader.links and all(link.startswith("#") for link in reader.links)
    assert "http" not in text and "@import" not in text and "url(" in text
    assert text.count("<svg") == 2 and "prefers-color-scheme: dark" in text
    assert "@media print" in text and "width=device-width" in text


def test_ids_are_unique_and_every_link_has_its_target(full):
    reader = Reader(page(full))
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links} <= set(reader.ids)


def test_all_that_was_given_stands_on_the_page_and_is_escaped(full):
    text = page(full)
    words = " ".join(" ".join(Reader(text).words).split())
    for part in (
        "study <1>", "1.2500", "VOI & parameters", "L < 2 & more", "random minus mae: <0.1>",
        "finetune/atto-mae-s1 failed: exit code 5: <nan>", "name: study # <x>", "h<1>",
        "--set 'x=<1>'", "size atto, init mae, seed 1, d <b>: finetune/atto-mae-s1 has no result",
        "A grid of 2 cells (sizes atto; initialisations mae; seeds 0, 1; d <b>), 1 of them",
    ):  # fmt: skip
        assert part in words, part
    assert "<b>" not in text and "<nan>" not in text


def test_a_bare_study_has_no_empty_sections():
    text = page(Report(title="s", rows=ROWS[:1]))
    for heading in ("Ranking", "Figures", "Fits", "Environment", "Recipe", "To repeat"):
        assert heading not in text
    assert "Nothing: every cell has its scores" in text
    assert Reader(page(Report(title="s", rows=[]))).open == []


@pytest.mark.parametrize(
    "drawing, told",
    [
        ("no drawing", "no SVG"),
        ("<svg><script>x</script></svg>", "scripts or links"),
        ('<svg><image href="https://x.org/a.png"/></svg>', "scripts or links"),
        ('<svg onload="x()"></svg>', "scripts or links"),
    ],
)
def test_a_drawing_with_links_or_scripts_is_refused(drawing, told, tmp_path):
    file = tmp_path / "a.svg"
    file.write_text(drawing)
    with pytest.raises(DataError, match=told):
        inline_svg(file, mark="a-")
    with pytest.raises(DataError, match="no such figure"):
        inline_svg(tmp_path / "none.svg", mark="a-")


def test_an_inline_drawing_keeps_its_shapes(figure):
    before, after = figure.read_text(), inline_svg(figure, mark="a-")
    for tag in ("<path", "<use", "<g"):
        assert after.count(tag) == before.count(tag)
    assert after.count('id="a-') == before.count('id="')


def test_every_host_is_named_and_environments_that_differ_stand_apart():
    base = {"python": "3.11", "packages": {"torch": "2.13"}, "git_commit": "abc"}
    found = [
        {**base, "host": "one", "scan": {"backend": "cuda"}, "world": 4},
        {**base, "host": "two"},
        {**base, "host": "one", "packages": {"torch": "2.12"}},
    ]
    table = environment_table(found)
    lines = {row[0]: row[1:] for row in table.rows}
    assert lines["hosts"] == ("one, two", "one") and lines["runs"] == ("2", "1")
    assert lines["torch"] == ("2.13", "2.12") and lines["selective scan"] == ("cuda", "-")
    assert lines["ranks"] == ("4", "-") and lines["commit"] == ("abc", "abc")


def test_environments_are_those_of_finished_runs_with_the_host_of_their_last_start(tmp_path):
    attempt = {"began": 1.0, "host": "here", "process": 2}
    for name, files in {
        "done": ["environment.json", "result.json"], "begun": ["environment.json"],
    }.items():  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_text(json.dumps({"python": name}))
        (folder / "attempts.json").write_text(json.dumps([attempt]))
    jobs = [SimpleNamespace(folder=tmp_path / name) for name in ("done", "begun", "none")]
    assert environments(jobs) == [{"host": "here", "python": "done"}]
