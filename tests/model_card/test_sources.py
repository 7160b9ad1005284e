import json

import numpy as np
import pytest

from tokenunify_scale.data.datasets import DATASETS
from tokenunify_scale.model_card.records import read
from tokenunify_scale.model_card.sources import describe, sources, told
from tokenunify_scale.volumes.hdf5 import write_hdf5

FIB25 = DATASETS["fib25"]


@pytest.mark.parametrize(
    "spec, name",
    [
        ("/home/me/a.h5:vol/raw", "a.h5:vol/raw"),
        ("../x/b.tif", "b.tif"),
        ("/data/c.zarr:raw/s0", "c.zarr:raw/s0"),
        ("/data/shards/", "shards"),
        ("https://host/d.zarr?key=secret", "d.zarr"),
        ("s3://bucket/path/e", "e"),
        ("synthetic:seed=5,shape=16x64x64", "synthetic:seed=5,shape=16x64x64"),
    ],
)
def test_a_volume_is_told_by_name_and_not_by_place(spec, name):
    assert told(spec) == name


def test_volumes_of_a_fine_tuning_are_told_with_labels_and_sections(finetune):
    (source,) = sources(read(finetune(volume=["/no/a.h5:raw"], sections=[0, 20])))
    assert source.terms == "unknown" and "/no" not in str(source)
    assert "`a.h5:raw` with labels `a.h5:labels`, sections 0:20.\n  Licence: not known." in str(
        source
    )


def test_volumes_of_shards_are_those_of_their_index(pretrain, tmp_path):
    folder = pretrain()
    facts = {"path": "/mine/x.h5:raw", "shape": [9, 9, 9], "voxel_size": [8, 8, 8]}
    index = {
        "version": 1, "count": 2, "crop": [8, 32, 32], "voxel_size": None, "request": {},
        "volumes": [{**facts, "dataset": "fib25"}, {"path": "synthetic:seed=5"}],
        "shards": [{"name": "shard-000000.tar", "count": 2, "bytes": 40000, "sha256": "0" * 64,
                    "offsets": [0, 20000, 40000]}],
    }  # fmt: skip
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "index.json").write_text(json.dumps(index))
    known, made_up, lost = sources(read(folder))
    assert (known.dataset, known.terms) == (FIB25, "known")
    assert "`x.h5:raw` (9x9x9 voxels, voxels of 8x8x8 nm; z, y, x)" in str(known)
    assert "2 crops of 8x32x32 voxels" in str(known) and f"<{FIB25.page}>" in str(known)
    assert FIB25.licence in str(known) and FIB25.citation in str(known)
    assert made_up.terms == "none"
    assert (lost.name, lost.terms) == ("s2", "unknown")


def test_what_a_file_says_of_itself_is_told_without_places_and_links(finetune, tmp_path):
    said = {
        "license": "CC BY 4.0 / credit me, https://licence.example",
        "source": "/home/me/orig.h5:raw of lab",
    }
    volume = np.zeros((2, 4, 4), np.uint8)
    write_hdf5(tmp_path / "a.h5", {"raw": volume}, attributes={"raw": said})
    (source,) = sources(read(finetune()))
    assert (source.licence, source.origin) == ("CC BY 4.0 / credit me,", "orig.h5:raw of lab")
    assert (source.terms, source.shape) == ("known", (2, 4, 4))


@pytest.mark.parametrize(
    "origin, synthetic", [("synthetic:seed=3", True), ("synthetic", False), ("a.tif", False)]
)
def test_a_copy_of_a_made_up_volume_is_made_up(finetune, tmp_path, origin, synthetic):
    volume = np.zeros((2, 4, 4), np.uint8)
    write_hdf5(tmp_path / "a.h5", {"raw": volume}, attributes={"raw": {"source": origin}})
    (source,) = sources(read(finetune()))
    assert source.synthetic == synthetic and source.terms == ("none" if synthetic else "unknown")


def test_a_copy_that_prepare_wrote_of_a_data_set_is_known(finetune, write):
    files = {"files": ["d/a.h5"], "volumes": [{"path": "mine.h5:x", "dataset": "wafer25"}]}
    write("d", "prepare", result=files)
    (source,) = sources(read(finetune(volume=["d/a.h5:raw"])))
    assert source.dataset.name == "wafer25" and source.repository == "cyd0806/wafer_EM"
    assert "Licence: research only" in str(source)


def test_a_name_like_a_published_file_is_said_and_no_proof(finetune):
    run = read(finetune())
    source = describe("/x/sample_A_20160501.hdf:volumes/raw", run)
    assert (source.dataset, source.alike) == (None, DATASETS["cremi-a"])
    assert "Called like the published file of CREMI A" in str(source)
    assert (source.terms, source.repository) == ("unknown", None)
    assert describe("wafer25_inputs.h5:main", run).terms == "known"
    assert describe("cube.h5:raw", run).alike is None, "anyone's file may have that name"


def test_what_is_read_in_place_is_known_and_nothing_is_asked_of_it(finetune):
    source = describe(FIB25.location, read(finetune()))
    assert source.dataset == FIB25 and source.shape is None
