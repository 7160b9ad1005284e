import shutil
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.config.build import build
from tokenunify_scale.data.augment import AugmentConfig, only, unchanged
from tokenunify_scale.data.batches import batches
from tokenunify_scale.data.order import Order
from tokenunify_scale.data.shards.pack import write_shards
from tokenunify_scale.data.stream import Stream, StreamConfig
from tokenunify_scale.volumes import store

CROP = (2, 4, 4)
COUNTS = (22, 9)
SHARDS = ((4, 4, 4, 4, 4, 2), (4, 4, 1))
MIXUP = replace(AugmentConfig(), mixup=replace(AugmentConfig().mixup, p=0.9))
STRICT = StreamConfig(window=2, weights=(2, 1))
SKIP = replace(STRICT, damaged="skip")


def write(folder, *, count, dataset, crop=CROP, voxel_size=(40.0, 8.0, 8.0)):
    """Crops whose first two voxels say data set and sample."""
    samples = []
    for number in range(count):
        pixels = np.arange(np.prod(crop), dtype=np.uint8).reshape(crop)
        pixels[0, 0, :2] = dataset, number
        samples.append((pixels, {"volume": 0, "box": [[0, 0, 0], list(crop)]}))
    index = {"crop": crop, "voxel_size": voxel_size, "volumes": [], "request": {}}
    write_shards(samples, folder, per_shard=4, index=index)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return [write(root / str(n), count=c, dataset=n) for n, c in enumerate(COUNTS)]


