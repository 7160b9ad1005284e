"""What one host has, read there by a program that needs nothing but Python.

This module's source is that program: ``ssh HOST python3 - < host.py`` prints one JSON line, the
facts. Where its standard input goes on after the source, it then reads one line, the addresses of
the other hosts, tries to reach them all, prints a second JSON line, and stays, to be reached
itself, until the input ends.
"""

from __future__ import annotations  # a host's Python may be older than ours

import fcntl
import glob
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

PACKAGE = "tokenunify_scale"
CODE = (".py", ".yaml", ".json", ".md")
GPU_QUERY = "--query-gpu=name,memory.total,memory.used"
TORCH_QUERY = "import torch; print(torch.cuda.device_count())"
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
CONNECT_SECONDS = 4.0
QUERY_SECONDS = 12.0


def look(request: dict) -> dict:
    """Everything that can be read without starting anything.

    Args:
        request: ``packages`` (names of distributions), ``names`` (hosts to resolve), ``folders``
            (whose free space is asked for), ``variables`` (a pattern of names), ``shared`` and
            ``token`` (a folder, and a file that the asking machine has put there), ``port`` (which
            should be free). Each may be missing.

    Returns:
        Plain data: sizes in bytes, times in seconds since 1970, addresses as text.
    """
    began = time.time()
    own, pattern = socket.gethostname(), request.get("variables", "")
    names = [own, *request.get("names", [])]
    gpus, gpu_error = read_gpus()
    with ThreadPoolExecutor(32) as pool:
        addresses = dict(pool.map(lambda name: (name, resolve(name)), names))
    facts = {
        "name": own,
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "folder": os.getcwd(),
        "packages": versions(request.get("packages", [])),
        "code": code_of(PACKAGE),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "gpu_error": gpu_error,
        "torch_gpus": ask_torch() if gpus else None,
        "memory": read_memory(),
        "free": {folder: free_space(folder) for folder in request.get("folders", [])},
        "addresses": addresses,
        "interfaces": interfaces(),
        "first_address": first_address(),
        "port_error": port_error(request.get("port")),
        "environment": {k: v for k, v in os.environ.items() if re.fullmatch(pattern, k)},
        "locks": find_locks(),
        "shared": try_folder(request.get("shared"), request.get("token", "")),
    }
    return {**facts, "clock": [began, time.time()]}


def versions(distributions: list[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_of(package: str) -> dict[str, str] | None:
    """A digest (sha256, 16 digits) of each file of a package, not imported; None: not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root, digests = list(spec.submodule_search_locations)[0], {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(CODE):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()[:16]
                digests[os.path.relpath(path, root)] = digest
    return digests


def read_gpus() -> tuple[list[dict] | None, str | None]:
    """GPUs as nvidia-smi lists them (name, total and used bytes), or what it says instead.

    Returns:
        The GPUs, None where there is no nvidia-smi; and its complaint, if it has one.
    """
    if not shutil.which("nvidia-smi"):
        return None, None
    code, told = _ask(["nvidia-smi", GPU_QUERY, "--format=csv,noheader,nounits"])
    if code:
        return [], told
    gpus = []
    for name, *sizes in (row.split(", ") for row in told.splitlines()):
        total, used = (int(size) << 20 if size.isdigit() else 0 for size in sizes)
        gpus.append({"name": name, "total": total, "used": used})
    return gpus, None


def ask_torch() -> int | str:
    """How many GPUs torch can use; what went wrong where it cannot tell."""
    # The launcher sets CUDA_VISIBLE_DEVICES itself, from the slots.
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    code, told = _ask([sys.executable, "-c", TORCH_QUERY], environment)
    last = (told.splitlines() or [""])[-1]
    return int(last) if code == 0 and last.isdigit() else last or "no answer"


def _ask(command: list[str], environment: dict | None = None) -> tuple[int, str]:
    """Exit code of a short command, and what it printed."""
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=QUERY_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"no answer in {QUERY_SECONDS:.0f} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def resolve(name: str) -> list[str]:
    """Addresses of a host as this one resolves its name; none where it cannot."""
    try:
        return [found[4][0] for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def interfaces() -> dict[str, str | None]:
    """Names of the network interfaces with their IPv4 addresses."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            wanted = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, wanted)
                found[name] = socket.inet_ntoa(answer[20:24])
            except OSError:
                found[name] = None
    return found


def first_address() -> str | None:
    """What DeepSpeed takes as the master's address when this is the first host."""
    code, told = _ask(["hostname", "-I"])
    return told.split()[0] if code == 0 and told else None


def port_error(port: int | None) -> str | None:
    """Why a port cannot be listened on; None where it can, or none is asked for."""
    if port is None:
        return None
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def read_memory() -> dict[str, int]:
    """Total and available memory in bytes, as far as the system tells."""
    rows = (row.split() for row in (_text("/proc/meminfo") or "").splitlines())
    sizes = {row[0]: int(row[1]) << 10 for row in rows if len(row) > 1 and row[1].isdigit()}
    return {"total": sizes.get("MemTotal:", 0), "available": sizes.get("MemAvailable:", 0)}


def free_space(folder: str) -> int | None:
    """Free bytes of a file system; None where the folder is not there."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def find_locks() -> list[list]:
    """Lock files of unfinished builds of torch's extensions: path, and age in minutes."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.expanduser("~/.cache/torch_extensions")
    found = []
    for path in glob.glob(glob.escape(root) + "/**/lock", recursive=True):
        try:
            found.append([path, (time.time() - os.path.getmtime(path)) / 60])
        except OSError:
            continue  # the build has just finished
    return found


def try_folder(folder: str | None, token: str) -> dict | None:
    """Whether a folder is there, holds the token, and can be written to."""
    if folder is None:
        return None
    if not os.path.isdir(folder):
        return {"there": False, "token": False, "error": None}
    error, known = None, os.path.join(folder, token)
    own = f"{known}.{socket.gethostname()}.{os.getpid()}"
    try:
        with open(own, "w") as file:
            file.write(token)
        os.remove(own)
    except OSError as caught:
        error = caught.strerror
    return {"there": True, "token": os.path.exists(known), "error": error}


def meet(peers: list[list]) -> list[list]:
    """Connect to each of (host, address, port); those that cannot be reached, with the reason."""

    def call(peer: list) -> list | None:
        try:
            socket.create_connection((peer[1], peer[2]), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return [*peer, error.strerror or "timed out"]
        return None

    with ThreadPoolExecutor(len(peers) or 1) as pool:
        return [failure for failure in pool.map(call, peers) if failure]


def main(words: list[str]) -> None:
    """Print the facts, then meet the others if there are any; see the module's text."""
    request = json.loads(words[0]) if words else {}
    server = socket.create_server(("", 0), backlog=1024)
    threading.Thread(target=_accept, args=(server,), daemon=True).start()
    print(json.dumps({**look(request), "port": server.getsockname()[1]}), flush=True)
    line = sys.stdin.readline()
    if line:
        print(json.dumps(meet(json.loads(line))), flush=True)
        sys.stdin.read()


def _accept(server: socket.socket) -> None:
    """Take calls in for as long as the process lives."""
    while True:
        server.accept()[0].close()


def _text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
