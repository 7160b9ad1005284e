import os
import time

import pytest

from tokenunify_scale.scaling.jobs.retry import attempts, ending_of, may_help, note_end, note_start


def test_attempts_are_noted_with_their_ends(tmp_path):
    note_start(tmp_path)
    assert attempts(tmp_path)[0].ending is None and attempts(tmp_path)[0].process == os.getpid()
    note_end(tmp_path, ending="failed", code=-9)
    note_start(tmp_path)
    first, second = attempts(tmp_path)
    assert (first.ending, first.code, second.ended) == ("failed", -9, None)
    assert 0 <= first.seconds < 5 and abs(second.began - time.time()) < 5


@pytest.mark.parametrize("text", ["", "[{", '{"a": 1}', '[{"began": 1}]', "[3]"])
def test_a_note_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "attempts.json").write_text(text)
    assert attempts(tmp_path) == []
    note_end(tmp_path, ending="failed", code=1)
    note_start(tmp_path)
    assert len(attempts(tmp_path)) == 1


def test_a_result_counts_whatever_came_after_it():
    assert ending_of(-11, finished=True) == "finished"
    assert ending_of(75, finished=False) == "stopped"
    assert ending_of(0, finished=False) == "failed"


@pytest.mark.parametrize(
    "code, failures, retries, helps",
    [(1, 1, 1, True), (1, 2, 1, False), (-9, 1, 0, False), (2, 1, 3, False), (4, 1, 3, False),
     (3, 1, 1, True), (5, 1, 1, True), (0, 1, 1, True)],
)  # fmt: skip
def test_what_would_fail_again_is_not_started_again(code, failures, retries, helps):
    assert may_help(code, failures=failures, retries=retries) is helps