@pytest.fixture(scope="module")
def broken(folders, tmp_path_factory):
    """The same with sample 5 of the first set spoiled, tar 3 cut in the middle, tar 5 gone."""
    root = tmp_path_factory.mktemp("broken")
    copies = [shutil.copytree(folder, root / folder.name) for folder in folders]
    with open(copies[0] / "shard-000001.tar", "r+b") as file:
        file.seek(Stream(copies, seed=0).sets[0].index.shards[1].offsets[1])
        file.write(b"\xff" * 512)
    cut = copies[0] / "shard-000003.tar"
    with open(cut, "r+b") as file:
        file.truncate(cut.stat().st_size // 4)
    (copies[0] / "shard-000005.tar").unlink()
    return copies


FAR = "https://host"
LOST = {5, *range(12, 16), 20, 21}
"""Samples of the first set of ``broken`` that cannot be read."""


@pytest.fixture
def network(monkeypatch):
    """URLs are paths behind ``FAR``; each download is noted."""
    downloads = []

    def download(url, path, *, bytes):
        downloads.append(url)
        shutil.copyfile(url.removeprefix(FAR), path)

    monkeypatch.setattr(store, "read_bytes", lambda url: Path(url.removeprefix(FAR)).read_bytes())
    monkeypatch.setattr(store, "download", download)
    return downloads


def keys(crops):
    return [(int(crop[0, 0, 0, 0]), int(crop[0, 0, 0, 1])) for crop in crops]


def read(stream, *, start, steps, global_batch=24, world=1, micro=None, workers=1):
    """Positions, crops, ... of some steps, those of ranks and micro-batches put in their order."""
    split = {"global_batch": global_batch, "world": world, "micro": micro, "workers": workers}
    parts = global_batch // world // (micro or global_batch // world)
    ranks = [stream.batches(start, rank=rank, **split) for rank in range(world)]
    got = [list(islice(rank, steps * parts)) for rank in ranks]
    for rank in ranks:
        rank.close()
    ordered = [
        part for s in range(steps) for rank in got for part in rank[s * parts : (s + 1) * parts]
    ]
    return {name: torch.cat([part[name] for part in ordered]) for name in ordered[0]}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_holds_the_crops_of_its_positions(folders):
    stream = Stream(folders, seed=3, config=STRICT)
    batch = stream.batch(5, 4)
    assert batch["crops"].shape == (4, 1, 2, 4, 4) and batch["crops"].dtype == torch.uint8
    assert batch["positions"].tolist() == [5, 6, 7, 8] and batch["positions"].dtype == torch.int64
    order = Order(SHARDS, seed=3, weights=(2, 1), window=2)
    assert keys(batch["crops"]) == [order.at(position) for position in range(5, 9)]
    assert stream.voxel_size == (40.0, 8.0, 8.0) and stream.counts == COUNTS
    assert set(batch) == {"crops", "positions"}


def test_the_samples_read_are_the_recorded_ones(folders):
    stream = Stream(folders, seed=7, config=STRICT)
    assert keys(stream.batch(0, 24)["crops"]) == [
        (1, 1), (0, 17), (0, 5), (0, 16), (1, 3), (0, 18), (1, 8), (0, 7), (0, 4), (0, 19),
        (1, 0), (0, 6), (0, 0), (0, 10), (1, 2), (0, 3), (1, 4), (0, 8), (1, 5), (0, 1), (0, 11),
        (0, 9), (1, 6), (0, 2),
    ]  # fmt: skip
    assert keys(Stream(folders, seed=7).batch(0, 12)["crops"]) == [
        (1, 7), (0, 8), (0, 10), (1, 1), (1, 3), (0, 17), (1, 4), (0, 5), (0, 16), (1, 5),
        (1, 8), (0, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world, micro", [(1, None), (1, 1), (2, 3), (3, 2), (3, None), (8, 1)])
def test_a_step_is_the_same_for_any_world_micro_batch_and_workers(folders, world, micro, workers):
    whole = read(Stream(folders, seed=3, config=STRICT), start=0, steps=4)
    assert whole["positions"].tolist() == list(range(96))
    order = Order(SHARDS, seed=3, weights=(2, 1), window=2)
    assert keys(whole["crops"]) == [order.at(position) for position in range(96)]
    again = Stream(folders, seed=3, config=STRICT)
    split = {"world": world, "micro": micro, "workers": workers}
    assert same(whole, read(again, start=0, steps=4, **split))


@pytest.mark.parametrize("world, workers", [(2, 0), (3, 4), (8, 1)])
def test_random_changes_too_are_the_same_for_any_world_and_workers(folders, world, workers):
    def opened():
        return Stream(folders, seed=3, crop=(2, 3, 3), config=STRICT, augment=MIXUP)

    whole = read(opened(), start=0, steps=2)
    assert same(whole, read(opened(), start=0, steps=2, world=world, workers=workers))
    assert not same(whole, read(Stream(folders, seed=3, crop=(2, 3, 3)), start=0, steps=2))


@pytest.mark.parametrize("first, second", [(1, 3), (3, 2), (8, 1)])
def test_resumed_after_any_step_at_another_world_no_sample_is_lost_or_repeated(
    folders, first, second
):
    def part(start, steps, world):
        stream = Stream(folders, seed=3, config=STRICT)
        return keys(read(stream, start=24 * start, steps=steps, world=world)["crops"])

    whole = part(0, 4, 1)
    for stop in (1, 2, 3):
        assert part(0, stop, first) + part(stop, 4 - stop, second) == whole
    for dataset, count in enumerate(COUNTS):
        samples = [sample for d, sample in whole if d == dataset]
        assert sorted(samples[:count]) == list(range(count))


def test_seeds_differ(folders):
    a, b = (keys(Stream(folders, seed=seed).batch(0, 60)["crops"]) for seed in (3, 4))
    assert a != b


def test_a_sub_crop_is_a_part_of_the_stored_crop_and_moves_about(folders):
    stream = Stream(folders, seed=0, crop=(1, 2, 3))
    crops = stream.batch(0, 60)["crops"][:, 0]
    assert crops.shape == (60, 1, 2, 3)
    corners = crops[:, -1, -1, -1].tolist()  # in a crop of 2x4x4 voxels numbered from 0
    assert set(corners) == {z * 16 + y * 4 + x for z in (0, 1) for y in (1, 2, 3) for x in (2, 3)}


def test_batches_stay_as_they_are_while_others_are_read(folders):
    stream = Stream(folders, seed=1)
    iterator = stream.batches(0, global_batch=4, workers=3)
    held = list(islice(iterator, 30))
    copies = [batch["crops"].clone() for batch in held[::2]]
    held = held[::2]  # the memory of the others may be used again
    list(islice(iterator, 30))
    iterator.close()
    assert all(torch.equal(batch["crops"], copy) for batch, copy in zip(held, copies, strict=True))


def test_mixup_takes_another_sample_of_the_same_data_set_at_the_same_position(folders, monkeypatch):
    partners = []

    def changed(crop, labels=None, *, partner, **rest):
        partners.append((keys(crop[None, None])[0], keys(partner()[None, None])[0]))
        return crop, labels

    monkeypatch.setattr("tokenunify_scale.data.stream.augment", changed)
    stream = Stream(folders, seed=1, augment=MIXUP)
    stream.batch(0, 60), stream.batch(20, 20)
    assert partners[60:] == partners[20:40]
    assert all(own[0] == other[0] and own != other for own, other in partners)
    assert len(set(partners[:60])) > 40


def test_changes_that_are_switched_off_cost_nothing(folders, monkeypatch):
    monkeypatch.setattr("tokenunify_scale.data.stream.augment", None)  # not callable
    plain = Stream(folders, seed=1).batch(0, 30)
    for off in (AugmentConfig(p=0), unchanged()):
        assert same(plain, Stream(folders, seed=1, augment=off).batch(0, 30))


def test_a_flip_is_a_flip(folders):
    flips = only(AugmentConfig(), "flip")
    plain = Stream(folders, seed=1).batch(0, 9)["crops"]
    flipped = Stream(folders, seed=1, augment=flips).batch(0, 9)["crops"]
    assert torch.equal(flipped, plain.flip((-3, -2, -1)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve crops of 3 channels and 1x6x6 pixels, each channel the first one and a constant."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    first = rng.integers(60, 180, (12, 6, 6)).astype(np.uint8)
    arrays = np.stack([first, first + 20, first + 40], axis=1)
    samples = [(array, {"volume": 0}) for array in arrays]
    index = {"crop": (1, 6, 6), "channels": 3, "voxel_size": None, "volumes": [], "request": {}}
    write_shards(samples, folder, per_shard=4, index=index)
    return folder, arrays


def test_colours_come_as_channels_of_a_crop_of_one_section(photos, folders):
    folder, arrays = photos
    stream = Stream([folder], seed=3)
    batch = stream.batch(0, 12)["crops"]
    assert stream.channels == 3 and stream.crop == (1, 6, 6) and stream.voxel_size is None
    assert batch.shape == (12, 3, 1, 6, 6) and batch.dtype == torch.uint8
    order = [stream.order.at(position).sample for position in range(12)]
    assert np.array_equal(batch[:, :, 0].numpy(), arrays[order])
    assert Stream(folders, seed=3).channels == 1
    with pytest.raises(ConfigError, match=f"{folder} stores crops of 3 channels, {folders[0]} of"):
        Stream([*folders, folder], seed=3)


def test_a_sub_crop_is_at_one_place_in_all_channels(photos):
    folder, arrays = photos
    stream = Stream([folder], seed=3, crop=(1, 2, 3))
    crops = stream.batch(0, 48)["crops"].numpy()
    assert crops.shape == (48, 3, 1, 2, 3)
    places = set()
    for position, crop in enumerate(crops):
        whole = arrays[stream.order.at(position).sample]
        windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 2, 3))[0]
        (found,) = np.argwhere((windows == crop[:, 0]).all((2, 3, 4)))
        places.add(tuple(found))
    assert len(places) > 12  # of 5x4


@pytest.mark.parametrize("crop", [None, (1, 4, 4)])
def test_each_channel_is_changed_as_a_grey_crop_at_its_position_is(photos, tmp_path, crop):
    folder, arrays = photos
    config = replace(MIXUP, rotate=replace(MIXUP.rotate, p=0.5), noise=replace(MIXUP.noise, p=1))
    changed = Stream([folder], seed=3, crop=crop, augment=config).batch(0, 24)["crops"]
    assert not torch.equal(changed, Stream([folder], seed=3, crop=crop).batch(0, 24)["crops"])
    for channel in range(3):
        samples = [(array[channel : channel + 1], {"volume": 0}) for array in arrays]
        index = {"crop": (1, 6, 6), "voxel_size": None, "volumes": [], "request": {}}
        grey = tmp_path / str(channel)
        write_shards(samples, grey, per_shard=4, index=index)
        alone = Stream([grey], seed=3, crop=crop, augment=config).batch(0, 24)["crops"]
        assert torch.equal(changed[:, channel : channel + 1], alone)


def test_flips_turn_all_channels_alike(photos):
    config = only(AugmentConfig(), "flip", "rotate90", "transpose")
    config = replace(config, flip=replace(config.flip, p=0.5))
    crops = Stream([photos[0]], seed=1, augment=config).batch(0, 36)["crops"].int()
    assert torch.equal(crops[:, 1], crops[:, 0] + 20) and torch.equal(crops[:, 2], crops[:, 0] + 40)


def test_a_damaged_partner_is_read_and_counted_once_for_all_channels(photos, monkeypatch):
    stream = Stream([photos[0]], seed=3, augment=only(AugmentConfig(), "mixup"))
    reads, read_into = [], stream.sets[0].read_into
    monkeypatch.setattr(
        stream.sets[0], "read_into", lambda *words: reads.append(words) or read_into(*words)
    )
    stream.batch(0, 8)
    assert len(reads) == 16


def test_a_damaged_sample_stops_the_stream_with_its_name_and_offset(folders, tmp_path):
    copies = [shutil.copytree(folder, tmp_path / folder.name) for folder in folders]
    offset = Stream(copies, seed=0).sets[0].index.shards[1].offsets[1]
    with open(copies[0] / "shard-000001.tar", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 512)
    stream = Stream(copies, seed=3, config=STRICT)
    place = [stream.order.at(position) for position in range(96)].index((0, 5))
    for workers in (0, 4):
        iterator = stream.batches(0, global_batch=1, workers=workers)
        assert len(list(islice(iterator, place))) == place
        with pytest.raises(DataError, match=f"shard-000001.tar .*sample 5 at byte {offset}"):
            next(iterator)


def test_a_damaged_folder_stops_before_the_first_sample(broken):
    with pytest.raises(DataError, match=r"0/shard-00000\d.tar"):
        Stream(broken, seed=3, config=STRICT)


@pytest.mark.parametrize("world, workers", [(1, 1), (2, 0), (3, 4), (8, 1)])
def test_skipped_samples_are_replaced_alike_everywhere_and_others_stay(
    folders, broken, world, workers, capfd
):
    whole = read(Stream(folders, seed=3, config=SKIP), start=0, steps=4)
    assert not whole["skipped"].any()
    stream = Stream(broken, seed=3, config=SKIP)
    capfd.readouterr()  # what opening says
    got = read(stream, start=0, steps=4, world=world, workers=workers)
    told = capfd.readouterr().err.splitlines()
    assert same(got, read(Stream(broken, seed=3, config=SKIP), start=0, steps=4))
    assert got["skipped"].dtype == torch.int64
    before, after = keys(whole["crops"]), keys(got["crops"])
    for old, new, skipped in zip(before, after, got["skipped"].tolist(), strict=True):
        lost = old[0] == 0 and old[1] in LOST
        assert (skipped > 0) == lost and (new == old) == (not lost)
        assert new[0] == old[0] and not (new[0] == 0 and new[1] in LOST)
    assert len(told) == 3  # one line for each shard
    for number, what in ((1, "sample 5"), (3, "cut off"), (5, "missing")):
        assert sum(f"shard-{number:06d}.tar" in line and what in line for line in told) == 1
    assert all("byte" in line for line in told)


def test_damaged_partners_are_replaced_and_counted_too(broken):
    config = only(AugmentConfig(), "mixup")
    plain = Stream(broken, seed=3, config=SKIP).batch(0, 96)
    mixed = Stream(broken, seed=3, config=SKIP, augment=config).batch(0, 96)
    assert (mixed["skipped"] >= plain["skipped"]).all()
    assert mixed["skipped"].sum() > plain["skipped"].sum()


def test_a_data_set_of_damage_only_ends_in_an_error(tmp_path):
    folder = write(tmp_path / "a", count=8, dataset=0)
    stream = Stream([folder], seed=0, config=replace(SKIP, weights=None))
    for path in folder.glob("*.tar"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(DataError, match="position 3: 100 substitutes .*shard-00000"):
        stream.batch(3, 1)


def test_a_remote_folder_is_read_through_the_cache_as_if_it_were_here(folders, network, tmp_path):
    config = replace(STRICT, cache=tmp_path / "cache", cache_gb=2e-4)
    far = Stream([FAR + str(folders[0]), folders[1]], seed=3, config=config)
    near = Stream(folders, seed=3, config=STRICT)
    assert same(read(far, start=0, steps=3, workers=4), read(near, start=0, steps=3))
    assert len(network) == len(set(network)) == 6


def test_with_room_for_a_window_and_one_shard_each_tar_comes_about_once_an_epoch(
    folders, network, tmp_path
):
    sizes = [shard.bytes for shard in Stream(folders[:1], seed=3).sets[0].index.shards]
    room = sum(sorted(sizes)[-3:])
    config = StreamConfig(window=2, cache=tmp_path / "cache", cache_gb=room / 1e9)
    stream = Stream([FAR + str(folders[0])], seed=3, config=config)
    for position in range(44):
        stream.batch(position, 1)
    assert 6 <= len(network) <= 20  # two epochs of six tars; a few may be fetched too early


def test_a_window_and_what_there_is_room_for_of_the_next_are_asked_for_once(
    folders, network, tmp_path, monkeypatch
):
    config = replace(STRICT, cache=tmp_path / "cache", cache_gb=1e-4, weights=None)
    stream = Stream([FAR + str(folders[0])], seed=3, config=config)
    asked = []
    monkeypatch.setattr(stream.sets[0], "prefetch", asked.append)
    stream.batch(0, 1)
    window = stream.order.window_of(0)
    assert asked == [key.sample for key in stream.order.upcoming(window, ahead=2)]
    stream.batch(1, 21)
    windows = dict.fromkeys(stream.order.window_of(position) for position in range(22))
    ahead = [key.sample for w in windows for key in stream.order.upcoming(w, ahead=2)]
    assert asked == ahead and len(windows) == 3


def test_memory_is_pinned_where_there_is_a_gpu_unless_it_is_off(folders, monkeypatch):
    kinds = {}
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        for pin in ("auto", "off"):
            stream = Stream(folders, seed=0, config=StreamConfig(pin=pin))
            kinds[gpu, pin] = stream._buffers.kind
    assert [key for key, kind in kinds.items() if kind == "pinned"] == [(True, "auto")]


def test_a_stream_loads_ahead_as_its_config_says(folders, monkeypatch):
    got = {}
    monkeypatch.setattr(
        "tokenunify_scale.data.stream.batches", lambda source, start, **how: got.update(how)
    )
    stream = Stream(folders, seed=0, config=StreamConfig(workers=3, prefetch=7))
    stream.batches(0, global_batch=4, rank=1, world=2)
    assert got == {"global_batch": 4, "rank": 1, "world": 2, "workers": 3, "prefetch": 7}
    stream.batches(0, global_batch=4, workers=0)
    assert got["workers"] == 0


def test_a_stream_can_be_handed_to_batches(folders):
    stream = Stream(folders, seed=0)
    iterator = partial(batches, stream)(start=8, global_batch=4, rank=1, world=2, micro=2)
    assert next(iterator)["positions"].tolist() == [10, 11]
    iterator.close()


def test_folders_that_cannot_be_mixed_are_named(folders, tmp_path):
    other = write(
        tmp_path / "other", count=2, dataset=0, crop=(2, 4, 6), voxel_size=(1.0, 1.0, 1.0)
    )
    with pytest.raises(ConfigError, match="say which crop"):
        Stream([*folders, other], seed=0)
    mixed = Stream([*folders, other], seed=0, crop=CROP)
    assert mixed.voxel_size is None and mixed.batch(0, 9)["crops"].shape == (9, 1, *CROP)
    with pytest.raises(ConfigError, match="2 weights for 3 data sets"):
        Stream([*folders, other], seed=0, crop=CROP, config=STRICT)
    with pytest.raises(ConfigError, match="no shard folder"):
        Stream([], seed=0)


@pytest.mark.parametrize(
    "values, what",
    [
        ({"weights": (1.0, 0.0)}, "weight 1 .* leave the folder out"),
        ({"weights": ()}, "no weights"),
        ({"window": 0}, "window must be >= 1, got 0"),
        ({"workers": -1}, "workers must be >= 0, got -1"),
        ({"prefetch": 0}, "prefetch must be >= 1, got 0"),
        ({"cache_gb": 0.0}, "cache_gb must be positive"),
        ({"cache_gb": float("nan")}, "cache_gb must be positive"),
        ({"damaged": "skp"}, "damaged .*skip"),
        ({"pin": "on"}, "pin .*auto"),
    ],
)
def test_settings_that_cannot_be_are_named(values, what):
    with pytest.raises(ConfigError, match=what):
        StreamConfig(**values)
    with pytest.raises(ConfigError, match=what):
        build(StreamConfig, values)


def test_settings_are_read_from_plain_data():
    text = {"weights": [2, 1], "cache": "c", "cache_gb": "1e3", "damaged": "skip"}
    want = StreamConfig(weights=(2.0, 1.0), cache=build(StreamConfig, {"cache": "c"}).cache)
    assert build(StreamConfig, text) == replace(want, cache_gb=1000.0, damaged="skip")
