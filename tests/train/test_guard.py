import json
import math
import random

import pytest

from tokenunify_scale.config import DataError, DivergedError
from tokenunify_scale.train.guard import (
    DETOURS,
    KNOWN,
    Detours,
    GuardConfig,
    LossGuard,
    read_detours,
    write_detours,
)


def experienced(config=None, *, level=1.0, noise=0.1, count=KNOWN):
    """A guard that knows ``count`` losses around ``level``."""
    guard, generator = LossGuard(config or GuardConfig()), random.Random(0)
    for _ in range(count):
        assert guard.judge(level + noise * generator.gauss(0, 1), 1.0) == "good"
    return guard


@pytest.mark.parametrize(
    "loss, norm, words",
    [
        (math.nan, 1.0, "the loss is nan"),
        (math.inf, 1.0, "the loss is inf"),
        (-math.inf, None, "the loss is -inf"),
        (1.0, math.nan, "the gradient norm is nan"),
        (1.0, math.inf, "the gradient norm is inf"),
    ],
)
def test_what_is_no_number_is_skipped_from_the_first_step_on(loss, norm, words):
    guard = LossGuard(GuardConfig())
    assert guard.complaint(loss, norm) == words
    assert guard.judge(loss, norm) == "skip" and guard.skipped == 1
    assert guard.judge(1.0, 1.0) == "good" and guard.judge(1.0) == "good"


def test_a_spike_is_skipped_once_enough_losses_are_known():
    young = experienced(count=KNOWN - 1)
    assert young.judge(1e6) == "good"
    guard = experienced()
    assert guard.complaint(9.0) is None
    assert "the loss is 11, the median of 32 before it" in guard.complaint(11.0)
    assert guard.judge(11.0) == "skip"
    assert guard.judge(1.0) == "good"


def test_a_skipped_loss_does_not_raise_the_median():
    guard = experienced(GuardConfig(patience=100, window=KNOWN))
    assert [guard.judge(50.0) for _ in range(99)] == ["skip"] * 99
    assert guard.judge(1.0) == "good" and guard.judge(50.0) == "skip"


def test_a_noisy_loss_may_exceed_its_median_by_more():
    wide = experienced(GuardConfig(spike=2), noise=0.3)
    narrow = experienced(GuardConfig(spike=2), noise=0.01)
    assert wide.complaint(3.0) is None and narrow.complaint(3.0)


def test_a_loss_below_zero_or_around_it_is_judged_by_its_spread():
    for level in (-1.0, 0.0):
        guard = experienced(GuardConfig(spike=2), level=level, noise=0.1)
        assert guard.complaint(level + 0.5) is None
        assert guard.complaint(level + 5.0)
        assert guard.complaint(level - 100.0) is None, "a low loss is no spike"


def test_without_a_factor_only_what_is_no_number_is_skipped():
    guard = experienced(GuardConfig(spike=0))
    assert guard.judge(1e30) == "good" and guard.judge(math.nan) == "skip"


def test_several_in_a_row_send_the_run_back_and_one_good_step_between_does_not():
    guard = LossGuard(GuardConfig(patience=3))
    nan = math.nan
    found = [guard.judge(loss) for loss in (nan, nan, 1.0, nan, nan, nan, nan)]
    assert found == ["skip", "skip", "good", "skip", "skip", "roll back", "skip"]
    assert guard.skipped == 6


def test_a_restored_guard_judges_as_the_one_that_was_saved():
    losses = [random.Random(1).expovariate(1.0) for _ in range(300)] + [math.nan] * 4 + [40.0]
    guard = LossGuard(GuardConfig())
    for loss in losses:
        guard.judge(loss)
    state = json.loads(json.dumps(guard.state_dict()))
    again = LossGuard(GuardConfig())
    again.load_state_dict(state)
    for loss in (math.nan, 0.5, 40.0, 12.0, 8.0, math.nan):
        assert again.complaint(loss) == guard.complaint(loss)
        assert again.judge(loss) == guard.judge(loss)
    assert again.state_dict() == guard.state_dict()


