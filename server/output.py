"""Writing to stdout and stderr, which may be closed, full or a pipe that nobody reads, without waiting for a reader."""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from typing import TextIO

_PATIENCE_S = 1.0


def write_text(stream: TextIO | None, text: str) -> bool:
    """Write a few lines, unless that fails or there is no room for them within a second.

    Args:
        stream: sys.stdout or sys.stderr; None if it was closed when the process started.
        text: at most 4,096 bytes, which a pipe takes as a whole.

    Returns:
        Whether they were written.
    """
    with suppress(OSError, ValueError):
        if stream is not None and has_room(stream, _PATIENCE_S):
            stream.write(text)
            stream.flush()
            return True
    return False


def has_room(stream: TextIO | int, timeout_s: float | None = None) -> bool:
    """Wait until a stream or a descriptor can be written to; without end by default.

    A pipe that has lost its reader counts as writable: writing to it fails at once.
    """
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except ValueError:  # a stream that has no descriptor
        return True
    return bool(poll.poll(None if timeout_s is None else 1e3 * timeout_s))


def make_nonblocking(stream: TextIO | None) -> None:
    """If the stream is a pipe, let a write fail while it is full, so that C libraries that log wait for no reader.

    The pipe is opened again under the same number: other programs that write to it, such as the shell that started this
    one, share the flags of what was opened before.
    """
    with suppress(OSError, ValueError):
        if stream is not None and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            opened = os.open(f"/proc/self/fd/{stream.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(opened, stream.fileno())
            os.close(opened)
