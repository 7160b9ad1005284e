import os
import time

import pytest

from tokenunify_scale import doctor
from tokenunify_scale.config import ConfigError, HostError

# Plays hosts by their names; "$1" is then what ssh would run there. All are this machine.
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
host=$1; shift
case $host in
  fine) exec sh -c "$1";;
  older) sh -c "$1" | sed -u 's/"torch": "[^"]*"/"torch": "1.0"/';;
  empty) sh -c "$1" | sed -u 's/"code": {[^}]*}/"code": null/';;
  alone) sh -c "$1" | sed -u 's/"token": true/"token": false/';;
  silent) sleep 60;;
esac
"""
NAMES = ("fine", "older", "empty", "alone", "silent")


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """Write a hostfile of such hosts, in surroundings that give no cause for complaint."""
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    # An interface that is there, and a machine's own name that need not lead anywhere.
    travel = tmp_path / "travel"
    travel.write_text("GLOO_SOCKET_IFNAME=lo\n")
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DS_ENV_FILE", str(travel))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))

    def config(*names, timeout=20.0, **options):
        path = tmp_path / "hosts"
        path.write_text("".join(f"{name} slots=1\n" for name in names))
        options = {"out": tmp_path / "runs" / "one", "port": 47113, "disk": 0.0, **options}
        return doctor.Config(hostfile=path, timeout=timeout, **options)

    return config


def errors(findings):
    """Host and check of what is wrong, less that all these hosts are one machine."""
    wrong = [f for f in findings if f.severity == "error" and "the same machine" not in f.found]
    return {(f.host, f.check): f for f in wrong}


def test_each_host_has_its_findings_and_a_silent_one_does_not_hold_up_the_others(hosts):
    started = time.monotonic()
    findings, marks = doctor.examine(hosts(*NAMES, timeout=7.0))
    assert time.monotonic() - started < 14
    assert list(marks)[1:] == list(NAMES) and list(marks)[0].endswith(" (here)")
    found = errors(findings)
    assert set(found) == {
        ("older", "packages"), ("empty", "code"), ("alone", "folder"), ("silent", "ssh"),
    }  # fmt: skip
    assert found["older", "packages"].found == "torch 1.0"
    assert "ssh -v silent true" in found["silent", "ssh"].remedy
    assert marks["silent"] == ["ssh"] and marks["fine"] == list(doctor.COLUMNS)


def test_all_well_is_said_in_a_table_and_nothing_is_left_in_the_folder(hosts, capsys, tmp_path):
    assert doctor.run(hosts("fine")) == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["host", *doctor.COLUMNS]
    cells = lines[2].split()
    assert cells[0] == "fine" and len(cells) == 13 and "FAIL" not in cells and "-" not in cells
    assert lines[-1].startswith("ready; warnings: ")
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_is_wrong_ends_with_exit_code_3_that_names_host_and_check(hosts, capsys):
    with pytest.raises(HostError) as caught:
        doctor.run(hosts("older"))
    assert caught.value.exit_code == 3 and "older (packages)" in str(caught.value)
    told = capsys.readouterr().out
    assert "FAIL older, packages: torch 1.0; wanted: " in told and "remedy: ssh older " in told


def test_one_machine_under_two_names_is_found(hosts, monkeypatch):
    findings, _ = doctor.examine(hosts("fine", "empty"))
    (twice,) = (f for f in findings if "the same machine" in f.found)
    assert (twice.host, twice.check) == ("empty", "slots") and "as fine" in twice.found


def test_without_out_no_folder_is_compared(hosts, capsys):
    doctor.run(hosts("fine", out=None))
    assert "not looked at: the shared folder" in capsys.readouterr().out


def test_the_folder_is_not_compared_where_this_machine_has_none(hosts, tmp_path):
    findings, marks = doctor.examine(hosts("fine", out=tmp_path / "no" / "run"))
    here, fine = marks
    assert set(errors(findings)) == {(here, "folder")} and "folder" not in marks[fine]


def test_this_machine_alone_makes_its_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("DS_ENV_FILE", "none")
    config = doctor.Config(out=tmp_path / "runs" / "one", disk=0.0, port=47113)
    assert config.shared == tmp_path
    findings, marks = doctor.examine(config)
    assert list(marks.values()) == [list(doctor.ALONE)]
    assert not [f for f in findings if f.check in ("folder", "env", "net", "locks")]


def test_a_lock_that_a_killed_build_left_is_found(tmp_path, monkeypatch):
    lock = tmp_path / "py311_cpu" / "shm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 3600,) * 2)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with pytest.raises(HostError, match=r"\(here\) \(.*locks"):
        doctor.run(doctor.Config())


def test_a_plan_asks_nobody(hosts, tmp_path):
    plan = doctor.plan(hosts("fine", "silent"))
    assert plan["hosts"] == {"fine": 1, "silent": 1} and plan["ranks"] == 2
    assert doctor.plan(doctor.Config())["hosts"] == "this machine"
    with pytest.raises(ConfigError, match="this machine alone"):
        doctor.plan(doctor.Config(hostfile=tmp_path / "hostz"))


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"port": 0}, {"timeout": float("nan")}])
def test_a_wrong_request_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        doctor.Config(**wrong)