def test_bad_steps_before_a_save_do_not_count_again_when_a_run_goes_back_to_it():
    guard = LossGuard(GuardConfig(patience=2))
    guard.judge(math.nan)
    state = guard.state_dict()
    guard.load_state_dict(state)
    assert guard.judge(math.nan) == "roll back", "resumed: that was the second in a row"
    guard.load_state_dict(state, streak=False)
    assert guard.judge(math.nan) == "skip" and guard.skipped == 2


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"spike": 1.0}, "spike must be > 1"),
        ({"spike": -3}, "spike must be > 1"),
        ({"spike": math.nan}, "spike must be > 1"),
        ({"window": KNOWN - 1}, f"window must be >= {KNOWN}"),
        ({"patience": 0}, "patience must be >= 1"),
        ({"limit": -1}, "limit >= 0"),
    ],
)
def test_settings_that_judge_nothing_or_everything_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        GuardConfig(**wrong)


SETTINGS = {"global_batch": 4, "limit": 3, "why": "the loss is nan"}


def test_a_run_that_never_went_back_reads_the_stream_as_it_comes():
    assert [Detours().position(step, global_batch=4) for step in (0, 1, 7)] == [0, 4, 28]


def test_the_data_between_the_save_and_the_failed_step_is_left_out():
    to, detours = Detours().back(failed=12, saves=[5, 10], **SETTINGS)
    assert to == 10 and detours.made == 1
    assert detours.position(10, global_batch=4) == 13 * 4, "behind the failed step's batch"
    assert detours.position(11, global_batch=4) == 14 * 4
    assert detours.position(9, global_batch=4) == 9 * 4, "before the save nothing changed"


def test_a_second_failure_goes_back_to_a_newer_save_where_there_is_one():
    _, first = Detours().back(failed=12, saves=[5, 10], **SETTINGS)
    to, second = first.back(failed=21, saves=[5, 10, 20], **SETTINGS)
    assert to == 20 and second.made == 2
    assert second.position(10, global_batch=4) == first.position(10, global_batch=4)
    assert second.position(20, global_batch=4) == first.position(21, global_batch=4) + 4


def test_a_second_failure_after_the_same_save_goes_further_back():
    _, first = Detours().back(failed=12, saves=[5, 10], **SETTINGS)
    to, second = first.back(failed=14, saves=[5, 10], **SETTINGS)
    assert to == 5
    assert second.position(5, global_batch=4) == first.position(14, global_batch=4) + 4
    assert second.position(4, global_batch=4) == 16
    to, third = second.back(failed=7, saves=[5], **SETTINGS)
    assert to == 5, "there is no older one"
    assert third.position(5, global_batch=4) == second.position(7, global_batch=4) + 4
    assert len(third.left_out) == 1


def test_no_position_is_read_twice_however_often_a_run_goes_back():
    generator, detours, saves, step = random.Random(3), Detours(), [0], 0
    read = []
    for _ in range(400):
        read.append(detours.position(step, global_batch=4))
        if generator.random() < 0.05 and detours.made < 8:
            settings = {**SETTINGS, "limit": 8}
            step, detours = detours.back(failed=step, saves=saves, **settings)
            saves = [save for save in saves if save <= step]
            continue
        step += 1
        if step % 7 == 0:
            saves.append(step)
    assert detours.made == 8 and read == sorted(set(read))
    assert read[-1] == 399 * 4, "and none is left out that no step was judged on"


def test_a_run_that_would_go_back_once_too_often_has_diverged():
    _, detours = Detours().back(failed=2, saves=[0], **{**SETTINGS, "limit": 1})
    words = "step 9: the loss is nan, and the run went back 1 of at most 1 times: lower optim.lr"
    with pytest.raises(DivergedError, match=words):
        detours.back(failed=8, saves=[0], **{**SETTINGS, "limit": 1})
    with pytest.raises(DivergedError, match="there is no save"):
        Detours().back(failed=8, saves=[], **SETTINGS)


def test_detours_are_kept_in_the_run_folder(tmp_path):
    assert read_detours(tmp_path) == Detours()
    _, detours = Detours().back(failed=12, saves=[5, 10], **SETTINGS)
    write_detours(tmp_path, detours)
    assert read_detours(tmp_path) == detours
    for text in ("{", "[]", '{"made": 1}', '{"made": 1, "left_out": [[1]]}'):
        (tmp_path / DETOURS).write_text(text)
        with pytest.raises(DataError, match="detours.json: damaged"):
            read_detours(tmp_path)
