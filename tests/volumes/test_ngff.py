import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.ngff import Scale, choose, multiscale


def entry(*, axes=None, scale=(35, 8, 4), shared=None, unit="nanometer"):
    axes = (
        [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"] if axes is None else axes
    )
    steps = [{"type": "scale", "scale": list(scale)}]
    found = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    if shared:
        found["coordinateTransformations"] = [{"type": "scale", "scale": list(shared)}]
    return found


def test_scale_axes_and_units_give_the_voxel_size():
    expected = [Scale("0", ("z", "y", "x"), (35.0, 8.0, 4.0))]
    assert multiscale({"multiscales": [entry()]}, place="v") == expected
    assert multiscale({"ome": {"multiscales": [entry()]}}, place="v") == expected
    small = entry(scale=(0.035, 0.008, 0.004), unit="micrometer")
    assert multiscale({"multiscales": [small]}, place="v")[0].voxel_size == pytest.approx(
        (35, 8, 4)
    )


def test_the_scale_of_all_levels_multiplies_each():
    found = entry(scale=(1, 2, 2), shared=(35, 4, 2))
    assert multiscale({"multiscales": [found]}, place="v")[0].voxel_size == (35, 8, 4)


def test_without_a_unit_there_is_no_voxel_size():
    assert multiscale({"multiscales": [entry(unit=None)]}, place="v")[0].voxel_size is None


def test_spatial_axes_of_other_names_are_zyx_in_their_order():
    axes = [{"name": "t", "type": "time"}]
    axes += [{"name": name, "type": "space", "unit": "nm"} for name in ("depth", "row", "col")]
    found = multiscale({"multiscales": [entry(axes=axes, scale=(1, 35, 8, 4))]}, place="v")[0]
    assert found.axes == ("t", "z", "y", "x") and found.voxel_size == (35, 8, 4)


def test_old_versions_name_axes_by_letters_or_not_at_all():
    third = {"axes": ["c", "z", "y", "x"], "datasets": [{"path": "/s0/"}]}
    assert multiscale({"multiscales": [third]}, place="v") == [Scale("s0", ("c", *"zyx"), None)]
    first = {"datasets": [{"path": "0"}]}
    assert multiscale({"multiscales": [first]}, place="v")[0].axes == ("t", "c", "z", "y", "x")


def test_no_multiscales_are_no_levels():
    for attributes in ({}, {"multiscales": []}, {"ome": "yes"}, {"ome": {"plate": {}}}):
        assert multiscale(attributes, place="v") == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["0"],
        {"0": 1},
        [{"axes": [{"type": "space"}], "datasets": []}],
        [{"axes": ["z", "y", "x"]}],
        [{"axes": ["z", "y", "x"], "datasets": [{}]}],
        [entry(scale=(1, 2))],
        [entry(scale=(1, 2, "three"))],
        [entry(scale=(1, 2, float("inf")))],
    ],
)
def test_multiscales_that_make_no_sense_are_refused(wrong):
    with pytest.raises(DataError, match="v: its OME multiscales cannot be understood"):
        multiscale({"multiscales": wrong}, place="v")


def test_a_level_is_chosen_by_name_or_number():
    assert choose(["s0", "s1"], "s1") == choose(["s0", "s1"], "1") == "s1"
    assert choose(["1", "0"], "0") == "0"
    assert choose(["s0"], "1") is choose(["s0"], "x") is choose(["s0"], "-1") is None
