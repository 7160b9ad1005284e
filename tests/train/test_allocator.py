import subprocess
import sys

import pytest

from tokenunify_scale.train.allocator import SETTINGS, keep_freed_memory

FAULTS = """
import resource, torch
from tokenunify_scale.train.allocator import keep_freed_memory
made = keep_freed_memory() if {keep} else None
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # the heap grows until an aligned block fits
    torch.ones(10_000_000)
before = faults()
for _ in range(5):
    torch.ones(10_000_000)
print(made, faults() - before)
"""


def test_freed_blocks_come_back_without_page_faults():
    def run(keep):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)],
                              capture_output=True, text=True, check=True)
        return done.stdout.split()

    made, kept = run(True)
    if made == "False":
        pytest.skip("not glibc, or the environment has its own settings")
    _, given_back = run(False)
    assert int(kept) < int(given_back) / 10


@pytest.mark.parametrize("name", SETTINGS)
def test_the_users_own_settings_stand(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
