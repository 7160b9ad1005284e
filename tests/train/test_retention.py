import errno
import os
import random

import pytest

from tokenunify_scale.train.manifest import Manifest
from tokenunify_scale.train.retention import SaveConfig, by_loss, kept, retain, rewind
from tokenunify_scale.train.saves import (
    best,
    candidates,
    choose,
    latest,
    partial,
    seal,
    step_of,
    tag_of,
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def save(run, step: int, loss: float | None = None, measured_on: str = "training") -> str:
    folder = partial(run, step)
    folder.mkdir(parents=True)
    (folder / "a.pt").write_text(str(step))
    facts = {"world": 1, "stage": 0, "offload": "none"}
    return seal(run, step, loss=loss, measured_on=measured_on, **facts)


def steps(run) -> list[int]:
    return [step_of(tag) for tag in reversed(candidates(run))]


def account(loss: float | None, measured_on: str = "training") -> Manifest:
    facts = {"step": 0, "world": 1, "stage": 0, "offload": "none", "files": {"a": (0, 0)}}
    return Manifest(**facts, loss=loss, measured_on=measured_on)


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep_every": -1}, {"keep_best": -1}])
def test_a_policy_that_keeps_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SaveConfig(**wrong)


def test_the_last_every_nth_and_the_best_stay(tmp_path):
    policy = SaveConfig(keep=2, keep_every=40, keep_best=1)
    for step in range(10, 110, 10):
        save(tmp_path, step, loss=abs(step - 35))
        retain(tmp_path, policy)
    assert steps(tmp_path) == [40, 80, 90, 100]
    assert best(tmp_path) == tag_of(40)  # of 30 and 40, equally good, the newer


def test_by_default_two_stay_and_there_is_no_best(tmp_path):
    for step in (9, 10, 100, 1000, 20000, 100_000_000):
        save(tmp_path, step, loss=1.0)
        retain(tmp_path, SaveConfig())
    assert steps(tmp_path) == [20000, 100_000_000] and best(tmp_path) is None


def test_losses_on_held_out_crops_are_compared_with_their_like_only():
    saves = {
        tag_of(1): account(0.1),
        tag_of(2): account(0.9, "held_out"),
        tag_of(3): account(0.8, "held_out"),
        tag_of(4): account(0.8, "held_out"),
        tag_of(5): account(None, "held_out"),
        tag_of(6): None,
    }
    assert by_loss(saves) == [tag_of(4), tag_of(3), tag_of(2)]
    assert by_loss({tag_of(1): account(0.1), tag_of(6): None}) == [tag_of(1)]
    assert kept(saves, policy=SaveConfig(keep=1, keep_best=1)) == {tag_of(4), tag_of(6)}


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happened_before_what_is_named_or_promised_stays(tmp_path, seed):
    draw = random.Random(seed)
    every, best_count = draw.choice([0, 0, 4, 6]), draw.randint(0, 2)
    policy = SaveConfig(keep=draw.randint(1, 3), keep_every=every, keep_best=best_count)
    line, step = set(), 0  # steps sealed and not rolled back
    for _ in range(draw.randint(2, 12)):
        step += draw.randint(1, 4)
        loss = draw.choice([None, draw.random()])
        save(tmp_path, step, loss, draw.choice(["training", "held_out"]))
        line.add(step)
        if draw.random() < 0.2:
            step = draw.choice(steps(tmp_path))
            rewind(tmp_path, tag_of(step))
            line = {s for s in line if s <= step}
        before = steps(tmp_path)
        retain(tmp_path, policy)
        after = steps(tmp_path)
        promised = {s for s in line if every and s % every == 0}
        assert set(after) <= set(before) and set(after) >= promised | set(before[-policy.keep :])
        assert len(after) <= len(promised) + policy.keep + best_count
        assert latest(tmp_path) == tag_of(step) == choose(tmp_path)
        assert best(tmp_path) is None or step_of(best(tmp_path)) in after
        names = {path.name for path in (tmp_path / "checkpoints").glob(".*")}
        assert not names


def test_the_best_stays_when_it_is_long_past(tmp_path):
    policy = SaveConfig(keep=1, keep_best=2)
    for step, loss in enumerate([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0], start=1):
        save(tmp_path, step, loss)
        retain(tmp_path, policy)
    assert steps(tmp_path) == [2, 4, 7] and best(tmp_path) == tag_of(2)
    retain(tmp_path, SaveConfig(keep=1))  # asked for no longer, but still named
    assert steps(tmp_path) == [2, 7]


def test_only_checkpoints_are_deleted(tmp_path):
    retain(tmp_path, SaveConfig())
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "mine").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.copy").mkdir()
    retain(tmp_path, SaveConfig(keep=1))
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["mine", "step-00000001.copy", "step-00000003"]


def test_checkpoints_of_the_version_before_count_too(tmp_path):
    for step in (1, 2):
        (tmp_path / "checkpoints" / tag_of(step)).mkdir(parents=True)
    (tmp_path / "checkpoints" / tag_of(2) / "manifest.json").write_text("{")
    save(tmp_path, 3, loss=1.0)
    retain(tmp_path, SaveConfig(keep=2, keep_best=1))
    assert steps(tmp_path) == [2, 3]


def test_rewinding_sets_newer_ones_aside_until_others_take_their_place(tmp_path):
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
        save(tmp_path, step, loss)
        retain(tmp_path, SaveConfig(keep=3, keep_best=1))
    assert best(tmp_path) == tag_of(3)
    for _ in range(2):  # and again changes nothing
        rewind(tmp_path, tag_of(2))
        assert latest(tmp_path) == tag_of(2) == choose(tmp_path)
        assert best(tmp_path) is None
    aside = tmp_path / "checkpoints" / "step-00000003.aside"
    for step, stays in ((3, True), (4, True), (5, False)):
        save(tmp_path, step)
        retain(tmp_path, SaveConfig(keep=2))
        assert aside.is_dir() == stays
    assert steps(tmp_path) == [4, 5]


def test_rewinding_twice_to_the_same_place_keeps_the_later_of_what_is_aside(tmp_path):
    save(tmp_path, 1)
    for text in ("first", "second"):
        save(tmp_path, 2)
        (tmp_path / "checkpoints" / tag_of(2) / "a.pt").write_text(text)
        rewind(tmp_path, tag_of(1))
    assert (tmp_path / "checkpoints" / "step-00000002.aside" / "a.pt").read_text() == "second"
    assert steps(tmp_path) == [1]


def test_what_cannot_be_deleted_or_written_is_said_and_left(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step, loss=float(step))
    said = []

    def refuse(*_, **__):
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        patched.setattr(os, "replace", refuse)
        retain(tmp_path, SaveConfig(keep=1, keep_best=1), said.append)
    assert len(said) == 2 and all("Permission denied" in line for line in said)
    assert said[0].startswith(f"{tmp_path}/best") and tag_of(2) in said[1]
    assert steps(tmp_path) == [1, 2, 3]
