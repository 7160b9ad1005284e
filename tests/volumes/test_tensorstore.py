import functools
import http.server
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.registry import READERS
from tokenunify_scale.volumes import tensorstore as reader
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.level import Level
from tokenunify_scale.volumes.volume import open_volume

SHAPE, CHUNK = (9, 20, 33), (4, 8, 16)
SIDES = (35.0, 8.0, 4.0)
OFFSET = (3, 5, 7)


def voxels(dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 256, SHAPE)
    return (values * 200).astype(dtype) if dtype == np.uint16 else values.astype(dtype)


def write(driver, folder, array, **options):
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}, **options}
    facts = {} if "multiscale_metadata" in options else {"shape": array.shape}
    facts["dtype"] = ts.dtype(array.dtype)
    ts.open(spec, create=True, **facts).result().write(array).result()
    return folder


def tell(path, **facts):
    old = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**old, **facts}))


def zarr2(folder, array, **metadata):
    return write("zarr", folder, array, metadata={"chunks": CHUNK[-array.ndim :], **metadata})


def zarr3(folder, array):
    grid = {"name": "regular", "configuration": {"chunk_shape": CHUNK}}
    return write("zarr3", folder, array, metadata={"chunk_grid": grid})


def n5(folder, array):
    return write("n5", folder, array.T, metadata={"blockSize": CHUNK[::-1]})


def precomputed(folder, array, **options):
    scale = {
        "key": "4_8_35",
        "resolution": SIDES[::-1],
        "size": array.shape[::-1],
        "voxel_offset": OFFSET[::-1],
        "chunk_size": CHUNK[::-1],
        "encoding": "raw",
        **options,
    }
    kind = "segmentation" if "compressed" in scale["encoding"] else "image"
    facts = {"type": kind, "data_type": array.dtype.name, "num_channels": 1}
    array = array.T[..., None]
    scales = {"multiscale_metadata": facts, "scale_metadata": scale}
    return write("neuroglancer_precomputed", folder, array, **scales)


