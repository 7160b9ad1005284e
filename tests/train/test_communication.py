import os
import subprocess
import sys

from torch import distributed as dist

from tokenunify_scale.train.communication import Blocked

# Rank 1 comes half a second late to each of three collectives; the second runs beside other work.
TWO = """
import sys, time, torch
from torch import distributed as dist
from tokenunify_scale.train.communication import Blocked
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
dist.barrier()
with Blocked() as blocked:
    for number in range(3):
        before = blocked.seconds
        time.sleep(0.5 * rank)
        handle = dist.all_reduce(torch.ones(3), async_op=number == 1)
        if number == 1:
            time.sleep(0.3)
            handle.wait()
        print(round(blocked.seconds - before, 3))
    dist.barrier()
"""


def test_what_is_counted_is_the_time_a_rank_is_held_up(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(rank), str(tmp_path / "meet")],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    early, late = ([float(x) for x in rank.communicate(timeout=60)[0].split()] for rank in ranks)
    assert early[0] > 0.4, "it waited for the other"
    assert 0.05 < early[1] < early[0] - 0.1, "other work was done meanwhile: only the rest counts"
    assert max(late) < 0.3, "nobody was waited for"


def test_torch_is_as_it_was_once_it_is_left():
    before = dist.Work.wait
    with Blocked() as blocked:
        assert dist.Work.wait is not before
    assert dist.Work.wait is before and blocked.seconds == 0
