import errno
import os
import random
import resource
import signal
import threading
import time
from contextlib import suppress
from mmap import mmap

import pytest

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.train.durable import checksums
from tokenunify_scale.train.manifest import MANIFEST, damage, files_of_rank, read_manifest
from tokenunify_scale.train.retention import SaveConfig, retain, rewind
from tokenunify_scale.train.saves import (
    best,
    candidates,
    choose,
    latest,
    partial,
    saving,
    seal,
    step_of,
    sweep,
    tag_of,
)

FACTS = {"world": 1, "stage": 0, "offload": "none"}
POLICY = SaveConfig(keep=2, keep_best=1)


def write(run, step: int, text: str = "") -> None:
    """What the ranks do."""
    folder = partial(run, step)
    (folder / "inner").mkdir(parents=True)
    (folder / "a.pt").write_text(f"{step} {text}" * 9)
    (folder / "inner" / "b.pt").write_text(f"{step} {text}" * 5)


def save(run, step: int, text: str = "", **more) -> str:
    write(run, step, text)
    return seal(run, step, **FACTS, **more)


def folder(run, step: int):
    return run / "checkpoints" / tag_of(step)


def names(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def refuse(number: int):
    """A call that the file system refuses."""

    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    return refused


def test_a_sealed_save_has_its_name_its_manifest_and_the_pointer(tmp_path):
    write(tmp_path, 20)
    assert candidates(tmp_path) == [] and choose(tmp_path) is None and latest(tmp_path) is None
    more = {"loss": 0.5, "probe": 0.25, "measured_on": "held_out", "facts": {"crops": 7}}
    tag = seal(tmp_path, 20, world=2, stage=3, offload="cpu", **more)
    assert tag == "step-00000020" == choose(tmp_path) == latest(tmp_path)
    assert names(tmp_path) == [tag]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "latest"]
    manifest = read_manifest(folder(tmp_path, 20))
    assert (manifest.step, manifest.world, manifest.stage, manifest.offload) == (20, 2, 3, "cpu")
    assert (manifest.loss, manifest.probe, manifest.facts) == (0.5, 0.25, {"crops": 7})
    assert set(manifest.files) == {"a.pt", "inner/b.pt"} and manifest.measured_on == "held_out"
    assert damage(folder(tmp_path, 20)) is None


def test_tags_sort_as_numbers_and_nothing_else_is_a_checkpoint(tmp_path):
    for step in (9, 200_000_000, 99_999_999):
        save(tmp_path, step)
    for name in ("step-1", "step-00000300.aside", "global_step5", "step-00000009x"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "step-00000500").write_text("a file")
    assert [step_of(t) for t in candidates(tmp_path)] == [200_000_000, 99_999_999, 9]


def test_what_ranks_summed_is_not_read_again(tmp_path, monkeypatch):
    write(tmp_path, 20)
    for rank in (0, 1):
        (partial(tmp_path, 20) / f"zero_pp_rank_{rank}_mp_rank_00.pt").write_text(str(rank))
    inner = partial(tmp_path, 20)
    parts = [checksums(inner, files_of_rank(inner, rank=rank)) for rank in (0, 1)]
    assert len(parts[0]) == 3 and len(parts[1]) == 1
    asked = []
    monkeypatch.setattr(
        "tokenunify_scale.train.saves.checksums",
        lambda folder, names: asked.extend(names) or checksums(folder, names),
    )
    seal(tmp_path, 20, **FACTS, parts=parts[1:])
    assert asked == ["a.pt", "inner/b.pt", "zero_pp_rank_0_mp_rank_00.pt"]
    assert damage(folder(tmp_path, 20)) is None
    assert read_manifest(folder(tmp_path, 20)).files == parts[0] | parts[1]


@pytest.mark.parametrize("told, said", [({"b.pt": (3, 1)}, "has no bytes"), ({"a.pt": (3, 1)}, "")])
def test_files_that_only_their_rank_can_see_are_refused(tmp_path, told, said):
    save(tmp_path, 10)
    write(tmp_path, 20)
    with pytest.raises(HostError, match=f"{said}.*3 on the one that wrote it.*share"):
        seal(tmp_path, 20, **FACTS, parts=[told])
    assert choose(tmp_path) == latest(tmp_path) == tag_of(10)


