"""End trainings of two ranks in many ways, run the same command again, and compare.

    python -m tests.kill_matrix [--only NAME ...] [--rounds 30] [--seed 1]

prints a row for each way: what was done, the exit code of what was ended, the seconds until its
ranks were gone, the step that the same command went on from, the greatest relative difference of
its losses from those of a run that was left alone, and whether it learned from the same crops in
the same steps. Exit code 1 if a row is not as it should be. Ways that need two hosts, or a small
disk, make them of namespaces, as root.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import cluster
from tests.cluster_place import ROOT, Place, kill
from tests.kill_matrix_run import HANG, PATIENCE, Bench, Row, go_on, interrupt


def sigterm(bench: Bench) -> Row:
    """SIGTERM to the job's process group, as a scheduler sends it."""
    run, row = bench.run("sigterm"), Row("SIGTERM to the process group, in step 6")

    def act() -> None:
        os.killpg(os.getsid(starter(run.place)), signal.SIGTERM)

    interrupt(run, row, moment=lambda: run.step() >= 6, act=act)
    saved = run.step()
    row.expect("SIGTERM: stopped after step" in row.told, "it did not say that it stopped")
    go_on(run, row, bench)
    row.expect(row.resumed == saved, f"stopped in step {saved}, went on from {row.resumed}")
    return row


def sigterm_hosts(bench: Bench) -> Row:
    """SIGTERM to the ``deepspeed`` command of a job of two hosts."""
    with cluster.hosts(2) as place:
        run, row = bench.run("sigterm-hosts", place=place), Row("SIGTERM to deepspeed, two hosts")
        interrupt(
            run, row, moment=lambda: run.step() >= 6,
            act=lambda: os.kill(starter(place), signal.SIGTERM),
        )  # fmt: skip
        saved = run.step()
        go_on(run, row, bench)
        row.expect(row.resumed == saved, f"stopped in step {saved}, went on from {row.resumed}")
        return row


def sigkill_rank(bench: Bench) -> Row:
    """SIGKILL of one rank within a step."""
    run, row = bench.run("sigkill-rank"), Row("SIGKILL of rank 1 within step 7")
    interrupt(run, row, moment=lambda: run.step(1) >= 7, act=lambda: kill(run.place.ranks()[1]))
    row.expect(row.code, "exit code 0")
    go_on(run, row, bench)
    return row


def sigkill_save(bench: Bench) -> Row:
    """SIGKILL of one rank while it saves; tried again until a save was left unfinished."""
    run, row = bench.run("sigkill-save"), Row("")
    for attempt in range(1, 6):
        victim = attempt % 2
        ranks: dict[int, int] = {}

        def moment(ranks: dict[int, int] = ranks) -> bool:
            if run.step() and len(ranks) < 2:
                ranks.update(run.place.ranks())
            return len(ranks) == 2 and run.partial() is not None

        def act(ranks: dict[int, int] = ranks, victim: int = victim) -> None:
            kill(ranks[victim])

        interrupt(run, row, moment=moment, act=act)
        left = run.partial()
        if left is not None:
            row.done = f"SIGKILL of rank {victim} amid the save of {left.name[1:14]}"
            break
    row.expect(row.done, "no kill came amid a save")
    go_on(run, row, bench)
    row.expect(run.partial() is None, "what was left of the save is still there")
    return row


def cut(bench: Bench) -> Row:
    """The network of one of two hosts goes."""
    bench.left_alone()  # its kernels are compiled then, and no first step takes long
    with cluster.hosts(2) as place:
        row = Row("network of the second host cut, in step 6")
        run = bench.run("cut", place=place, hang=HANG)
        interrupt(run, row, moment=lambda: run.step() >= 6, act=lambda: place.cut(1))
        # What the other rank says cannot get here, as its network is cut.
        row.expect("[rank 0] step " in row.told, "rank 0 did not say where it stood")
        place.mend(1)
        go_on(run, row, bench)
        return row


def disk_full(bench: Bench) -> Row:
    """The disk takes no second save."""
    with cluster.hosts(1) as place:
        row, disk = Row("disk full but for 1 MB, in step 6"), bench.new("disk")
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]
        assert place.run(*mount)[0] == 0
        place.launcher = ["deepspeed", "--num_accelerators", "2"]
        seen = place.hosts[0].path(disk)
        run = bench.run("disk/full", place=place, seen=seen / "full")
        filler = seen / "filler"

        def act() -> None:
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(seen).free - 1_000_000)

        interrupt(run, row, moment=lambda: run.step() >= 6, act=act)
        row.expect("cannot be written" in row.told, "it did not say that the save failed")
        row.expect("Traceback" not in row.told, "it ended with a traceback")
        row.expect(row.code == 3, f"exit code {row.code} is not 3")
        filler.unlink()
        go_on(run, row, bench)
        return row


