import functools
import gzip
import http.server
import json
import threading

import numpy as np
import pytest

from tokenunify_scale.config import DataError
from tokenunify_scale.volumes.address import parse_address
from tokenunify_scale.volumes.precomputed import find_precomputed
from tokenunify_scale.volumes.volume import open_volume

RAW = np.random.default_rng(0).integers(1, 256, (4, 6, 10), dtype=np.uint8)
SCALE = {
    "key": "4_8_35",
    "resolution": [4, 8, 35],
    "size": [10, 6, 4],
    "voxel_offset": [100, 0, 2],
    "chunk_sizes": [[5, 6, 4]],
    "encoding": "raw",
}


def put(folder, *scales, suffix="", pack=bytes):
    """A volume as CloudVolume writes it, chunk by chunk, x fastest."""
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": scales or [SCALE]}
    folder.mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info))
    (folder / "4_8_35").mkdir()
    for x in (0, 5):
        name = f"{100 + x}-{105 + x}_0-6_2-6{suffix}"
        (folder / "4_8_35" / name).write_bytes(pack(RAW[:, :, x : x + 5].tobytes()))
    return folder


def level(spec):
    return find_precomputed(parse_address(f"precomputed://{spec}"))


def test_the_voxels_on_disk_are_x_fastest(tmp_path):
    with open_volume(put(tmp_path / "v")) as volume:
        assert np.array_equal(volume.read(), RAW) and volume.voxel_size == (35, 8, 4)
        assert volume.attributes["voxel_offset"] == [2, 0, 100]


def test_the_finest_scale_is_the_default_wherever_it_stands(tmp_path):
    coarse = {**SCALE, "key": "8_16_35", "resolution": [8, 16, 35]}
    folder = put(tmp_path / "v", coarse, SCALE)
    (folder / "8_16_35").mkdir()
    assert level(folder).options == {"scale_index": 1}
    assert level(f"{folder}:0").voxel_size == (35, 16, 8)
    assert level(f"{folder}:8_16_35").attributes["dataset"] == "8_16_35"
    with pytest.raises(DataError, match="no scale '4_4_4'; it holds 8_16_35, 4_8_35"):
        level(f"{folder}:4_4_4")


@pytest.mark.parametrize("suffix", [".gz", ".br", ".zstd"])
def test_packed_chunks_on_a_local_disk_are_refused_since_they_would_read_as_zeros(tmp_path, suffix):
    folder = put(tmp_path / "v", suffix=suffix, pack=gzip.compress)
    with pytest.raises(DataError, match=rf"4_8_35: its chunks .* in \{suffix}, .*zeros; unpack"):
        open_volume(folder)
    plain = "100-105_0-6_2-6"
    packed = folder / "4_8_35" / f"{plain}{suffix}"
    (folder / "4_8_35" / plain).write_bytes(gzip.decompress(packed.read_bytes()))
    assert np.array_equal(open_volume(folder).read()[:, :, :5], RAW[:, :, :5])


def test_packed_chunks_behind_a_simple_file_server_are_refused_too(tmp_path):
    put(tmp_path / "packed", suffix=".gz", pack=gzip.compress)
    put(tmp_path / "plain")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(DataError, match=r"ending in \.gz"):
            open_volume(f"{url}/packed")
        assert np.array_equal(open_volume(f"{url}/plain").read(), RAW)
        server.shutdown()


def test_a_scale_whose_folder_is_missing_is_refused(tmp_path):
    folder = put(tmp_path / "v")
    (folder / "4_8_35").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="4_8_35: no such folder, .* zeros"):
        open_volume(folder)


@pytest.mark.parametrize(
    "info, message",
    [
        ({"@type": "neuroglancer_legacy_mesh"}, "lists no scales"),
        ({"scales": []}, "lists no scales"),
        ({"scales": [{"key": "a"}]}, "cannot be understood .*resolution"),
        ({"scales": ["a"]}, "cannot be understood"),
    ],
)
def test_an_info_that_makes_no_sense_is_refused(tmp_path, info, message):
    (tmp_path / "info").write_text(json.dumps(info))
    with pytest.raises(DataError, match=message):
        level(tmp_path)


def test_an_encoding_that_is_not_read_is_named(tmp_path):
    with pytest.raises(DataError, match='encoding.*"raw"'):
        open_volume(put(tmp_path / "v", {**SCALE, "encoding": "fpzip"}))
