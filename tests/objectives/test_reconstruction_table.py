"""The numbers of a comparison, as they are written and printed."""

import csv
import json
import math

import numpy as np
import pytest

from tokenunify_scale.objectives.reconstruction import TASKS
from tokenunify_scale.objectives.reconstruction_table import Found, metrics_of, summary, write_csv


def found(*errors):
    values = np.array(errors)
    return Found(dict.fromkeys(TASKS, values), dict.fromkeys(TASKS, values + 0.01))


ABOUT = {"objective": "mae", "patch": [1, 16, 16], "path": "raster", "fill": "noise", "note": ""}


def test_the_mean_psnr_is_that_of_the_decibels():
    metrics = metrics_of(found(0.1, 0.001))
    assert metrics["next_psnr"] == pytest.approx((10 + 30) / 2)
    assert metrics["next_mse"] == pytest.approx(0.0505)
    floor = -10 * (math.log10(0.11) + math.log10(0.011)) / 2
    assert metrics["floor_random_psnr"] == pytest.approx(floor)
    for missing in (math.nan, 0.0):  # nothing claimed, and no error at all
        metrics = metrics_of(found(0.1, missing))
        assert metrics["next_psnr"] is None
        json.dumps(metrics, allow_nan=False)


def test_the_table_has_a_row_a_run_a_floor_for_each_kind_of_masks_and_the_papers():
    numbers = {name: metrics_of(found(0.1)) for name in ("a", "b", "c")}
    numbers["b"] = metrics_of(found(math.nan))
    runs = {"a": ABOUT, "b": {**ABOUT, "note": "why"}, "c": {**ABOUT, "patch": [1, 8, 8]}}
    heads, rows = summary({"runs": runs, "metrics": numbers, "paper": {"tokenunify_8": 24.5}})
    cells = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [row["run"] for row in cells[:3]] == ["a", "b", "c"]
    assert cells[0]["next"] == "10.00" and cells[1]["next"] == "-" and cells[1][""] == "why"
    assert [row["patch"] for row in cells[3:]] == ["1x16x16", "1x8x8", "1x8x8"]
    assert cells[5]["run"] == "the paper's" and cells[5]["next"] == "24.50"


def test_the_file_has_a_row_for_each_run_and_crop(tmp_path):
    founds = {"a": found(0.1, 0.01), "b": found(math.nan, math.nan)}
    write_csv(
        tmp_path / "a.csv",
        founds,
        names=["kodim01", "kodim02"],
        about={"a": ABOUT, "b": ABOUT},
        paper={"tokenunify_8": [21.99, 27.799]},
    )
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["crop"]) for row in rows] == [
        (run, crop) for run in "ab" for crop in ("kodim01", "kodim02")
    ]
    assert float(rows[1]["random_psnr"]) == pytest.approx(20)
    assert float(rows[1]["paper_tokenunify_8"]) == 27.799
    assert rows[2]["random_mse"] == "" and rows[0]["patch"] == "1x16x16"
