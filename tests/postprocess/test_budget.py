"""The whole at once where it fits, else the largest blocks that do, whole chunks all of them."""

import math
import resource
import subprocess
import sys

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.postprocess.budget import CHUNK, MIB, Need, available, chunk_of, cut

NEED = Need(channels=3, method=48)
SHAPE, HALO = (100, 1000, 1500), (4, 32, 32)


def test_a_volume_that_fits_is_not_cut():
    whole = NEED.of(math.prod(SHAPE))
    assert cut(SHAPE, need=NEED, limit=whole, halo=HALO).block is None
    assert cut(SHAPE, need=NEED, limit=whole, halo=HALO).memory == whole
    assert cut(SHAPE, need=NEED, limit=whole - 1, halo=HALO).block is not None


@pytest.mark.parametrize("mebibytes", [300, 600, 1200, 4000])
@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_fit_and_are_whole_chunks(mebibytes, workers):
    limit = mebibytes * MIB + (workers > 1) * 1500 * MIB
    found = cut(SHAPE, need=NEED, limit=limit, halo=HALO, workers=workers)
    assert found.memory <= limit and found.count >= workers
    chunks = chunk_of(found.block)
    assert all(side % chunk == 0 for side, chunk in zip(found.block, chunks, strict=True))
    larger = cut(SHAPE, need=NEED, limit=limit * 3, halo=HALO, workers=workers)
    assert larger.block is None or math.prod(larger.block) > math.prod(found.block)


def test_more_workers_always_have_blocks_to_work_on():
    found = cut(SHAPE, need=NEED, limit=1 << 50, halo=HALO, workers=4)
    assert found.block is not None and found.count >= 4


def test_the_users_block_is_taken_as_it_is():
    found = cut(SHAPE, need=NEED, limit=1, block=(32, 256, 512), halo=HALO)
    assert found.block == (32, 256, 512) and found.count == 4 * 4 * 3
    assert found.memory == NEED.of(40 * 320 * 576)


def test_a_thin_volume_has_thin_chunks():
    assert chunk_of((5, 40, 128)) == (5, 40, 128)
    found = cut((5, 4000, 4000), need=NEED, limit=200 * MIB, halo=HALO)
    assert found.block[0] == 5


@pytest.mark.parametrize("block", [(17, 128, 128), (16, 130, 128), (16, 128, 0)])
def test_a_block_that_cuts_chunks_names_the_nearest_that_does_not(block):
    with pytest.raises(ConfigError, match="nearest"):
        chunk_of(block)


def test_memory_for_less_than_a_chunk_is_refused():
    with pytest.raises(ConfigError, match="memory_MiB is 10: raise it"):
        cut(SHAPE, need=NEED, limit=10 * MIB, halo=HALO)


def test_more_channels_and_thresholds_cost_more():
    assert Need(channels=12, method=48).of(10**9) == NEED.of(10**9) + 72 * 10**9
    assert Need(channels=3, method=48, results=9).of(10**9) > NEED.of(10**9)
    assert CHUNK == (16, 128, 128)


def test_what_is_available_heeds_the_process_limit():
    assert 0 < available() < 1 << 50
    code = (
        "import resource\n"
        "from tokenunify_scale.postprocess.budget import available\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({4 << 30}, {4 << 30}))\n"
        "print(available())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(told.stdout) < 4 << 30
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 4 << 30