def test_all_is_on_the_disk_before_a_name_vouches_for_it(tmp_path, monkeypatch):
    events = []

    def fsync(handle: int) -> None:
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))

    def named(change):
        return lambda *paths: events.append(tuple(map(os.path.basename, paths))) or change(*paths)

    write(tmp_path, 20)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", named(os.replace))
    monkeypatch.setattr(os, "rename", named(os.rename))
    seal(tmp_path, 20, **FACTS)
    inner = "checkpoints/.step-00000020.partial"
    contents = {f"{inner}/a.pt", f"{inner}/inner/b.pt", f"{inner}/inner", inner}
    assert set(events[:4]) == contents and set(events[:2]) == {e for e in contents if ".pt" in e}
    assert events[4:] == [
        f"{inner}/.manifest.json.partial",
        (".manifest.json.partial", "manifest.json"),
        inner,
        (".step-00000020.partial", "step-00000020"),
        "checkpoints",
        ".latest.partial",
        (".latest.partial", "latest"),
        ".",
    ]


@pytest.mark.parametrize("wrong", [{"stage": 7}, {"offload": "x"}, {"loss": float("nan")}])
def test_a_save_that_could_not_be_read_back_is_not_sealed(tmp_path, wrong):
    write(tmp_path, 20)
    with pytest.raises(ValueError):
        seal(tmp_path, 20, **{**FACTS, **wrong})
    assert candidates(tmp_path) == []


def test_a_save_of_nothing_is_not_sealed(tmp_path):
    partial(tmp_path, 20).mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing was saved"):
        seal(tmp_path, 20, **FACTS)


def test_a_step_saved_again_replaces_what_was_there(tmp_path):
    save(tmp_path, 10)
    for text in ("one", "two"):
        save(tmp_path, 20, text)
        assert text in (folder(tmp_path, 20) / "a.pt").read_text()
        assert names(tmp_path) == [tag_of(10), tag_of(20)] and choose(tmp_path) == tag_of(20)


# Falling back


def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    (folder(tmp_path, 40) / "a.pt").write_text("short")
    (folder(tmp_path, 30) / "inner" / "b.pt").unlink()
    said = []
    assert choose(tmp_path, said.append) == tag_of(20)
    assert len(said) == 1 and "\n" not in said[0]
    assert "step-00000040: a.pt has 5 bytes of " in said[0]
    assert "step-00000030: inner/b.pt is missing; going on from step-00000020" in said[0]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path, capsys):
    for step in (10, 20):
        save(tmp_path, step)
    assert choose(tmp_path) == tag_of(20)
    assert capsys.readouterr() == ("", "")


def test_a_pointer_to_what_is_gone_falls_back_and_says_so(tmp_path, capsys):
    save(tmp_path, 10)
    (tmp_path / "latest").write_text("step-00000020\n")
    assert choose(tmp_path) == tag_of(10)
    out, err = capsys.readouterr()
    line = f"{tmp_path}: latest names 'step-00000020', which is not there; "
    assert (out, err) == ("", line + "going on from step-00000010\n")


def test_if_none_is_whole_there_is_no_fresh_start(tmp_path):
    (tmp_path / "latest").write_text("step-00000007\n")
    with pytest.raises(DataError, match="latest names 'step-00000007', which is not there"):
        choose(tmp_path)
    for step in (10, 20):
        save(tmp_path, step)
        (folder(tmp_path, step) / "a.pt").unlink()
    with pytest.raises(DataError, match="no checkpoint is whole.*00020: a.pt.*00010: a.pt") as e:
        choose(tmp_path)
    assert e.value.exit_code == 4


