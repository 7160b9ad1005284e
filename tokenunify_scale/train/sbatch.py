"""A batch script for Slurm that trains until the work is done, however often it is interrupted."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenunify_scale.train.ranks import EXPECT

PACKAGE = "tokenunify_scale"
WARNING = 300  # seconds before the end of the time limit, or a pre-emption, in which to save
LEAVING = 120  # seconds between the first rank's end and the last's


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is asked of Slurm."""

    nodes: int = 1
    gpus_per_node: int = 1
    """Ranks of a node."""
    options: tuple[str, ...] = ()
    """More words for sbatch: --partition=a100, --time=2-00:00:00."""
    restarts: int = 3
    """Crashes that are answered by another start within the job."""

    def __post_init__(self) -> None:
        """Refuse counts below 1, and options that would end their line."""
        for name in ("nodes", "gpus_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for option in self.options:
            if not option.startswith("-") or not option.isprintable():
                raise ValueError(f"sbatch takes options such as --partition=a100, not {option!r}")


def sbatch_text(batch: Batch, words: Sequence[str], *, name: str, out: Path) -> str:
    """The script.

    Slurm's warning goes to the ranks (SIGUSR2), which save and end with 75; so does its SIGTERM
    before a pre-emption. Then the job is put back into the queue, and goes on from that save. Other
    ranks get some time after the first has ended: SIGTERM would make 143 of their 75.

    Args:
        batch: what is asked of Slurm.
        words: the verb and its words, which every rank is given.
        name: of the job.
        out: the run folder, which the nodes are checked for.
    """
    world = batch.nodes * batch.gpus_per_node
    python = f"{shlex.quote(sys.executable)} -u -m {PACKAGE}"
    more = "".join(f"#SBATCH {option}\n" for option in batch.options)
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={batch.nodes}
#SBATCH --ntasks-per-node={batch.gpus_per_node}
#SBATCH --gpus-per-node={batch.gpus_per_node}
#SBATCH --signal=USR2@{WARNING}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
{more}
export {EXPECT}={world}
cd {shlex.quote(os.getcwd())} || exit 3

srun --nodes={batch.nodes} --ntasks={batch.nodes} --ntasks-per-node=1 \\
  {python} doctor --out {shlex.quote(str(out))} || exit 3

for start in {{1..{batch.restarts + 1}}}; do
  srun --kill-on-bad-exit=0 --wait={LEAVING} \\
    {python} {shlex.join(words)}
  code=$?
  case $code in
    0 | 2 | 3 | 4 | 5) exit $code ;;
    75) scontrol requeue "$SLURM_JOB_ID" && exit 0 || exit $code ;;
  esac
  echo "start $start ended with exit code $code"
done
exit $code
"""
