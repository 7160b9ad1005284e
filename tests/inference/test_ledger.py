import pytest

from tokenunify_scale.config import ConfigError, DataError, HostError
from tokenunify_scale.inference.ledger import Ledger, Mark
from tokenunify_scale.volumes.geometry import Box

TASKS = [Box.of((8, 4, 4)), Box((8, 0, 0), (16, 4, 4))]


@pytest.fixture
def ledger(tmp_path):
    found = Ledger(tmp_path / "run" / "progress")
    found.begin({"tile": (1, 2, 3)}, TASKS)
    return found


def test_what_was_begun_is_found_again(ledger):
    again = Ledger(ledger.path)
    assert again.check({"tile": [1, 2, 3]}) and again.tasks() == TASKS
    assert again.read(1, TASKS[1]) == Mark(8)
    ledger.mark(1, Mark(12, 2.5))
    assert again.read(1, TASKS[1]) == Mark(12, 2.5)


def test_another_request_is_refused_by_the_key_that_differs(ledger):
    with pytest.raises(ConfigError, match=r"tile \[1, 2, 3\], this one has \[9, 2, 3\]"):
        ledger.check({"tile": [9, 2, 3]})
    with pytest.raises(ConfigError, match="tta None, this one has flips"):
        ledger.check({"tile": [1, 2, 3], "tta": "flips"})


def test_a_new_beginning_forgets_marks(ledger):
    ledger.mark(0, Mark(8, 1.0))
    ledger.begin({}, TASKS[:1])
    assert ledger.read(0, TASKS[0]) == Mark(0) and ledger.tasks() == TASKS[:1]
    ledger.forget()
    assert not ledger.path.exists() and not ledger.check({"anything": 1})


def test_all_tasks_are_waited_for_and_summed(ledger):
    ledger.mark(0, Mark(8, 1.5))
    ledger.mark(1, Mark(16, 2.0))
    assert ledger.wait(TASKS) == 3.5


def test_ranks_that_write_nothing_are_lost(ledger):
    ledger.mark(0, Mark(8))
    ledger.mark(1, Mark(12))
    with pytest.raises(HostError, match="task 1 of 2 stands at section 12 of 16"):
        ledger.wait(TASKS, quiet=0.1)


def test_a_damaged_mark_is_an_error_of_the_data(ledger):
    (ledger.path / "task-000000.json").write_text("{")
    with pytest.raises(DataError, match="task-000000.json: damaged"):
        ledger.read(0, TASKS[0])
