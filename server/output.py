"""Writes to stdout and stderr without blocking, even if they are closed, full or pipes without a reader."""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from typing import TextIO

_WRITE_TIMEOUT_S = 1.0


def write_text(stream: TextIO | None, text: str) -> bool:
    """Write a few lines; give up on errors, or if they cannot be written within a second.

    Args:
        stream: sys.stdout or sys.stderr; None if it was closed when the process started.
        text: at most 4,096 bytes, which are written to a pipe atomically.

    Returns:
        Whether they were written.
    """
    with suppress(OSError, ValueError):
        if stream is not None and has_room(stream, _WRITE_TIMEOUT_S):
            stream.write(text)
            stream.flush()
            return True
    return False


def has_room(stream: TextIO | int, timeout_s: float | None = None) -> bool:
    """Wait until a stream or a descriptor is writable; by default without a timeout.

    A pipe without a reader counts as writable: writing to it fails immediately.
    """
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except ValueError:  # the stream has no descriptor
        return True
    return bool(poll.poll(None if timeout_s is None else 1e3 * timeout_s))


def make_nonblocking(stream: TextIO | None) -> None:
    """If the stream is a pipe, let writes fail while it is full, so that C libraries that log do not block.

    The pipe is opened again under the same number, because other programs, such as the shell that started this one,
    share the flags of the original.
    """
    with suppress(OSError, ValueError):
        if stream is not None and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            opened = os.open(f"/proc/self/fd/{stream.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(opened, stream.fileno())
            os.close(opened)
