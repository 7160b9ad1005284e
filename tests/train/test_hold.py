import subprocess
import sys

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train.hold import hold

OTHER = """
import sys, time
from pathlib import Path
from tokenunify_scale.train.hold import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the folder."""
    words = [sys.executable, "-c", OTHER, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_job_is_refused_and_told_of_the_first(other, tmp_path):
    with pytest.raises(HostError, match=f"being written by process {other.pid} on "):
        hold(tmp_path, patience=0.0)


def test_what_a_killed_process_held_is_free(other, tmp_path):
    other.kill()
    other.wait()
    hold(tmp_path, patience=0.0)
    hold(tmp_path, patience=0.0)
