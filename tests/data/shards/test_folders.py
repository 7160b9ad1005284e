from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.data.shards.folders import common_channels, common_crop, open_folders
from tokenunify_scale.data.shards.pack import write_shards
from tokenunify_scale.volumes import store

CROP = (2, 4, 4)
TAR = 10240
"""Bytes of a tar of few such crops."""
FAR = "https://host"
"""What URLs begin with; the rest is a path here."""


def write(folder, *, count, crop=CROP, channels=1):
    stored = (channels * crop[0], *crop[1:])
    samples = [(np.zeros(stored, np.uint8), {"volume": 0, "box": [[0, 0, 0], crop]})] * count
    index = {"crop": crop, "voxel_size": None, "volumes": [], "request": {}}
    index |= {"channels": channels} if channels > 1 else {}
    write_shards(samples, folder, per_shard=2, index=index)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five tars."""
    return write(tmp_path_factory.mktemp("shards") / "a", count=9)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    def read(url):
        return Path(url.removeprefix(FAR)).read_bytes()

    monkeypatch.setattr(store, "read_bytes", read)

    def call(*folders, window=2, tars=100, cache=tmp_path / "cache"):
        size = TAR * tars
        return open_folders(folders, damaged="stop", window=window, cache=cache, cache_bytes=size)

    return call


def test_folders_of_this_machine_need_no_cache(folder, opened, tmp_path):
    sets, ahead = opened(folder, str(folder), cache=None)
    assert [len(shards) for shards in sets] == [9, 9] and ahead == 0
    assert {shard.bytes for shard in sets[0].index.shards} == {TAR}
    opened(folder)
    assert not (tmp_path / "cache").exists()


def test_a_url_needs_a_cache(folder, opened):
    with pytest.raises(ConfigError, match=f"{FAR}{folder} .* name a cache folder"):
        opened(folder, FAR + str(folder), cache=None)


@pytest.mark.parametrize(
    "window, urls, tars, ahead",
    [(2, 1, 3, 1), (2, 1, 4, 2), (2, 1, 99, 2), (2, 2, 6, 1), (2, 2, 7, 1), (2, 2, 8, 2)]
    + [(4, 1, 5, 4), (5, 1, 5, 5), (10**9, 1, 5, 5)],
)
def test_room_beyond_the_windows_is_counted_in_shards(folder, opened, window, urls, tars, ahead):
    folders = [folder, *[FAR + str(folder)] * urls]
    sets, found = opened(*folders, window=window, tars=tars)
    assert found == ahead and len(sets) == urls + 1


@pytest.mark.parametrize("window, urls, tars", [(2, 1, 2), (2, 2, 5), (5, 1, 4)])
def test_a_cache_without_room_for_a_window_and_the_next_shard_is_refused(
    folder, opened, window, urls, tars
):
    with pytest.raises(ConfigError, match=rf"windows of {window} shards and the next .* GB"):
        opened(*[FAR + str(folder)] * urls, window=window, tars=tars)


def test_no_folder_and_an_empty_one_are_refused(opened, tmp_path):
    with pytest.raises(ConfigError, match="no shard folder"):
        opened()
    with pytest.raises(DataError, match="holds no samples"):
        opened(write(tmp_path / "empty", count=0))


def test_the_crop_is_what_all_store_or_what_fits_all(folder, opened, tmp_path):
    sets, _ = opened(folder, write(tmp_path / "other", count=1, crop=(2, 4, 6)))
    assert common_crop(sets[:1], crop=None) == (2, 4, 4)
    assert common_crop(sets, crop=[1, 4, 3]) == (1, 4, 3)
    with pytest.raises(ConfigError, match="say which crop"):
        common_crop(sets, crop=None)
    with pytest.raises(ConfigError, match=rf"crop \(2, 4, 5\) does not fit .*{folder}"):
        common_crop(sets, crop=(2, 4, 5))


def test_all_folders_have_the_same_channels(folder, opened, tmp_path):
    photos = write(tmp_path / "photos", count=1, channels=3)
    sets, _ = opened(folder, folder, photos, photos)
    assert common_channels(sets[:2]) == 1 and common_channels(sets[2:]) == 3
    said = f"{photos} stores crops of 3 channels, {folder} of 1: "
    with pytest.raises(ConfigError, match=said):
        common_channels(sets)
