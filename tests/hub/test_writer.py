import errno
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tokenunify_scale.config import HostError
from tokenunify_scale.hub.writer import split, write_weights
from tokenunify_scale.train.checkpoint import INDEX, WEIGHTS
from tokenunify_scale.train.sealed import file_sha256

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "count": torch.tensor(7),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(0)),
    "c": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).t(),
}


def like(tensors=TENSORS, dtype=None):
    return {
        name: tensor.to("meta", dtype if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }


def write(folder, *, limit=10**9, dtype=None, read=TENSORS.__getitem__):
    return write_weights(folder, like(dtype=dtype), read, header={"format": "pt"}, limit=limit)


def test_safetensors_reads_what_was_written(tmp_path):
    sums = write(tmp_path)
    found = load_file(tmp_path / WEIGHTS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert sums == {WEIGHTS: file_sha256(tmp_path / WEIGHTS)}
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_are_cast_and_counters_are_not(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    found = load_file(tmp_path / WEIGHTS)
    assert torch.equal(found["a"], TENSORS["a"].to(dtype)) and found["count"] == 7
    assert found["count"].dtype == torch.int64


def test_several_files_have_an_index_and_the_limit_holds(tmp_path):
    write(tmp_path)
    sums = write(tmp_path, limit=40)
    index = json.loads((tmp_path / INDEX).read_text())
    assert not (tmp_path / WEIGHTS).exists()  # of the export before
    assert set(index["weight_map"].values()) == set(sums) and len(sums) == 3
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], TENSORS[name])


def test_a_tensor_above_the_limit_has_a_file_to_itself():
    parts = split(like(), limit=24)
    assert [list(part) for part in parts] == [["a"], ["count"], ["b"], ["c"]]


def test_what_was_there_stays_when_the_disk_is_full(tmp_path):
    write(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()

    def full(name):
        if name == "b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return TENSORS[name]

    with pytest.raises(HostError, match="No space left on device"):
        write(tmp_path, limit=40, read=full)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


MEMORY = """
import resource, sys, torch
from pathlib import Path
from tokenunify_scale.hub.writer import write_weights

like = {str(i): torch.empty(2**20, device="meta") for i in range(64)}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
write_weights(Path(sys.argv[1]), dict(list(like.items())[:1]), lambda n: torch.rand(2**20),
              header={}, limit=2**30)
before = peak()
write_weights(Path(sys.argv[1]), like, lambda n: torch.rand(2**20), header={}, limit=2**30)
print(peak() - before)
"""


def test_memory_is_that_of_one_tensor(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32  # MiB, of 256
