"""Stands in for sshd on a host of a test where that is not installed: a server of asyncssh.

    python tests/cluster_sshd.py LOG

goes into the background, listens on port 22 with the host's key in /etc/ssh, lets in who has the
user's, and runs commands as sshd does: by the shell of whoever runs this, at home, in a session of
their own, with a new environment. Input, output, their ends, exit code and the client's signals are
passed on. A client that is gone does not end its command, no more than for sshd: that sees its
input end, and SIGPIPE when it writes. There are no terminals, no forwarding and no file transfer.
"""

import asyncio
import os
import pwd
import signal
import sys
from contextlib import suppress

import asyncssh

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def serve() -> None:
    """Serve until the process is ended; a client that is silent for 15 s is gone."""
    await asyncssh.listen(
        port=22, server_host_keys=["/etc/ssh/host_key"],
        authorized_client_keys="/etc/ssh/user_key.pub", process_factory=_run, encoding=None,
        allow_pty=False, agent_forwarding=False, keepalive_interval=5, keepalive_count_max=3,
    )  # fmt: skip
    await asyncio.Event().wait()


async def _run(request: asyncssh.SSHServerProcess) -> None:
    """Run a client's command; it ends when the command has, and all that holds its output."""
    if not request.command:
        request.exit(1)
        return
    user = pwd.getpwuid(os.getuid())
    (reads, stdin), (stdout, writes), (stderr, warns) = os.pipe(), os.pipe(), os.pipe()
    child = await asyncio.create_subprocess_exec(
        user.pw_shell, "-c", request.command, cwd=user.pw_dir, env=_environment(request, user),
        stdin=reads, stdout=writes, stderr=warns, start_new_session=True,
    )  # fmt: skip
    for end in (reads, writes, warns):
        os.close(end)
    request.set_redirect_pid(-child.pid)  # signals are for its process group
    # Without send_eof, as the end of either output would be that of both.
    await request.redirect(stdin, stdout, stderr, send_eof=False)
    passed = asyncio.create_task(_pass_on(request))
    gone = asyncio.create_task(request.wait_closed())
    # Where the client is gone, asyncssh never ends a drain.
    await asyncio.wait((passed, gone), return_when=asyncio.FIRST_COMPLETED)
    code = await child.wait()
    passed.cancel()
    if code < 0:
        request.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        request.exit(code)
    await gone


async def _pass_on(request: asyncssh.SSHServerProcess) -> None:
    """Wait until both outputs have ended and are with the client."""
    with suppress(OSError, asyncssh.Error):  # it is gone
        await request.stdout.drain()
        await request.stderr.drain()


def _environment(request: asyncssh.SSHServerProcess, user: pwd.struct_passwd) -> dict[str, str]:
    """What sshd sets; by SSH_CLIENT, bash knows to read its ~/.bashrc."""
    names = {"USER": user.pw_name, "LOGNAME": user.pw_name, "HOME": user.pw_dir}
    host, port = request.get_extra_info("peername")[:2]
    shell = {"SHELL": user.pw_shell, "PATH": PATH, "SSH_CLIENT": f"{host} {port} 22"}
    return {**names, **shell}


if __name__ == "__main__":
    # A shell's "&" would have its commands ignore SIGINT, which what runs here would inherit.
    if os.fork() == 0:
        with open(sys.argv[1], "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        asyncio.run(serve())
