import pytest

from tokenunify_scale.volumes.level import axes_of, find_below, holding, transform_of, voxel_size


@pytest.mark.parametrize(
    "unit, nm",
    [("nm", 1), ("nanometer", 1), ("micrometer", 1e3), ("Micron", 1e3), ("angstrom", 0.1)],
)
def test_sizes_become_nanometres_in_the_order_zyx(unit, nm):
    sides = voxel_size(("c", "x", "y", "z"), [1, 4, 8, "35"], units=["", unit, unit, unit])
    assert sides == pytest.approx((35 * nm, 8 * nm, 4 * nm))
    assert voxel_size("xyz", [4, 8, 35], units=unit) == pytest.approx(sides)


@pytest.mark.parametrize(
    "axes, sizes, units",
    [
        ("zyx", [35, 8], "nm"),
        ("zyx", [35, 8, 0], "nm"),
        ("zyx", [35, 8, float("nan")], "nm"),
        ("zyx", [35, 8, 8], "parsec"),
        ("zyx", [35, 8, 8], None),
        ("zyx", [35, 8, 8], ["nm", None, "nm"]),
        ("cyx", [1, 8, 8], "nm"),
        ("zyx", None, "nm"),
        ("zyx", ["a", "b", "c"], "nm"),
    ],
)
def test_what_is_not_wholly_told_is_no_voxel_size(axes, sizes, units):
    assert voxel_size(axes, sizes, units=units) is None


def test_axes_without_names_end_in_zyx():
    assert [axes_of(count) for count in range(5)] == [
        (),
        ("x",),
        ("y", "x"),
        ("z", "y", "x"),
        ("number 0", "z", "y", "x"),
    ]


def test_a_transform_is_turned_to_the_slowest_axis_first():
    facts = {"axes": ["X", "y", "z"], "scale": [4, 8, 35], "units": ["nm"] * 3, "ordering": "F"}
    assert transform_of({"transform": facts}) == (("z", "y", "x"), (35, 8, 4), ("nm",) * 3)
    assert transform_of({"transform": {"axes": ["z"], "scale": 4}}) == (("z",), (), ())
    assert transform_of({"transform": {"scale": [1]}}) is transform_of({}) is None


def test_volumes_below_a_folder_are_found_and_not_entered(tmp_path):
    for name in ("a/x/0", "b/0", "c", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    names = {f"{tmp_path}/a/x", f"{tmp_path}/b"}
    assert find_below(str(tmp_path), lambda url: url in names) == ["b", "a/x"]
    assert find_below("https://host/x", lambda url: True) == []
    assert find_below(f"{tmp_path}/none", lambda url: True) == []


def test_a_long_list_is_cut():
    assert holding([]) == "" and holding(["a", "b"]) == "; it holds a, b"
    assert holding([str(n) for n in range(20)]).endswith("10, 11, ...")