def test_a_damaged_one_is_set_aside_by_what_goes_on_before_it(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    (folder(tmp_path, 20) / "a.pt").write_text("x")
    rewind(tmp_path, choose(tmp_path, lambda line: None))
    said = []
    assert choose(tmp_path, said.append) == latest(tmp_path) == tag_of(10) and not said
    assert names(tmp_path) == [tag_of(10), "step-00000020.aside"]


def test_of_a_run_from_before_manifests_what_latest_names_is_taken_with_a_word(tmp_path):
    for step in (10, 20, 30):
        folder(tmp_path, step).mkdir(parents=True)
    with pytest.raises(DataError, match="step-00000030: no manifest.json"):
        choose(tmp_path)
    (tmp_path / "latest").write_text("step-00000020\n")
    said = []
    assert choose(tmp_path, said.append) == tag_of(20)
    assert len(said) == 1 and "step-00000020 has no manifest.json and is taken unch" in said[0]
    assert "step-00000030: no manifest.json" in said[0]  # a save that was killed then


def test_a_manifest_lost_later_is_damage(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    (folder(tmp_path, 20) / MANIFEST).unlink()
    assert latest(tmp_path) == tag_of(20)
    assert choose(tmp_path, lambda line: None) == tag_of(10)


# The disk


def test_a_full_disk_leaves_what_was_and_says_where_and_how_much_is_free(tmp_path):
    torch = pytest.importorskip("torch")
    save(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # a stand-in that needs no root
    try:
        with pytest.raises(HostError) as caught, saving(tmp_path, 20) as place:
            place.mkdir()
            torch.save(torch.zeros(1 << 18), place / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    text = str(caught.value)
    assert f"{tmp_path}/checkpoints" in text and "bytes free there" in text and "\n" not in text
    assert caught.value.exit_code == 3
    assert names(tmp_path) == [tag_of(10)] and choose(tmp_path) == latest(tmp_path) == tag_of(10)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", range(1, 10))
def test_wherever_the_disk_refuses_the_one_before_stays(tmp_path, monkeypatch, call, number):
    save(tmp_path, 10)
    calls = iter(range(1, 100))

    def fsync(handle: int) -> None:
        if next(calls) == call:
            refuse(number)()

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(HostError, match=os.strerror(number)), saving(tmp_path, 20):
        save(tmp_path, 20)
    assert not partial(tmp_path, 20).exists()
    assert latest(tmp_path) in candidates(tmp_path)
    assert choose(tmp_path) in (tag_of(10), tag_of(20)) and damage(folder(tmp_path, 10)) is None


@pytest.mark.parametrize("error", [RuntimeError("Connection closed by peer"), BrokenPipeError(32)])
def test_a_rank_that_died_while_saving_is_not_the_disks_fault(tmp_path, error):
    with pytest.raises(type(error)) as caught, saving(tmp_path, 20):
        write(tmp_path, 20)
        raise error
    assert caught.value is error and partial(tmp_path, 20).is_dir()
    sweep(tmp_path)
    assert names(tmp_path) == []


# Kills


def test_a_save_that_was_whole_but_for_its_name_is_published(tmp_path, monkeypatch):
    save(tmp_path, 10)
    write(tmp_path, 20)
    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(os, "rename", refuse(errno.EIO))
        seal(tmp_path, 20, **FACTS)
    assert choose(tmp_path) == latest(tmp_path) == tag_of(10)
    sweep(tmp_path)
    assert choose(tmp_path) == latest(tmp_path) == tag_of(20)
    assert names(tmp_path) == [tag_of(10), tag_of(20)]


def test_what_was_to_be_replaced_comes_back_if_nothing_took_its_place(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    folder(tmp_path, 20).rename(tmp_path / "checkpoints" / ".step-00000020.replaced")
    assert choose(tmp_path, lambda line: None) == tag_of(10)
    sweep(tmp_path)
    assert choose(tmp_path) == tag_of(20) and names(tmp_path) == [tag_of(10), tag_of(20)]


@pytest.mark.parametrize("kind", ["replaced", "dropped"])
def test_what_could_not_be_deleted_before_is_in_nobodys_way(tmp_path, kind):
    save(tmp_path, 20, "one")
    save(tmp_path, 19)
    left = tmp_path / "checkpoints" / f".step-00000020.{kind}"
    left.mkdir()
    (left / "a.pt").write_text("old")
    save(tmp_path, 20, "two")
    assert names(tmp_path) == [tag_of(19), tag_of(20)]
    assert "two" in (folder(tmp_path, 20) / "a.pt").read_text()


def test_sweeping_leaves_what_is_not_its_own(tmp_path):
    sweep(tmp_path)
    write(tmp_path, 30)
    for name in ("mine", ".mine", ".step-00000030.mine", "step-00000030.aside"):
        (tmp_path / "checkpoints" / name).mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == [".mine", ".step-00000030.mine", "mine", "step-00000030.aside"]


class Killed(BaseException):
    """Ends the code under test as SIGKILL would: nothing catches it."""


class Killer:
    """Ends the process before its n-th change to the file system, which a failing power tears."""

    CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")

    def __init__(self, monkeypatch):
        self.lock, self.left, self.how = threading.Lock(), None, "killed"
        for name in self.CHANGES:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def arm(self, calls: int | None, how: str = "killed") -> None:
        self.left, self.how = calls, how

    def wrap(self, name, change):
        def wrapped(*args, **kwargs):
            with self.lock:
                if self.left is not None:
                    self.left -= 1
                left = self.left
            if left is not None and left < 0:
                raise Killed  # another thread of a process that is dead
            if left == 0 and self.how == "power fails" and name == "fsync":
                tear(args[0])
            if left == 0:
                raise Killed
            if name != "fsync":
                change(*args, **kwargs)

        return wrapped


def tear(handle: int) -> None:
    """What a power failure leaves of a file that was never flushed."""
    path = f"/proc/self/fd/{handle}"
    if os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)


EXPECTED = [tag_of(step) for step in (10, 20, 20, 30, 20, 30, 40)]


def life(run, done: list[str]) -> None:
    """A step saved again, deletions, a roll-back; after each part, the tag to be found."""
    for step, loss in ((10, 5.0), (20, 3.0), (20, 2.0), (30, 4.0)):
        done.append(save(run, step, f"loss {loss}", loss=loss))
        retain(run, POLICY)
    rewind(run, tag_of(20))
    done.append(tag_of(20))
    for step in (30, 40):
        done.append(save(run, step, "after"))
        retain(run, POLICY)


def check(run, done: list[str]) -> None:
    """What holds after a kill."""
    pointed = latest(run)
    if pointed and not (run / "checkpoints" / f".{pointed}.replaced").exists():
        assert damage(run / "checkpoints" / pointed) is None
    sweep(run)
    assert not list((run / "checkpoints").glob(".*"))
    said = []
    chosen = choose(run, said.append)
    assert not said and chosen in (done[-1:] or [None]) + EXPECTED[len(done) :][:1]
    assert best(run) is None or best(run) in candidates(run)


@pytest.mark.parametrize("how", ["killed", "power fails"])
def test_killed_at_any_instant_the_newest_sealed_checkpoint_is_found(tmp_path, monkeypatch, how):
    killer = Killer(monkeypatch)
    for call in range(1, 1000):
        run, done = tmp_path / str(call), []
        (run / "checkpoints").mkdir(parents=True)
        killer.arm(call, how)
        with suppress(Killed):
            life(run, done)
        died = killer.left <= 0
        killer.arm(None)
        check(run, done)
        if not died:
            break
    assert done == EXPECTED and 80 < call < 999  # every instant was tried


def test_killed_again_while_clearing_up_nothing_is_lost(tmp_path, monkeypatch):
    killer, tried = Killer(monkeypatch), 0
    for call in range(1, 80, 2):
        for again in range(1, 100):
            run, done = tmp_path / f"{call}-{again}", []
            (run / "checkpoints").mkdir(parents=True)
            killer.arm(call)
            with suppress(Killed):
                life(run, done)
            killer.arm(again)
            with suppress(Killed):
                sweep(run)
            died = killer.left <= 0
            killer.arm(None)
            check(run, done)
            if not died:
                break
            tried += 1
    assert tried > 100


def test_thirty_processes_killed_in_a_row_lose_nothing_that_was_sealed(tmp_path):
    draw, told = random.Random(0), tmp_path / "told"
    told.write_bytes(b"0" * 8)
    with told.open("r+b", buffering=0) as file, mmap(file.fileno(), 8) as sealed:
        for _ in range(30):
            before = int(sealed[:])
            child = os.fork()
            if child == 0:
                save_without_end(tmp_path, sealed)
            give_up = time.monotonic() + 10
            while int(sealed[:]) < before + 2 and time.monotonic() < give_up:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert int(sealed[:]) >= before + 2
            sweep(tmp_path)
            assert step_of(choose(tmp_path)) - int(sealed[:]) in (0, 1)


def save_without_end(run, sealed: mmap) -> None:
    """Go on from the newest checkpoint, in a process of its own."""
    try:
        os.fsync = lambda handle: None  # a kill is no power failure
        sweep(run)
        step = step_of(choose(run) or tag_of(0))
        while True:
            step += 1
            save(run, step, "x" * 10_000, loss=abs(step % 10 - 5.0))
            sealed[:] = b"%08d" % step
            retain(run, POLICY)
    finally:
        os._exit(1)
