"""Kill a study's harness again and again, and see that no finished run is lost or repeated.

    python tests/scaling/jobs/kill_harness.py --kills 10 --longest 40 OUT \\
        python -m tokenunify_scale scaling run cpu_demo --out OUT

Moments and signals, SIGKILL or SIGTERM, are drawn from a seed. After each death all results that
are there are remembered; they must be there at the end, byte for byte.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def results(out: Path) -> dict[str, bytes]:
    """The bytes of every whole result.json of a study, by job."""
    found = {}
    for file in sorted(out.glob("*/*/result.json")):
        text = file.read_bytes()
        json.loads(text)
        found[str(file.parent.relative_to(out))] = text
    return found


def torment(
    words: Sequence[str],
    out: Path,
    *,
    kills: int,
    longest: float,
    seed: int = 0,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """Start a harness and kill it, ``kills`` times, then let it run to its end.

    Args:
        words: the command of the harness.
        out: folder of its study.
        kills: deaths; fewer if it comes to its end before.
        longest: seconds after which it is killed at the latest.
        seed: of moments and signals.
        env: of the harness.

    Returns:
        A line for each start.

    Raises:
        RuntimeError: a result was lost or made anew, or the last run did not finish.
    """
    draw, told, before = random.Random(seed), [], {}
    for number in range(kills + 1):
        began = time.monotonic()
        child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        how = draw.choice([signal.SIGKILL, signal.SIGTERM])
        try:
            child.communicate(timeout=draw.uniform(0, longest) if number < kills else 3600)
            how = None
        except subprocess.TimeoutExpired:
            child.send_signal(how)
            child.communicate(timeout=120)
        after = results(out)
        lost = [job for job, text in before.items() if after.get(job) != text]
        name = how.name if how else "nothing"
        told.append(
            f"{number + 1}: {name} after {time.monotonic() - began:.1f} s, exit code "
            f"{child.returncode}, {len(after)} finished"
        )
        if lost:
            raise RuntimeError(f"lost or made anew: {', '.join(lost)}; {told}")
        before = after
        if child.returncode == 0:
            return told
    raise RuntimeError(f"the last run did not finish: {told}")


def main() -> int:
    """The command line of the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    words = asked.words[1:] if asked.words[:1] == ["--"] else asked.words
    chosen = {"kills": asked.kills, "longest": asked.longest, "seed": asked.seed}
    for line in torment(words, asked.out, **chosen):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
