"""The files by which hosts of a test know and trust each other, and DeepSpeed's launcher them."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

STAND_IN = Path(__file__).with_name("cluster_pdsh.sh")

SSHD = """
HostKey /etc/ssh/host_key
PidFile none
AuthorizedKeysFile /etc/ssh/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
ClientAliveInterval 5
ClientAliveCountMax 3
"""
# Without ServerAlive pdsh would wait for ever for a host that was cut off.
SSH = """
IdentityFile /etc/ssh/user_key
BatchMode yes
StrictHostKeyChecking yes
ConnectTimeout 10
LogLevel ERROR
ServerAliveInterval 5
ServerAliveCountMax 3
"""


def write(folder: Path, names: Sequence[tuple[str, str]], *, slots: int, keygen: str) -> None:
    """Write ``ssh/`` and ``hosts``, which hosts see as in /etc, ``hostfile`` and ``travels``.

    ``travels`` is what DS_ENV_FILE names: variables that DeepSpeed sets on each host. Where there
    is no pdsh, ``bin/`` has our stand-in.

    Args:
        folder: where.
        names: name and address of each host.
        slots: ranks of each.
        keygen: the command ssh-keygen; the keys are good for these hosts alone.
    """
    ssh = folder / "ssh"
    ssh.mkdir()
    for key in ("host_key", "user_key"):
        words = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", ssh / key]
        subprocess.run(words, check=True, timeout=60)
    public = " ".join((ssh / "host_key.pub").read_text().split()[:2])
    known = "".join(f"{name},{address} {public}\n" for name, address in names)
    (ssh / "ssh_known_hosts").write_text(known)
    (ssh / "sshd_config").write_text(SSHD)
    (ssh / "ssh_config").write_text(SSH)
    lines = "".join(f"{address} {name}\n" for name, address in names)
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + lines)
    (folder / "hostfile").write_text("".join(f"{name} slots={slots}\n" for name, _ in names))
    (folder / "travels").write_text("OMP_NUM_THREADS=1\n")
    if not shutil.which("pdsh"):
        (folder / "bin").mkdir()
        (folder / "bin" / "pdsh").symlink_to(STAND_IN)
