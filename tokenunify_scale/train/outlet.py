"""Standard output and error whose readers may go away: what is written then is dropped.

Told to stop, DeepSpeed's launcher ends pdsh first, and with it the connections by which the ranks
of other hosts speak; a terminal or a log's disk may go too. A line that cannot be written is no
reason to lose the steps since the last save.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class Outlet:
    """A text stream that raises no OSError."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream`` for as long as that is possible."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop; the number of characters."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, or drop it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Without a reader, let all that writes to it write to nowhere: C code, Python's end."""
        if error.errno == errno.EPIPE:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self._stream, name)


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Go on though nobody reads what is written to standard output and error."""
    with redirect_stdout(Outlet(sys.stdout)), redirect_stderr(Outlet(sys.stderr)):
        yield
