import io
import json
import tarfile

import numpy as np
import pytest

from tokenunify_scale.data.shards.members import Layout, unpack

CROP = (2, 3, 5)
VOXELS = np.arange(30, dtype=np.uint8).reshape(CROP)
TEXT = json.dumps({"volume": 0}).encode()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar(*members, form=tarfile.USTAR_FORMAT, mtime=0):
    """The members of one sample as a tar has them, without the tar's end."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            archive.addfile(info, io.BytesIO(content))
        end = archive.offset
    return file.getvalue()[:end]


def sample(key="000000007", text=TEXT, array=VOXELS):
    return tar((f"{key}.json", text), (f"{key}.raw.npy", npy(array)))


def head_of(data):
    return data[: len(data) - Layout(CROP).behind]


@pytest.mark.parametrize("key", ["000000007", "a", "folder/b", "k" * 80])
@pytest.mark.parametrize("length", [2, 512, 513, 5000])
def test_the_place_of_the_voxels_follows_from_the_end_of_the_sample(key, length):
    text = b'"' + b"x" * (length - 2) + b'"'
    data, layout = sample(key, text), Layout(CROP)
    start = len(data) - layout.behind
    assert data[start : len(data) - layout.filler] == VOXELS.tobytes()
    assert layout.json(data[:start]) == text


@pytest.mark.parametrize(
    "data",
    [
        tar(("7.raw.npy", npy(VOXELS)), ("7.json", TEXT)),
        tar(("7.json", TEXT), ("8.raw.npy", npy(VOXELS))),
        tar(("7.json", TEXT), ("7.npy", npy(VOXELS))),
        tar(("7.json", TEXT), ("7.cls", b"1"), ("7.raw.npy", npy(VOXELS))),
        tar(("7.json", TEXT), ("7.raw.npy", npy(VOXELS)), form=tarfile.PAX_FORMAT, mtime=0.5),
        sample(array=VOXELS.reshape(3, 2, 5)),
        sample(array=np.asfortranarray(VOXELS)),
        sample(array=VOXELS.astype(np.int8)),
        sample(array=VOXELS.astype(np.uint16)),
        bytes(3072),
    ],
)
def test_another_layout_is_seen(data):
    assert Layout(CROP).json(head_of(data)) is None


def test_a_head_that_is_too_short_is_another_layout():
    head = head_of(sample())
    assert Layout(CROP).json(head) == TEXT
    assert all(Layout(CROP).json(head[-size:]) is None for size in range(1, len(head)))
    assert Layout(CROP).json(b"") is None


@pytest.mark.parametrize(
    "data",
    [
        sample(),
        sample("folder.v2/0007"),
        sample(array=np.asfortranarray(VOXELS)),
        tar(("7.raw.npy", npy(VOXELS)), ("7.json", TEXT)),
        tar(("7.cls", b"1"), ("7.json", TEXT), ("7.txt", b""), ("7.raw.npy", npy(VOXELS))),
        tar(("7.json", TEXT), ("7.raw.npy", npy(VOXELS)), form=tarfile.PAX_FORMAT, mtime=0.5),
        tar(("7.json", TEXT), ("7.raw.npy", npy(VOXELS)), form=tarfile.GNU_FORMAT),
    ],
)
def test_members_are_found_however_they_lie(data):
    text, crop = unpack(data, crop=CROP)
    assert text == TEXT and np.array_equal(crop, VOXELS)


@pytest.mark.parametrize(
    "data, message",
    [
        (tar(("7.json", TEXT)), "no member raw.npy"),
        (tar(("7.raw.npy", npy(VOXELS))), "no member json"),
        (tar(("7.json", TEXT), ("7.raw.npy", npy(VOXELS)[:-1])), "29 voxels, not 30"),
        (tar(("7.json", TEXT), ("7.raw.npy", b"PK")), "magic"),
        (sample(array=VOXELS.astype(np.uint16)), r"a crop of uint16 \(2, 3, 5\), not uint8"),
        (sample(array=VOXELS[:1]), r"a crop of uint8 \(1, 3, 5\), not uint8 \(2, 3, 5\)"),
        (bytes(1024), "end of file header"),
        (b"x" * 1024, "bad checksum|invalid header"),
        (sample()[:600], "no member"),
    ],
)
def test_what_is_wrong_in_a_sample_is_said(data, message):
    with pytest.raises(ValueError, match=message):
        unpack(data, crop=CROP)


def test_no_damaged_byte_before_the_voxels_gives_anything_but_a_value_error():
    good, layout = sample(), Layout(CROP)
    rng = np.random.default_rng(0)
    for at in range(len(head_of(good))):
        data = bytearray(good)
        data[at] ^= int(rng.integers(1, 256))
        text = layout.json(head_of(bytes(data)))
        assert text is None or len(text) == len(TEXT)
        try:
            _, crop = unpack(bytes(data), crop=CROP)
        except ValueError:
            continue
        assert np.array_equal(crop, VOXELS)
