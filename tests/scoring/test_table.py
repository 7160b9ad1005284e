"""The tables of what is worst: whole ids, places in voxels and nm."""

import csv

from tokenunify_scale.metrics import Mistake
from tokenunify_scale.scoring.table import worst_text, write_csv, write_markdown

MISTAKES = [
    Mistake("split", 2**60 + 7, 900, 0.5, 2, ((11, 600), (2**63 + 1, 300))),
    Mistake("merge", 12, 800, 0.25, 3, ((5, 400), (6, 300), (7, 100))),
]
PLACES = [(3, 40, 50), (4, 60, 70)]


def test_a_row_holds_ids_parts_and_the_place_of_a_mistake(tmp_path):
    write_csv(tmp_path / "e.csv", MISTAKES, PLACES, units="bits", voxel_size=(40, 4.5, 4.5))
    split, merge = csv.DictReader((tmp_path / "e.csv").open())
    assert split["id"] == split["object"] == str(2**60 + 7)
    assert split["segment"] == str(2**63 + 1) and split["voi_bits"] == "0.5"
    assert split["largest_parts"] == f"11:600 {2**63 + 1}:300"
    assert (merge["segment"], merge["object"], merge["parts"]) == ("12", "6", "3")
    assert [merge[key] for key in ("z", "y", "x")] == ["4", "60", "70"]
    assert [merge[key] for key in ("z_nm", "y_nm", "x_nm")] == ["160", "270", "315"]


def test_without_a_voxel_size_there_is_no_place_in_nm(tmp_path):
    write_csv(tmp_path / "e.csv", MISTAKES, PLACES, units="nats", voxel_size=None)
    split, _ = csv.DictReader((tmp_path / "e.csv").open())
    assert split["z_nm"] == "" and split["voi_nats"] == "0.5"


def test_people_get_a_table_for_each_kind(tmp_path):
    write_markdown(tmp_path / "e.md", MISTAKES, PLACES, units="bits")
    text = (tmp_path / "e.md").read_text()
    assert text.count("\n|---|") == 2 and "## split" in text and "4, 60, 70" in text
    shown = worst_text(MISTAKES, PLACES)
    assert str(2**60 + 7) in shown and "merge segment" in shown


def test_a_perfect_segmentation_has_empty_tables(tmp_path):
    write_csv(tmp_path / "e.csv", [], [], units="bits", voxel_size=None)
    write_markdown(tmp_path / "e.md", [], [], units="bits")
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1
    assert worst_text([], []) == "" and "worst" in (tmp_path / "e.md").read_text()
