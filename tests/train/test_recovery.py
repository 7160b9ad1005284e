import pytest

from tests.train.fake_engine import FakeEngine, counting, run_folder
from tokenunify_scale.config import ConfigError, DataError, DivergedError
from tokenunify_scale.train.manifest import read_manifest
from tokenunify_scale.train.recovery import Recovery
from tokenunify_scale.train.retention import SaveConfig
from tokenunify_scale.train.training import Training


def recovery(path, engine=None, **settings):
    settings = {"steps": 20, "global_batch": 4, "save_every": 1, **settings}
    run, engine = run_folder(path), engine or FakeEngine([])
    return Recovery(engine, counting, run=run, training=Training(**settings))


def manifest(path, step):
    return read_manifest(path / "checkpoints" / f"step-{step:08d}")


def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    assert recovery(tmp_path).restore() == 0


def test_a_save_tells_who_wrote_it_and_what_it_measured(tmp_path):
    saves = recovery(tmp_path)
    saves.save(3, record={"loss": 2.0})
    saves.save(4, record={"loss": 2.0, "held_out_loss": 1.5})
    found = [manifest(tmp_path, step) for step in (3, 4)]
    assert [(m.loss, m.measured_on) for m in found] == [(2, "training"), (1.5, "held_out")]
    assert {(m.world, m.stage, m.offload, m.probe) for m in found} == {(1, 0, "none", 0.25)}


def test_what_was_judged_comes_back_with_the_step(tmp_path):
    saves = recovery(tmp_path)
    saves.guard.judge(float("nan"))
    saves.save(7, record={})
    again = recovery(tmp_path)
    assert again.restore() == 7 and again.guard.skipped == 1


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
    saves = recovery(tmp_path, engine := FakeEngine([]))
    saves.save(1, record={})
    saves.save(1, record={})
    assert engine.saved == [1]


class OnDisk(FakeEngine):
    """One whose state DeepSpeed keeps on NVMe."""

    offload = "nvme"


def test_what_could_not_be_restored_is_not_saved_and_that_is_said_at_the_start(tmp_path, capfd):
    saves = recovery(tmp_path, engine := OnDisk([]))
    assert saves.restore() == 0
    assert "does not restore what it keeps on nvme" in capfd.readouterr().err
    saves.save(1, record={})
    assert engine.saved == [] and saves.saved == -1


def test_a_run_with_saves_does_not_go_on_with_state_on_nvme(tmp_path):
    recovery(tmp_path).save(1, record={})
    with pytest.raises(ConfigError, match="step-00000001: .* nvme.*: go on with the strategy that"):
        recovery(tmp_path, OnDisk([])).restore()


def test_a_save_of_another_layout_is_read_in_the_other_way_and_that_is_said(tmp_path, capfd):
    recovery(tmp_path, engine := FakeEngine([])).save(1, record={})
    recovery(tmp_path, engine).restore()
    assert engine.alike and "laid out anew" not in capfd.readouterr().err
    engine.layout = {**engine.layout, "world": 3}
    assert recovery(tmp_path, engine).restore() == 1
    assert not engine.alike and "is laid out anew: world 1 -> 3" in capfd.readouterr().err


def test_old_saves_go_as_the_run_says(tmp_path):
    saves = recovery(tmp_path, saves=SaveConfig(keep=1, keep_every=2))
    for step in range(1, 6):
        saves.save(step, record={})
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000002", "step-00000004", "step-00000005"]


def test_a_damaged_save_gives_way_to_the_one_before_and_says_so(tmp_path, capfd):
    saves = recovery(tmp_path)
    saves.save(1, record={})
    saves.save(2, record={})
    (tmp_path / "checkpoints" / "step-00000002" / "state.json").write_text("{")
    assert recovery(tmp_path).restore() == 1
    assert "step-00000002: state.json has 1 bytes of" in capfd.readouterr().err
    assert (tmp_path / "latest").read_text() == "step-00000001\n"


def test_what_does_not_compute_what_was_saved_is_refused(tmp_path):
    recovery(tmp_path).save(1, record={})
    other = FakeEngine([])
    other.probed = 0.2501
    with pytest.raises(DataError, match=r"crops is 0\.2501, and was 0\.25 when it was saved"):
        recovery(tmp_path, other).restore()
    other.precision = {"computed_in": "bfloat16", "device": "cpu"}
    assert recovery(tmp_path, other).restore() == 1, "another precision rounds otherwise"


def test_going_back_leaves_out_the_data_between(tmp_path):
    saves = recovery(tmp_path)
    saves.save(2, record={})
    assert saves.position(2) == 8
    assert saves.back(4, why="the loss is nan") == 2
    assert saves.position(2) == 20 and recovery(tmp_path).position(3) == 24
    with pytest.raises(DivergedError, match="no save"):
        recovery(tmp_path / "empty").back(4, why="the loss is nan")