def multiscales(*paths, unit="nanometer", scale=SIDES, version="0.4"):
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [side * 2**level for side in scale]},
                {"type": "translation", "translation": [0.0] * len(scale)},
            ],
        }
        for level, path in enumerate(paths)
    ]
    axes = [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"]
    return [{"version": version, "axes": axes, "datasets": datasets}]


def write_zarr2(folder, array):
    zarr2(folder, array)
    tell(folder / ".zattrs", voxel_size=SIDES)


def write_zarr3(folder, array):
    zarr3(folder, array)
    tell(folder / "zarr.json", attributes={"resolution": SIDES})


def write_ome4(folder, array):
    zarr2(folder / "s0", array, dimension_separator="/")
    zarr2(folder / "s1", array[::2, ::2, ::2])
    tell(folder / ".zgroup", zarr_format=2)
    tell(folder / ".zattrs", multiscales=multiscales("s0", "s1"))


def write_ome5(folder, array):
    zarr3(folder / "0", array)
    zarr3(folder / "1", array[::2, ::2, ::2])
    scale = [side / 1000 for side in SIDES]
    ome = {"version": "0.5", "multiscales": multiscales("0", "1", unit="micrometer", scale=scale)}
    tell(folder / "zarr.json", zarr_format=3, node_type="group", attributes={"ome": ome})


def write_n5(folder, array):
    n5(folder / "s0", array)
    n5(folder / "s1", array[::2, ::2, ::2])
    tell(folder / "s1/attributes.json", downsamplingFactors=[2, 2, 2])
    tell(folder / "attributes.json", pixelResolution={"unit": "nm", "dimensions": SIDES[::-1]})


def write_precomputed(folder, array):
    precomputed(folder, array)
    precomputed(
        folder,
        array[::2, ::2, ::2],
        key="8_16_70",
        resolution=[2 * side for side in SIDES[::-1]],
        voxel_offset=[0, 0, 0],
    )


WRITERS = {
    "v2.zarr": write_zarr2,
    "v3.zarr": write_zarr3,
    "ome4.zarr": write_ome4,
    "ome5.zarr": write_ome5,
    "vol.n5": write_n5,
    "precomputed": write_precomputed,
}
PYRAMIDS = ("ome4.zarr", "ome5.zarr", "vol.n5", "precomputed")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that writes down what it is asked for."""

    asked: list[str] = []

    def log_message(self, *args):
        self.asked.append(self.path)


class Server(http.server.ThreadingHTTPServer):
    """With room for all the questions of a crop at once."""

    request_queue_size = 128


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    for name, writer in WRITERS.items():
        writer(folder / name, voxels())
    return folder


@pytest.fixture(scope="module")
def server(library):
    handler = functools.partial(Quiet, directory=library)
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", WRITERS)
def test_a_volume_of_each_format_reads_back_as_it_was_with_its_voxel_size(tmp_path, name, dtype):
    raw = voxels(dtype)
    WRITERS[name](tmp_path / name, raw)
    with open_volume(tmp_path / name) as volume:
        assert (volume.path, volume.shape, volume.dtype) == (str(tmp_path / name), SHAPE, dtype)
        assert volume.voxel_size == pytest.approx(SIDES, rel=1e-12)
        read = volume.read()
        assert read.tobytes() == raw.tobytes() and read.dtype == dtype
        assert read.flags.c_contiguous and read.flags.writeable and read.flags.owndata


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_volume_is_read_over_http_and_from_a_file_url(library, server, name):
    box = Box((2, 3, 15), (9, 20, 32))
    for spec in (f"{server}/{name}", f"file://{library}/{name}"):
        with open_volume(spec) as volume:
            assert volume.shape == SHAPE and volume.voxel_size == pytest.approx(SIDES)
            assert np.array_equal(volume.read(box), voxels()[box.slices])


@pytest.mark.parametrize("name", WRITERS)
def test_any_crop_is_the_slice_of_the_array(library, name):
    rng, raw = np.random.default_rng(1), voxels()
    with open_volume(library / name) as volume:
        for _ in range(30):
            start = [int(rng.integers(0, side)) for side in SHAPE]
            stop = [int(rng.integers(a, side + 1)) for a, side in zip(start, SHAPE, strict=True)]
            box = Box(tuple(start), tuple(stop))
            assert np.array_equal(volume.read(box), raw[box.slices])
        with pytest.raises(DataError, match="reaches out"):
            volume.read(Box((0, 0, 0), (9, 20, 34)))


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_finest_level_is_the_default_and_a_number_or_a_name_takes_another(library, name):
    names = {"ome5.zarr": "1", "precomputed": "8_16_70"}
    for word in ("1", names.get(name, "s1")):
        with open_volume(f"{library / name}:{word}") as volume:
            assert volume.voxel_size == pytest.approx([2 * side for side in SIDES])
            assert np.array_equal(volume.read(), voxels()[::2, ::2, ::2])
    with pytest.raises(DataError, match=r"'7'.* holds .*(0|4_8_35), (s?1|8_16_70)"):
        open_volume(f"{library / name}:7")


@pytest.mark.parametrize(
    "spec",
    [
        "zarr://{}/ome4.zarr",
        "zarr2://{}/v2.zarr",
        "zarr3://{}/ome5.zarr/0",
        "{}/ome4.zarr/s0",
        "{}/ome5.zarr|zarr3:0",
        "n5://{}/vol.n5:s0",
        "precomputed://{}/precomputed:4_8_35",
        "{}/precomputed/|neuroglancer-precomputed:",
    ],
)
def test_the_ways_of_neuroglancer_to_write_a_url_are_read(server, spec):
    with open_volume(spec.format(server)) as volume:
        assert volume.voxel_size == pytest.approx(SIDES)
        assert np.array_equal(volume.read(Box((4, 4, 4), (7, 7, 7))), voxels()[4:7, 4:7, 4:7])


def test_a_volume_begins_at_zero_and_keeps_the_offset_of_its_source(library):
    volume = open_volume(library / "precomputed")
    assert volume.attributes["voxel_offset"] == list(OFFSET)
    assert volume.attributes["dataset"] == "4_8_35"
    assert np.array_equal(volume.read(Box((0, 0, 0), (1, 1, 1))), voxels()[:1, :1, :1])


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]},
        {
            "sharding": {
                "@type": "neuroglancer_uint64_sharded_v1",
                "preshift_bits": 1,
                "minishard_bits": 1,
                "shard_bits": 1,
                "hash": "identity",
                "data_encoding": "gzip",
                "minishard_index_encoding": "gzip",
            }
        },
    ],
)
def test_segmentations_and_sharded_volumes_are_precomputed_too(tmp_path, options):
    raw = voxels(np.uint32)
    precomputed(tmp_path / "vol", raw, **options)
    with open_volume(tmp_path / "vol") as volume:
        assert volume.dtype == np.uint32 and np.array_equal(volume.read(), raw)


@pytest.mark.parametrize("name", WRITERS)
def test_a_crop_touches_its_chunks_and_no_others(tmp_path, name):
    WRITERS[name](tmp_path / name, voxels())
    chunks = [path for path in (tmp_path / name).rglob("*") if is_chunk(path)]
    for chunk in chunks:
        chunk.write_bytes(b"broken")
    corner = Box((0, 0, 0), CHUNK)
    kept = WRITERS[name](tmp_path / "again", voxels()) or tmp_path / "again"
    for chunk in chunks:
        words = tuple(chunk.relative_to(tmp_path / name).parts)
        if words[-3:] == ("0", "0", "0") or words[-1] in ("0.0.0", "7-23_5-13_3-7"):
            chunk.write_bytes((kept / chunk.relative_to(tmp_path / name)).read_bytes())
    with open_volume(tmp_path / name) as volume:
        assert np.array_equal(volume.read(corner), voxels()[corner.slices])
        with pytest.raises(
            DataError, match=r"read at \(0, 0, 1\) \(zyx voxels\): .*[0-9]"
        ) as caught:
            volume.read(Box((0, 0, 1), (4, 8, 17)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def is_chunk(path):
    return path.is_file() and path.name[0].isdigit()


def test_over_http_a_crop_asks_for_its_chunks_only(server):
    with open_volume(f"{server}/v3.zarr") as volume:
        Quiet.asked.clear()
        volume.read(Box((1, 9, 1), (3, 15, 20)))
        assert sorted(Quiet.asked) == ["/v3.zarr/c/0/1/0", "/v3.zarr/c/0/1/1"]
        volume.read(Box((1, 9, 1), (3, 15, 20)))
        assert len(Quiet.asked) == 2


def test_chunks_that_are_not_there_read_as_the_fill_value(tmp_path):
    write_zarr2(tmp_path / "v.zarr", voxels())
    (tmp_path / "v.zarr/0.0.0").unlink()
    tell(tmp_path / "v.zarr/.zarray", fill_value=9)
    read = open_volume(tmp_path / "v.zarr").read()
    assert (read[:4, :8, :16] == 9).all() and np.array_equal(read[4:], voxels()[4:])


@pytest.mark.parametrize("limit", [0, 700, 1500, 10**9])
def test_a_crop_whose_chunks_outgrow_the_cache_is_read_in_pieces(library, monkeypatch, limit):
    monkeypatch.setattr(reader, "CACHE_BYTES", limit)
    box = Box((1, 2, 3), (9, 20, 33))
    for name in WRITERS:
        volume = open_volume(library / name)
        pieces = volume._array._pieces(box.slices)
        assert len(pieces) == {0: 27, 700: 27, 1500: 18, 10**9: 1}[limit]
        assert np.array_equal(volume.read(box), voxels()[box.slices])


@pytest.mark.parametrize("axes", ["xyz", "zxy", "czyx", "zyxc", "tczyx"])
def test_axes_are_put_in_order_by_their_names_and_those_of_length_one_dropped(tmp_path, axes):
    raw = voxels()
    turned = np.transpose(raw, ["zyx".index(a) for a in axes if a in "zyx"])
    turned = turned.reshape([SHAPE["zyx".index(a)] if a in "zyx" else 1 for a in axes])
    write("zarr", tmp_path / "v.zarr/0", turned)
    told = multiscales("0", scale=[SIDES["zyx".index(a)] if a in "zyx" else 1 for a in axes])
    kinds = {"c": "channel", "t": "time"}
    told[0]["axes"] = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": "nm"} if a in "zyx" else {})}
        for a in axes
    ]
    tell(tmp_path / "v.zarr/.zattrs", multiscales=told)
    volume = open_volume(tmp_path / "v.zarr")
    assert volume.shape == SHAPE and volume.voxel_size == SIDES
    assert np.array_equal(volume.read(), raw) and volume.attributes["axes"] == list(axes)


def test_an_axis_that_is_not_space_and_longer_than_one_is_named(tmp_path):
    stack = np.zeros((2, *SHAPE), np.uint8)
    write("zarr", tmp_path / "v.zarr", stack)
    with pytest.raises(DataError, match="axis 'number 0' has length 2"):
        open_volume(tmp_path / "v.zarr")
    write("n5", tmp_path / "v.n5", stack.T)
    tell(tmp_path / "v.n5/attributes.json", axes=["x", "y", "z", "c"])
    with pytest.raises(DataError, match="axis 'c' has length 2"):
        open_volume(tmp_path / "v.n5")
    facts = {"type": "image", "data_type": "uint8", "num_channels": 2}
    scale = {"resolution": [1, 1, 1], "size": SHAPE[::-1], "encoding": "raw"}
    scales = {"multiscale_metadata": facts, "scale_metadata": scale}
    write("neuroglancer_precomputed", tmp_path / "v", np.ones((*SHAPE[::-1], 2), "u1"), **scales)
    with pytest.raises(DataError, match="axis 'channel' has length 2"):
        open_volume(tmp_path / "v")


def test_an_image_of_two_axes_is_no_volume(tmp_path):
    for name, driver in (("v.zarr", "zarr"), ("v.n5", "n5")):
        write(driver, tmp_path / name, np.zeros((20, 30), np.uint8))
        with pytest.raises(DataError, match="single image"):
            open_volume(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_without_a_suffix_is_known_by_what_lies_in_it(library, tmp_path, name):
    (tmp_path / "folder").symlink_to(library / name)
    volume = open_volume(tmp_path / "folder")
    assert volume.shape == SHAPE
    if name in PYRAMIDS:
        assert open_volume(f"{tmp_path}/folder:1").shape == (5, 10, 17)


def test_what_is_not_there_is_said(library, server, tmp_path):
    for spec, message in [
        (f"{tmp_path}/v.zarr", "no such folder"),
        (f"{tmp_path}/v.n5/raw", "no such folder"),
        (f"{library}/ome4.zarr/labels", r"no array or level 'labels'; it holds s0, s1"),
        (f"{library}/vol.n5:labels", r"no array or level 'labels'; it holds s0, s1"),
        (f"{server}/nothing", r"no metadata of Zarr, N5 or precomputed .* precomputed://http"),
        (f"{server}/nothing.zarr", "no Zarr metadata"),
        (f"precomputed://{server}/v2.zarr", "no info file"),
        (f"zarr3://{server}/v2.zarr", "no Zarr metadata"),
    ]:
        with pytest.raises(DataError, match=message):
            open_volume(spec)
    (tmp_path / "file.zarr").write_bytes(b"zip")
    with pytest.raises(DataError, match="a file, not a folder"):
        open_volume(tmp_path / "file.zarr")
    with pytest.raises(ConfigError, match="no reader"):
        open_volume("ftp://host/vol.zarr")
    for spec in ("precomputed://ftp://host/vol", "gs://", "zarr://https:///vol"):
        with pytest.raises(ConfigError, match="not a URL of"):
            open_volume(spec)


@pytest.mark.parametrize("text", ["{", "[1]", "null", "\x00"])
def test_metadata_that_are_not_a_json_object_are_named(tmp_path, text):
    for name in ("v.zarr/.zarray", "w.zarr/zarr.json", "v.n5/attributes.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=f"{Path(name).name}: (not readable|a JSON object)"):
            open_volume(tmp_path / Path(name).parent)
    (tmp_path / "p").mkdir()
    (tmp_path / "p/info").write_text(text)
    with pytest.raises(DataError, match="info: (not readable|a JSON object)"):
        open_volume(f"precomputed://{tmp_path}/p")


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"filters": [{"id": "delta"}]}, "filters are not supported"),
        ({"compressor": {"id": "lzma"}}, "lzma"),
        ({"dtype": "<c8"}, "complex64"),
        ({"dtype": "<M8[ns]"}, "M8"),
        ({"shape": None}, "no shape"),
        ({"shape": [9, 20]}, "chunks"),
    ],
)
def test_an_array_that_cannot_be_read_says_why_in_one_line(tmp_path, facts, message):
    zarr2(tmp_path / "v.zarr", voxels())
    tell(tmp_path / "v.zarr/.zarray", fill_value=None, **facts)
    with pytest.raises(DataError, match=message) as caught:
        open_volume(tmp_path / "v.zarr")
    assert "tensorstore_spec" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_host_that_does_not_answer_is_one_clear_line():
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/v.zarr.*[Cc]onnect") as caught:
        open_volume("http://127.0.0.1:9/v.zarr")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "url, store",
    [
        ("gs://bucket/a/vol", {"driver": "gcs", "bucket": "bucket", "path": "a/vol/"}),
        ("s3://bucket/a/vol", {"driver": "s3", "bucket": "bucket", "path": "a/vol/"}),
        ("s3://bucket", {"driver": "s3", "bucket": "bucket", "path": ""}),
        (
            "https://host:8080/a%20b/vol?key=1",
            {"driver": "http", "base_url": "https://host:8080?key=1", "path": "/a b/vol/"},
        ),
        ("/data/vol", {"driver": "file", "path": "/data/vol/"}),
    ],
)
def test_the_spec_for_tensorstore_says_where_the_level_is(url, store):
    level = Level(
        driver="neuroglancer_precomputed",
        url=url,
        axes=("x", "y", "z", "channel"),
        voxel_size=None,
        attributes={},
        options={"scale_index": 2},
    )
    spec = reader.level_spec(level)
    assert spec.pop("kvstore") == store and spec.pop("scale_index") == 2
    assert spec == {
        "driver": "neuroglancer_precomputed",
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    parsed = ts.Spec({"driver": "neuroglancer_precomputed", "kvstore": store})
    assert parsed.kvstore.path == store["path"]


SAMPLE = """
import sys
from pathlib import Path
import numpy as np
from tokenunify_scale.volumes.geometry import Box
from tokenunify_scale.volumes.volume import open_volume

rng, side, sums = np.random.default_rng(0), (16, 160, 160), []
with open_volume(sys.argv[1]) as volume:
    corner = volume.read(Box((0, 0, 0), side))
    for _ in range(50):
        start = [int(rng.integers(0, whole - part)) for whole, part in zip(volume.shape, side)]
        box = Box(tuple(start), tuple(a + b for a, b in zip(start, side)))
        sums.append(volume.read(box).sum())
# Not getrusage: its peak is inherited from the process that started this one.
status = Path("/proc/self/status").read_text().split()
print(corner.sum(), status[status.index("VmHWM:") + 1])
"""


@pytest.mark.parametrize("name", ["v.zarr", "v"])
def test_a_volume_of_64_gib_is_sampled_within_a_gib_of_memory(tmp_path, name):
    side = 4096
    if name == "v.zarr":
        store = {"driver": "file", "path": f"{tmp_path}/{name}/"}
        spec = {"driver": "zarr", "kvstore": store, "metadata": {"chunks": [128] * 3}}
        array = ts.open(spec, create=True, dtype=ts.uint8, shape=[side] * 3).result()
    else:
        scale = {"resolution": [8] * 3, "size": [side] * 3, "chunk_size": [128] * 3}
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{tmp_path}/{name}/"},
            "scale_metadata": {**scale, "encoding": "raw"},
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        }
        array = ts.open(spec, create=True).result()[ts.d["channel"][0]]
    array[:128, :128, :128].write(1).result()
    command = [sys.executable, "-c", SAMPLE, f"{tmp_path}/{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, kibibytes = map(int, done.stdout.split())
    assert total == 16 * 128 * 128 and kibibytes < 1 << 20


def test_many_threads_may_read_one_volume(library):
    raw, rng = voxels(), np.random.default_rng(2)
    starts = [tuple(int(rng.integers(0, side - 3)) for side in SHAPE) for _ in range(200)]
    boxes = [Box(start, tuple(at + 3 for at in start)) for start in starts]
    with open_volume(library / "vol.n5") as volume, ThreadPoolExecutor(8) as pool:
        for box, crop in zip(boxes, pool.map(volume.read, boxes), strict=True):
            assert np.array_equal(crop, raw[box.slices])


def test_without_tensorstore_the_error_names_the_package(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(HostError, match="pip install tensorstore"):
        open_volume(library / "v2.zarr")


def test_the_reader_is_in_the_registry():
    assert READERS.get("tensorstore").config.suffixes == (".zarr", ".n5")
