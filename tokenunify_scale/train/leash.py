"""The connection by which each rank hangs on ``tokenunify launch``, whatever launcher is between.

Launchers differ in what they do with a signal and with an exit code: DeepSpeed's ends ranks one
after the other or leaves them behind, pdsh and torchrun give codes of their own, MPICH gives 0. So
ranks are told to stop, and tell how they ended, over one TCP connection each; it also shows within
a minute, on both sides, that the other one died or was cut off. Lines of text:

    rank to launch: ``TOKEN RANK HOST PID`` at first, ``exit CODE`` at last
    launch to rank: ``signal SIGUSR2``, ``end`` (at once: SIGKILL)

A rank that loses its connection stops as if told by SIGTERM, with a save, and is killed if that
takes longer than the grace time: nothing goes on training that nobody watches.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass

from tokenunify_scale.config import HostError

VARIABLE = "TOKENUNIFY_LEASH"
CONNECT_SECONDS = 20.0
# A peer that is silent for 15 s is asked every 5 s, and is gone if it does not answer for 45 s.
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 45_000}


@dataclass(frozen=True)
class Hold:
    """Where ``tokenunify launch`` listens, and to whom."""

    host: str
    port: int
    token: str
    """Of one start of the job: ranks left over from an earlier one are not heard."""
    grace: float
    """Seconds for a stop with a save."""

    def text(self) -> str:
        """As it stands in the environment."""
        return f"{self.host},{self.port},{self.token},{self.grace:g}"

    @classmethod
    def parse(cls, text: str) -> "Hold":
        """What ``text`` wrote."""
        host, port, token, grace = text.split(",")
        return cls(host, int(port), token, float(grace))


class Leash:
    """A rank's end of the connection."""

    def __init__(self, hold: Hold, *, rank: int) -> None:
        """Connect, and listen from now on.

        Raises:
            HostError: nobody listens there.
        """
        try:
            self._socket = socket.create_connection((hold.host, hold.port), CONNECT_SECONDS)
        except OSError as error:
            raise HostError(
                f"rank {rank} on {socket.gethostname()} does not reach tokenunify launch at "
                f"{hold.host}:{hold.port} ({error}): has it ended, or is a firewall between?"
            ) from None
        self._socket.settimeout(None)
        keep_alive(self._socket)
        self._grace, self._told = hold.grace, False
        self._send(f"{hold.token} {rank} {socket.gethostname()} {os.getpid()}")
        threading.Thread(target=self._listen, name="leash", daemon=True).start()

    def tell(self, code: int) -> None:
        """Say the exit code that this process is about to end with."""
        self._told = True
        self._send(f"exit {code}")

    def _send(self, line: str) -> None:
        with suppress(OSError):
            self._socket.sendall(f"{line}\n".encode())

    def _listen(self) -> None:
        with suppress(OSError):
            for line in self._socket.makefile("r"):
                word, _, name = line.strip().partition(" ")
                os.kill(os.getpid(), signal.SIGKILL if word == "end" else signal.Signals[name])
        if self._told:
            return
        with suppress(OSError):
            os.write(2, b"tokenunify launch is gone: this rank stops, with a save\n")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._grace)
        os.kill(os.getpid(), signal.SIGKILL)


def take_leash(environment: MutableMapping[str, str], *, rank: int) -> Leash | None:
    """Connect to what launched this rank; None where nothing did. Children do not inherit it.

    Raises:
        HostError: it cannot be reached.
    """
    text = environment.pop(VARIABLE, None)
    return Leash(Hold.parse(text), rank=rank) if text else None


def keep_alive(connection: socket.socket) -> None:
    """Have the system find out that the other side is gone, though nothing is sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for name, value in KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
