import os

import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.train.hostfile import (
    HostLine,
    read_environment_file,
    read_hostfile,
    travelling,
)


def test_hosts_come_in_order_with_users_comments_and_blank_lines(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two\n\nnode1 slots=8\n  me@10.0.0.2\tslots=4  # half\r\n")
    assert read_hostfile(path) == (HostLine("node1", 8, 3), HostLine("me@10.0.0.2", 4, 4))
    assert [entry.host for entry in read_hostfile(path)] == ["node1", "10.0.0.2"]


@pytest.mark.parametrize(
    "line, told",
    [
        ("node2", "'node2' is not of the form 'host slots=N'"),
        ("node2 slots=8x", "not of the form"),
        ("node2 slots=4 slots=8", "not of the form"),
        ("node2 slots = 4", "not of the form"),
        ("node2 slots=0", "slots=0: at least 1"),
        ("node2 slots=-1", "slots=-1: at least 1"),
        ("node1 slots=4", "node1 stands in line 1 already"),
        ("me@node1 slots=4", "me@node1 stands in line 1 already"),
        ("-oProxyCommand=x slots=1", "'-oProxyCommand=x' is not a host's name"),
        ("a;b slots=1", "'a;b' is not a host's name"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line, told):
    path = tmp_path / "hosts"
    path.write_text(f"node1 slots=8\n\n{line}\nnode3 slots=0\n")
    with pytest.raises(ConfigError) as caught:
        read_hostfile(path)
    assert f"{path}:3: " in str(caught.value) and told in str(caught.value)
    assert f"{path}:4: node3 has slots=0" in str(caught.value)


def test_a_missing_hostfile_is_refused_because_deepspeed_goes_on_alone(tmp_path):
    with pytest.raises(ConfigError, match="No such file.*this machine alone"):
        read_hostfile(tmp_path / "host")
    (tmp_path / "hosts").write_text("# nobody\n")
    with pytest.raises(ConfigError, match="names no host"):
        read_hostfile(tmp_path / "hosts")


def test_lines_that_end_deepspeed_are_found_in_the_environment_file(tmp_path):
    path = tmp_path / "env"
    path.write_text("A=1\n\nB=x=y z\n# note\n9=a\nC='d'\n")
    found, mistakes = read_environment_file(path)
    assert found == {"A": "1", "B": "x=y z"}
    assert [text.removeprefix(f"{path}:")[0] for text in mistakes] == list("2456")


def test_what_travels_is_what_deepspeed_takes_along(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    (home / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\nA=home\n")
    (here / ".deepspeed_env").write_text("A=here\nbad\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    own = {"PYTHONPATH": "/lib", "NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "8", "UCX_TLS": "tcp"}
    exports, mistakes = travelling(own, gpus=False)
    path = f"{here}{os.pathsep}/lib"
    assert exports == {
        "PYTHONPATH": path, "UCX_TLS": "tcp", "OMP_NUM_THREADS": "1", "A": "here",
    }  # fmt: skip
    assert len(mistakes) == 1 and mistakes[0].startswith(f"{here / '.deepspeed_env'}:2: ")
    assert travelling(own, gpus=True)[0]["NCCL_DEBUG"] == "INFO"
    named = tmp_path / "named"
    named.write_text("B=1\nbad\n")
    exports, mistakes = travelling({"DS_ENV_FILE": str(named)}, gpus=False)
    assert exports == {"PYTHONPATH": str(here), "B": "1"} and len(mistakes) == 1
