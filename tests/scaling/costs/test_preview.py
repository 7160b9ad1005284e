from pathlib import Path

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.scaling.costs.costs import Cost
from tokenunify_scale.scaling.costs.pace import Pace, Sample
from tokenunify_scale.scaling.costs.preview import (
    Money,
    Room,
    aligned,
    check_fits,
    duration,
    pace_of,
    room_of,
    table,
)
from tokenunify_scale.scaling.grid.plan import Job

GIB = 2**30
COSTS = {
    "finetune/a": Cost(
        kind="finetune", parameters=1234, steps=100, work=2e10, memory=3 * GIB, disk=GIB
    ),
    "finetune/b": Cost(kind="finetune", parameters=99, steps=10, work=1e10, memory=2 * GIB),
    "segment/a": Cost(kind="segment", work=5.0, disk=GIB / 2),
}
QUEUED = dict.fromkeys(COSTS, "queued")


def jobs():
    return [
        Job(name=n, verb=n.split("/")[0], arguments={}, needs=(), folder=Path(n), request="")
        for n in COSTS
    ]


def room(**changes):
    given = {"memory": 8.0 * GIB, "host": 8.0 * GIB, "disk": 9.0 * GIB}
    return Room(device="this host", folder=Path("/data"), **{**given, **changes})


def shown(states=QUEUED, **options):
    pace = Pace([Sample(kind="finetune", work=1e10, seconds=18.0, fixed=0.0)], 1e9)
    return table(jobs(), COSTS, states, pace=pace, source="measured", slots=1, **options)


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}  ")]
    return line.removeprefix(name).split()


def test_each_run_tells_what_it_costs():
    # 100 steps of 2e10 FLOPs: 2 TFLOP, each 36 s: an hour.
    text = shown(money=Money(rate=2.5, currency="EUR"))
    assert "cost, EUR" in text
    assert cells(text, "finetune/a") == ["1,234", "100", "2", "3", "1", "60", "min", "1", "2.50",
                                         "queued"]  # fmt: skip
    assert cells(text, "finetune/b")[:3] == ["99", "10", "0.1"]
    assert cells(text, "segment/a") == ["-", "-", "0.5", "-", "-", "-", "queued"]


def test_stages_and_the_whole_are_added_up():
    text = shown({**QUEUED, "finetune/b": "finished"}, money=Money(rate=10))
    hours = 1 + 10 * 18 / 3600
    assert cells(text, "all finetune") == ["2.1", "3", "1", "63", "min", f"{hours:.3g}", "10.50"]
    assert cells(text, "all")[-2:] == [f"{hours:.3g}", "10.50"]
    assert cells(text, "to do")[-1] == "10.00"
    assert "3 jobs: 1 finished, 2 queued" in text
    assert "about 60 min with 1 at a time, without segment, of which nothing is known" in text


def test_a_training_on_many_devices_costs_each_of_them():
    assert cells(shown(world=4), "finetune/a")[-2] == "4" and "cost" not in shown(world=4)


def test_what_does_not_fit_is_refused_with_every_reason():
    check_fits(jobs(), COSTS, QUEUED, room=room(), slots=2)
    with pytest.raises(ConfigError) as error:
        check_fits(jobs(), COSTS, QUEUED, room=room(memory=1.5 * GIB, disk=GIB), slots=2)
    first, second, third = str(error.value).splitlines()
    assert first.startswith("finetune/a needs 3 GiB of memory a rank, this host has 1.5")
    assert second.startswith("finetune/b needs 2") and "1.5 GiB of disk, 1 are free" in third
    done = dict.fromkeys(COSTS, "finished")
    check_fits(jobs(), COSTS, done, room=room(memory=1.0, disk=1.0, host=1.0), slots=2)


def test_jobs_that_fit_alone_and_not_together_are_refused_with_how_many_would():
    with pytest.raises(ConfigError, match="2 largest jobs side by side need 5 GiB.*--jobs 1"):
        check_fits(jobs(), COSTS, QUEUED, room=room(host=4.0 * GIB), slots=2)
    check_fits(jobs(), COSTS, QUEUED, room=room(host=4.0 * GIB), slots=1)


def test_room_is_looked_up_above_a_folder_that_is_not_there(tmp_path):
    found = room_of(tmp_path / "not/there")
    assert found.folder == tmp_path and found.disk > 0 and found.memory > GIB / 4
    assert room_of(tmp_path, device_memory=80).memory == 80 * GIB


def test_without_any_measurement_the_speed_is_assumed_and_said(tmp_path):
    pace, words = pace_of(jobs(), COSTS, QUEUED, tmp_path, threads=2)
    assert words.startswith("assumed: ") and "--calibrate" in words
    assert pace.seconds(COSTS["finetune/a"]) > 0


def test_a_negative_rate_is_refused():
    with pytest.raises(ConfigError, match="--rate must be >= 0 USD"):
        Money(rate=-1)


def test_times_are_told_in_the_units_one_thinks_in():
    assert [duration(s) for s in (45, 130, 7300, 200_000)] == ["45 s", "2 min", "2.0 h", "2.3 d"]
    assert aligned([("a", "12"), ("bcd", "3")], words=(0,)) == "a    12\nbcd   3"
