import pytest

from tokenunify_scale.volumes.address import Address, is_chunked, parents, parse_address


@pytest.mark.parametrize(
    "spec, kind, url, dataset",
    [
        ("vol.zarr", "zarr", "vol.zarr", ""),
        ("vol.zarr/", "zarr", "vol.zarr", ""),
        ("vol.ome.ZARR:raw/s0", "zarr", "vol.ome.ZARR", "raw/s0"),
        ("vol.zarr/raw/s0", "zarr", "vol.zarr", "raw/s0"),
        ("vol.zarr/raw:1", "zarr", "vol.zarr", "raw/1"),
        ("/a:b/vol.n5", "n5", "/a:b/vol.n5", ""),
        ("/a:b/vol.n5:volumes/raw", "n5", "/a:b/vol.n5", "volumes/raw"),
        ("em/vol", None, "em/vol", ""),
        ("em/vol:s1", None, "em/vol", "s1"),
        ("file:///a/vol", None, "file:///a/vol", ""),
        ("file:///a/vol:s1", None, "file:///a/vol", "s1"),
        ("https://host:80", None, "https://host:80", ""),
        ("https://host:80/p/vol:1", None, "https://host:80/p/vol", "1"),
        ("https://host/vol.zarr:s1?key=a:b", "zarr", "https://host/vol.zarr?key=a:b", "s1"),
        ("precomputed://gs://b/p/vol", "precomputed", "gs://b/p/vol", ""),
        ("precomputed://gs://b/vol:8_8_40", "precomputed", "gs://b/vol", "8_8_40"),
        ("precomputed://https://host/a.zarr:0", "precomputed", "https://host/a.zarr", "0"),
        ("zarr://s3://b/vol", "zarr", "s3://b/vol", ""),
        ("zarr2://s3://b/vol.zarr/raw", "zarr2", "s3://b/vol.zarr", "raw"),
        ("N5:///data/vol", "n5", "/data/vol", ""),
        ("gs://b/vol|neuroglancer-precomputed:", "precomputed", "gs://b/vol", ""),
        ("s3://b/vol.zarr/|zarr3:raw/s0", "zarr3", "s3://b/vol.zarr", "raw/s0"),
        ("s3://b/what?/vol", None, "s3://b/what?/vol", ""),
    ],
)
def test_a_spec_is_taken_apart(spec, kind, url, dataset):
    assert parse_address(spec) == Address(kind, url, dataset)


def test_a_local_folder_with_a_colon_is_taken_whole_where_it_exists(tmp_path):
    (tmp_path / "em:raw").mkdir()
    assert parse_address(f"{tmp_path}/em:raw").dataset == ""
    assert parse_address(f"{tmp_path}/em:labels").dataset == "labels"


def test_the_groups_above_an_array_come_nearest_first():
    assert parents("s3://b/v.zarr", "em/s0") == [
        ("s3://b/v.zarr/em", "s0"),
        ("s3://b/v.zarr", "em/s0"),
    ]
    assert parents("https://host/em/s0?key=1", "") == [("https://host/em?key=1", "s0")]
    assert parents("/data/em/s0", "") == [("/data/em", "s0")]
    for outermost in ("gs://bucket", "https://host", "/data/vol.zarr", "s3://b/p/vol.n5"):
        assert parents(outermost, "") == []


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup", "attributes.json"])
def test_a_folder_is_known_by_the_metadata_in_it(tmp_path, name):
    assert not is_chunked(tmp_path)
    (tmp_path / name).write_text("{}")
    assert is_chunked(tmp_path)


def test_a_file_called_info_must_list_scales(tmp_path):
    (tmp_path / "info").write_text("bought in 2009")
    assert not is_chunked(tmp_path)
    (tmp_path / "info").write_text('{"scales": []}')
    assert is_chunked(tmp_path)
