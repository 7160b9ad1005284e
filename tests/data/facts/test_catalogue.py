"""docs/datasets.md says what the code says."""

import re
import shlex
from pathlib import Path

import pytest

from tokenunify_scale.data.datasets import DATASETS, GROUPS, locate
from tokenunify_scale.data.facts.catalogue import SOURCES, UNKNOWN, table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text()
KINDS = ("facts", "places", "splits", "cite", "notes", "sources")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_holds_each_table_as_the_code_prints_it(kind):
    assert f"\n\n{table(kind)}\n\n" in PAGE


def test_names_voxel_sizes_shapes_licences_and_access_on_the_page():
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", PAGE.partition("## Splits")[0], re.MULTILINE)
    cells = {name: row.split(" | ") for name, row in rows}
    assert list(cells) == list(DATASETS)
    for name, (*_, voxels, shape, _, licence, access) in cells.items():
        facts = DATASETS[name]
        assert tuple(map(float, voxels.split("x"))) == facts.voxel_size
        assert licence == (facts.licence or UNKNOWN) and access == facts.access
        told = None if shape == UNKNOWN else tuple(map(int, shape.split("x")))
        assert told == facts.shape


def test_the_pages_commands_name_data_sets_and_sources_that_can_be_located():
    commands = re.findall(r"^tokenunify prepare .+$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        pairs = list(zip(words, words[1:], strict=False))
        names = [value for flag, value in pairs if flag == "--dataset"]
        source = tuple(value for flag, value in pairs if flag == "--source")
        assert locate(*names, source=source)


def test_the_page_quotes_an_error_as_it_is():
    with pytest.raises(ValueError) as error:
        locate("wafer25")
    assert f"\n{error.value}\n" in PAGE


def test_the_page_says_what_was_not_tried():
    assert "read from there: not measured" in PAGE
    assert all(f"`{group}`" in PAGE for group in GROUPS)


def test_each_source_tells_something_and_each_key_is_a_source():
    used = {
        key for d in DATASETS.values() for keys in d.sources.values() for key in keys.split(", ")
    }
    assert used == set(SOURCES)


def test_tables_have_as_many_cells_in_each_row():
    for kind in ("facts", "places", "splits", "sources"):
        assert len({line.count("|") for line in table(kind).splitlines()}) == 1
