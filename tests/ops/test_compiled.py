"""Compiled functions: the same results, with a cache on disk or without."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from tokenunify_scale.ops import compiled as module
from tokenunify_scale.ops.compiled import compiled


def add(a: int, b: int) -> int:
    return a + b


def test_a_compiled_function_computes_what_it_says():
    assert compiled(add)(2, 3) == 5


def test_where_no_cache_can_be_written_it_compiles_all_the_same_and_says_so_once(
    monkeypatch, caplog
):
    real = module.njit

    def refusing(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(module, "njit", refusing)
    module.say_uncached.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert compiled(add)(2, 3) == compiled(add)(4, 1) == 5
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1


def test_what_merges_fragments_does_without_torch():
    """It takes a third of a gigabyte of address space, which a segmentation has other use for."""
    program = "import sys, tokenunify_scale.ops.agglomerate_kernel; print('torch' in sys.modules)"
    root = Path(module.__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert told.stdout.split() == ["False"], told.stderr
