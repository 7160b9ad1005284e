"""The paper's Kodak numbers: the table, and which files they are of."""

import csv
from pathlib import Path

import pytest

from tokenunify_scale.objectives.kodak import COLUMNS, PSNR, kodak_numbers, published

REFERENCE = Path(__file__).resolve().parents[2] / ".." / "shared/reference/paper_kodak_psnr.csv"


def test_the_table_has_24_images_of_four_columns():
    assert sorted(PSNR) == [*range(1, 25)] and {len(row) for row in PSNR.values()} == {4}
    # A token smaller is a token easier, on average, and so is the paper's objective.
    means = [sum(row[i] for row in PSNR.values()) / 24 for i in range(4)]
    assert means == sorted(means[:1]) + means[1:] and means[0] < means[2] < means[3]


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs ../shared/reference")
def test_the_table_is_that_of_the_reference():
    with REFERENCE.open(newline="") as file:
        for row in csv.DictReader(file):
            assert PSNR[int(row["image"])] == tuple(float(row[name]) for name in COLUMNS)


@pytest.mark.parametrize(
    "names, numbers",
    [
        (["kodim03", "kodim24"], [3, 24]),
        ([str(i) for i in range(24, 0, -1)], [*range(24, 0, -1)]),
        ([f"{i:02d}" for i in range(1, 25)], [*range(1, 25)]),
        (["1", "2"], None),  # other images
        (["kodim01", "astronaut"], None),
        (["kodim25"], None),
        (["kodim00"], None),
        ([], None),
    ],
)
def test_images_are_known_by_their_names(names, numbers):
    assert kodak_numbers(names) == numbers
    assert bool(published(names)) == (numbers is not None)


def test_numbers_come_in_the_order_of_the_names():
    found = published(["kodim02", "kodim01"])
    assert found["autoregress_16"] == [24.662, 19.249] and tuple(found) == COLUMNS
