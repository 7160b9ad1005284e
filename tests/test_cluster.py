"""Hosts with addresses of their own: the plain command trains there, stops, goes on, and ends."""

import os
import signal
import time

import pytest

from tests import cluster
from tests.kill_matrix import starter
from tokenunify_scale.train.runlog import read_metrics, read_result

WHY = cluster.missing()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(WHY is not None, reason=WHY or ""),
]
STEPS = 6
HANG = 15.0  # seconds


@pytest.fixture(scope="module")
def pair():
    """Two hosts, each with a rank."""
    with cluster.hosts(2) as place:
        yield place


@pytest.fixture
def two(pair):
    """The same, with nothing left there of a test before."""
    yield pair
    pair.clear()


@pytest.fixture(scope="module")
def words(demo):
    """Of one training, but for its folder; its batch can be split over two ranks and three."""
    words = ["--size", "atto", "--shards", demo / "shards", "--steps", STEPS, "--global-batch", 6]
    words += ["--save-every", 2, "--log-every", 1, "--set", "objective.patch=[4,8,8]"]
    return [*words, "--set", "objective.head=dense", "--set", "optim.lr=1e-4"]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory, tokenunify):
    """Losses of the same training by one process, without ZeRO."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = tokenunify("pretrain", *words, "--zero", 0, "--out", out)
    assert done.returncode == 0, done.stderr
    return losses(out)


def losses(run):
    return {record["step"]: record["loss"] for record in read_metrics(run)}


def begin(place, command, out):
    """Start a training and let it come to its third line."""
    process, output = place.start(*command)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and 3 not in losses(out):
        time.sleep(0.02)
    assert 3 in losses(out), output.read_text()
    return process, output


def test_doctor_finds_both_hosts_ready(two, tmp_path):
    code, told = two.run(
        "tokenunify", "doctor", "--hostfile", two.hostfile, "--out", tmp_path / "a"
    )
    assert code == 0, told
    for host in two.hosts:
        row = next(line.split() for line in told.splitlines() if line.startswith(f"{host.name} "))
        assert "ok" in row and "FAIL" not in row, told


def test_two_hosts_stop_on_sigterm_and_go_on_to_what_one_process_learns(
    two, words, alone, tmp_path
):
    out = tmp_path / "run"
    command = [*two.launcher, "scripts/pretrain.py", *words, "--zero", 3, "--out", out]
    process, output = begin(two, command, out)
    os.kill(starter(two), signal.SIGTERM)
    process.wait(60)
    assert two.idle(timeout=60) < 60
    reached = max(losses(out))
    assert 3 <= reached < STEPS and read_result(out) is None, output.read_text()
    assert (out / "latest").read_text() == f"step-{reached:08d}\n", output.read_text()
    assert len(list((out / "checkpoints").glob(f"step-{reached:08d}/*optim_states.pt"))) == 2

    code, told = two.run(*command)
    assert code == 0, told
    assert read_result(out)["world"] == 2
    assert losses(out) == pytest.approx(alone, rel=1e-4)
    assert two.idle(timeout=60) < 60
    for host in two.hosts:
        assert not list(host.path("/dev/shm").iterdir()), "shared memory was left behind"


def test_three_hosts_learn_what_one_process_learns(words, alone, tmp_path):
    out = tmp_path / "run"
    with cluster.hosts(3) as three:
        request = ["scripts/pretrain.py", *words, "--zero", 3, "--out", out]
        code, told = three.run(*three.launcher, *request)
    assert code == 0, told
    assert read_result(out)["world"] == 3
    assert losses(out) == pytest.approx(alone, rel=1e-4)


def test_a_mistyped_hostfile_does_not_train_on_one_machine(two, words, tmp_path):
    request = ["scripts/pretrain.py", *words, "--expect-world", 3, "--out", tmp_path / "run"]
    code, told = two.run("deepspeed", "--hostfile", two.folder / "hostfiel", *request)
    assert code == 3, told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert "Traceback" not in told


def test_a_cut_network_ends_the_ranks_of_both_hosts_and_the_job_can_go_on(
    two, words, alone, tmp_path
):
    out = tmp_path / "run"
    request = ["scripts/pretrain.py", *words, "--zero", 3, "--set", f"hang_after={HANG}"]
    command = [*two.launcher, *request, "--out", out]
    process, output = begin(two, command, out)
    two.cut(1)
    try:
        assert two.idle(of="ranks", timeout=2 * HANG + 30) > HANG / 2
        assert process.wait(60) == 255  # of the ssh that found the other host gone
    finally:
        two.mend(1)
    # What the other rank says does not get here.
    assert "[rank 0] step " in output.read_text(), output.read_text()
    assert two.idle(timeout=60) < 60

    code, told = two.run(*command)
    assert code == 0, told
    assert losses(out) == pytest.approx(alone, rel=1e-4)