def corrupted(bench: Bench) -> Row:
    """A byte of the newest checkpoint changes."""
    run, row = bench.run("corrupted"), Row("a byte of the last save changed")
    row.code, row.told = run.place.run(*run.command)
    (run.folder / "result.json").unlink()
    newest = run.folder / "checkpoints" / f"step-{run.steps:08d}"
    states = next(newest.glob("*optim_states.pt"))
    content = bytearray(states.read_bytes())
    content[len(content) // 2] ^= 1
    states.write_bytes(content)
    go_on(run, row, bench, saved=run.steps - run.every)
    row.expect(f"{newest.name}: {states.name} has checksum" in row.told, "the damage is not named")
    row.expect(
        f"going on from step-{row.resumed:08d}" in row.told, "it did not say where it goes on"
    )
    return row


def sigkill_launcher(bench: Bench) -> Row:
    """SIGKILL of the ``deepspeed`` command alone, which its ranks outlive: nobody tells them."""
    run, row = bench.run("sigkill-launcher"), Row("SIGKILL of deepspeed alone, in step 6")
    interrupt(run, row, moment=lambda: run.step() >= 6, act=lambda: kill(starter(run.place)))
    if run.step() == run.steps:
        row.done += "; its ranks went on to the end"
    go_on(run, row, bench)
    return row


def random_kills(bench: Bench) -> Row:
    """SIGKILL of a rank or of the whole job, at random times, again and again."""
    run = bench.run("random", steps=4 * bench.rounds, every=2)
    rng, row, killed, longest = random.Random(bench.seed), Row(""), [], 0.0
    for _ in range(bench.rounds):
        victim, further, delay = rng.choice((0, 1, "job")), rng.randint(0, 6), rng.uniform(0, 0.5)
        before, reached = len(run.lines()), run.step()

        def moment(before: int = before, further: int = further) -> bool:
            # Without a further step it is killed as soon as it has two ranks: while it starts.
            return len(run.lines()) >= before + further and len(run.place.ranks()) == 2

        def act(victim: int | str = victim, delay: float = delay) -> None:
            time.sleep(delay)
            ranks = [pid for rank, pid in run.place.ranks().items() if rank == victim]
            for pid in run.place.processes() if victim == "job" else ranks:
                kill(pid)

        if not interrupt(run, row, moment=moment, act=act):
            break
        row.told, longest = "", max(longest, row.seconds)
        again = run.lines()[before:]
        if again:
            saved = (reached - 1) // run.every * run.every
            row.expect(again[0][0] - 1 >= saved, f"reached {reached}, began {again[0][0]}")
            killed.append(reached - again[0][0] + 1)
    row.seconds = longest
    row.done = f"{bench.rounds} random SIGKILLs (seed {bench.seed}), done again: {killed}"
    go_on(run, row, bench)
    return row


WAYS = {
    "sigterm": sigterm,
    "sigterm-hosts": sigterm_hosts,
    "sigkill-rank": sigkill_rank,
    "sigkill-save": sigkill_save,
    "sigkill-launcher": sigkill_launcher,
    "cut": cut,
    "disk-full": disk_full,
    "corrupted": corrupted,
    "random": random_kills,
}
OF_HOSTS = ("sigterm-hosts", "cut", "disk-full")


def main(words: list[str] | None = None) -> int:
    """Run what the words ask for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=30, help="random kills")
    parser.add_argument("--seed", type=int, default=1, help="of the random kills")
    options = parser.parse_args(words)
    right = True
    with tempfile.TemporaryDirectory(prefix="kill-matrix-") as folder:
        shards = Path(folder) / "shards"
        spec = "synthetic:seed=5,shape=16x64x64"
        how = ["--crops", "16", "--crop", "8,32,32", "--per-shard", "8"]
        prepare = [sys.executable, "-m", "tokenunify_scale", "prepare", "--volumes", spec]
        subprocess.run([*prepare, "--out", shards, *how], check=True, timeout=PATIENCE, cwd=ROOT)
        bench = Bench(Path(folder), shards, rounds=options.rounds, seed=options.seed)
        print(
            "| way | done | exit code | gone after | went on from | losses differ | same crops | |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in options.only or WAYS:
            if name in OF_HOSTS and (why := cluster.missing()):
                print(f"| {name} | left out: {why} | | | | | | |", flush=True)
                continue
            try:
                row = WAYS[name](bench)
            except (AssertionError, TimeoutError) as error:
                row = Row("", wrong=[str(error)[:300]], told=str(error))
            right = right and not row.wrong
            print(line(name, row), flush=True)
            if row.wrong:
                print(row.told[-6000:], file=sys.stderr)
    return 0 if right else 1


def line(name: str, row: Row) -> str:
    """Of the table."""
    code = "-" if row.code is None else row.code
    verdict = "; ".join(" ".join(wrong.split()) for wrong in row.wrong) or "ok"
    cells = (name, row.done, code, f"{row.seconds:.1f} s", row.resumed, f"{row.difference:.1g}")
    return f"| {' | '.join(map(str, cells))} | {'yes' if row.same_crops else 'NO'} | {verdict} |"


def starter(place: Place) -> int:
    """The process of the ``deepspeed`` command."""
    found = [pid for pid, words in place.processes().items() if "/bin/deepspeed " in words]
    assert len(found) == 1, place.processes()
    return found[0]


if __name__ == "__main__":
    raise SystemExit(main())
