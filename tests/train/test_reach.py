import os
import sys
import time

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.train.reach import Visit, addresses_of, visit_all

# Plays hosts by their names; "$1" is then what ssh would run there.
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
host=$1; shift
say() { echo "$1" >&2; exit 255; }
case $host in
  fine*) exec sh -c "$1";;
  chatty) echo 'Welcome'; echo '{not json'; echo '[note] hello'; exec sh -c "$1";;
  silent) sleep 60;;
  unknown) say 'ssh: Could not resolve hostname unknown: Name or service not known';;
  stranger) say 'Host key verification failed.';;
  closed) say 'me@closed: Permission denied (publickey).';;
  refusing) say 'ssh: connect to host refusing port 22: Connection refused';;
  away) say 'ssh: connect to host away port 22: Connection timed out';;
  bare) exit 127;;
  broken) echo 'Traceback' >&2; exit 1;;
esac
"""


@pytest.fixture
def visit(tmp_path, monkeypatch):
    """Visit hosts through a stand-in of ssh."""
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def call(*names, timeout=20.0, exports=None, **request):
        return visit_all(names, request, exports=exports or {}, timeout=timeout)

    return call


def test_each_way_not_to_answer_has_its_name(visit):
    wanted = {
        "unknown": "unknown", "stranger": "host key", "closed": "denied", "refusing": "refused",
        "away": "silent", "bare": "python", "broken": "failed",
    }  # fmt: skip
    visits = visit(*wanted)
    assert {v.name: v.failure for v in visits} == wanted
    assert all(v.facts is None and v.told for v in visits)


def test_a_silent_host_does_not_hold_up_the_others_and_nothing_of_it_is_left(visit):
    started = time.monotonic()
    silent, *others = visit("silent", "fine1", "chatty", "fine2", timeout=6.0)
    assert time.monotonic() - started < 12
    assert silent.failure == "silent" and silent.facts is None
    assert all(v.facts["executable"] == sys.executable for v in others)
    assert all(v.unreached == [] for v in others)
    assert silent.answered - silent.asked >= 5.9 > others[0].answered - others[0].asked


def test_a_host_is_asked_in_the_folder_and_with_the_variables_that_the_launcher_sets(visit):
    (one,) = visit("fine", exports={"A_B": "x y", "OMP_X": "1"}, variables="A_B|OMP_X|PATH")
    assert one.facts["environment"] | {"PATH": ""} == {"A_B": "x y", "OMP_X": "1", "PATH": ""}
    assert one.facts["folder"] == os.getcwd()


def test_without_ssh_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get install openssh-client"):
        visit_all(["node1"], {}, exports={}, timeout=1)


def test_this_machine_is_asked_without_ssh(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    here = Visit(None, exports={}, timeout=20)
    here.ask({"packages": ["torch"]})
    here.close()
    assert here.facts["packages"]["torch"] and here.asked < here.answered


def test_ranks_are_looked_for_where_gloo_and_the_launcher_look():
    facts = {
        "name": "node1", "environment": {}, "interfaces": {"lo": "127.0.0.1", "ib0": "10.1.0.1"},
        "addresses": {"node1": ["10.0.0.1", "fe80::1"]}, "first_address": "172.17.0.1",
    }  # fmt: skip
    assert addresses_of(facts, first=False) == ["10.0.0.1"]
    assert addresses_of(facts, first=True) == ["172.17.0.1", "10.0.0.1"]
    named = {**facts, "environment": {"GLOO_SOCKET_IFNAME": "ib0"}}
    assert addresses_of(named, first=False) == ["10.1.0.1"]
    loop = {**facts, "addresses": {"node1": ["127.0.1.1"]}}
    assert addresses_of(loop, first=False) == []
