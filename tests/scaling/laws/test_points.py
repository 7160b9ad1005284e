import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scaling.laws.points import Points, read_points

HOFFMANN = "Model Size, Training FLOP ,loss\n4.4e7,6e18,3.9\n1.6e10,3.1E+21,2.3\n"


def write(folder, text):
    file = folder / "points.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_any_csv_is_read_by_groups_and_empty_cells_are_left_out(tmp_path):
    file = write(
        tmp_path, "N,loss,init,part,seed\n10,2,mae,a,0\n1000,1,mae,a,1\n10,,mae,a,2\n10,3,x,a,0\n"
    )
    groups = read_points(file, x=["N"], y="loss", group="init,part")
    assert list(groups) == ["mae a", "x a"]
    assert groups["mae a"].x.tolist() == [[10], [1000]] and groups["mae a"].y.tolist() == [2, 1]
    assert groups["mae a"].seed == ("0", "1")
    assert len(read_points(file, x=["N"], y="loss", group=None)[""].y) == 3


def test_data_are_derived_from_flops_and_headers_may_have_spaces(tmp_path):
    file = write(tmp_path, "\ufeff" + HOFFMANN)
    points = read_points(file, x=["Model Size"], y="loss", flops="Training FLOP", group=None)[""]
    assert points.x[:, 0].tolist() == [4.4e7, 1.6e10] and points.seed is None
    assert 6 * points.x[:, 0] * points.x[:, 1] == pytest.approx([6e18, 3.1e21])
    other = read_points(
        file, x=["Model Size"], y="loss", flops="Training FLOP", factor=2, group=None
    )
    assert other[""].x[:, 1] == pytest.approx(3 * points.x[:, 1])


def test_a_wrong_table_is_refused_by_name(tmp_path):
    file = write(tmp_path, "size,loss\n10,2\n20,many\n")
    with pytest.raises(ConfigError, match="'sizes'.*did you mean 'size'"):
        read_points(file, x=["sizes"], y="loss")
    with pytest.raises(DataError, match="row 3: loss is 'many', not a number"):
        read_points(file, x=["size"], y="loss")
    with pytest.raises(DataError, match="no such file"):
        read_points(tmp_path / "none.csv", x=["size"], y="loss")
    with pytest.raises(ConfigError, match="a law has N, or N and D"):
        read_points(file, x=["size", "size", "size"], y="loss")


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan"])
def test_a_value_without_a_logarithm_is_refused_with_its_row(tmp_path, value):
    file = write(tmp_path, f"size,loss\n10,{value}\n")
    with pytest.raises(DataError, match="row 2: loss is .*positive"):
        read_points(file, x=["size"], y="loss")


@pytest.mark.parametrize("x, y", [([], []), ([0], [1]), ([1], [-1]), ([1], [np.nan])])
def test_points_that_have_no_logarithm_are_refused(x, y):
    with pytest.raises(DataError, match="positive and finite|got none"):
        Points(x=x, y=y)


def test_sizes_are_different_and_rise():
    assert Points(x=[3, 1, 3], y=[1, 1, 2]).sizes.tolist() == [1, 3]
