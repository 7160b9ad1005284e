import json
import os
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import tokenunify_scale
from tokenunify_scale.train import host

SOURCE = Path(host.__file__)


def test_a_bare_python_reads_the_program_from_its_input_and_prints_one_line():
    # Isolated and without site-packages: it needs nothing but Python.
    request = json.dumps({"packages": ["torch"], "folders": ["/tmp", "/none"]})
    with SOURCE.open() as source:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-", request], stdin=source, capture_output=True, text=True
        )
    assert done.returncode == 0 and not done.stderr, done.stderr
    (line,) = done.stdout.splitlines()
    facts = json.loads(line)
    assert facts["name"] == socket.gethostname() and facts["executable"] == sys.executable
    assert facts["packages"] == {} and facts["code"] is None and facts["shared"] is None
    assert facts["free"]["/tmp"] > 0 and facts["free"]["/none"] is None
    assert facts["memory"]["total"] >= facts["memory"]["available"] > 0
    assert facts["clock"][0] <= facts["clock"][1] <= time.time()


def test_versions_and_a_digest_of_each_file_are_told(tmp_path, monkeypatch):
    facts = host.look({"packages": ["torch", "no-such-package"]})
    assert facts["packages"] == {"torch": metadata.version("torch")}
    root = Path(tokenunify_scale.__file__).parent
    assert {"cli.py", "train/host.py"} <= set(facts["code"])
    assert not any("__pycache__" in name for name in facts["code"])
    package = tmp_path / "small"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (package / "__init__.py").write_text(text)
        digests.append(host.code_of("small"))
    assert digests[0] == digests[2] != digests[1] and len(digests[0]["__init__.py"]) == 16
    assert root.is_dir() and host.code_of("no_such_package") is None


def test_a_shared_folder_is_seen_tried_and_left_clean(tmp_path):
    (tmp_path / "token").touch()
    assert host.try_folder(str(tmp_path), "token") == {"there": True, "token": True, "error": None}
    assert not host.try_folder(str(tmp_path), "other")["token"]
    assert host.try_folder(str(tmp_path / "no"), "token")["there"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    assert host.try_folder("/proc/self", "token")["error"]


def test_locks_are_found_with_their_age(tmp_path, monkeypatch):
    lock = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 3600,) * 2)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    ((path, minutes),) = host.find_locks()
    assert path == str(lock) and 59 < minutes < 62


def test_ports_names_and_interfaces():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert "in use" in host.port_error(port)
        gone = socket.create_server(("", 0))
        closed = gone.getsockname()[1]
        gone.close()
        peers = [["a", "127.0.0.1", port], ["b", "127.0.0.1", closed]]
        assert host.meet(peers) == [["b", "127.0.0.1", closed, "Connection refused"]]
    assert host.port_error(port) is None and host.port_error(None) is None
    assert "127.0.0.1" in host.resolve("localhost") and host.resolve("no.such.host.invalid") == []
    assert host.interfaces()["lo"] == "127.0.0.1"
    assert host.meet([]) == []


def nvidia_smi(tmp_path, monkeypatch, script):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_gpus_are_as_nvidia_smi_lists_them(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "echo 'H100, 81559, 4'; echo 'H100, [N/A], [N/A]'")
    gpus, error = host.read_gpus()
    assert gpus[0] == {"name": "H100", "total": 81559 << 20, "used": 4 << 20} and error is None
    assert gpus[1]["total"] == 0


def test_what_nvidia_smi_complains_of_is_kept(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "echo no driver; exit 9")
    assert host.read_gpus() == ([], "no driver")
