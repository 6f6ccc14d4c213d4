"""Logs on stderr, one JSON object a line. They contain names, numbers and request ids, but no texts of users."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from queue import SimpleQueue
from types import TracebackType

from swiftrec.server.output import has_room

MAX_WAITING_LINES = 1_000  # further lines are dropped
_FLUSH_TIMEOUT_S = 1.0


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)

    def formatException(  # noqa: N802 (the standard library's name)
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The traceback and the type of the error; its message only if that cannot quote a request."""
        return _trace(ei[1]) if ei[1] else ""


def _trace(error: BaseException) -> str:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = "".join(traceback.format_tb(error.__traceback__))
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    is_quotable = kind.startswith("onnxruntime.") or isinstance(error, OSError | MemoryError)
    return (f"{_trace(cause)}\n\n" if cause else "") + frames + (f"{kind}: {error}" if is_quotable else kind)


class LineHandler(logging.Handler):
    """Writes lines in a separate thread, so that logging never blocks; lines that cannot be written are dropped.

    Args:
        descriptor: an open file; None: drop every line.
        on_drop: called for each dropped line.
    """

    def __init__(self, descriptor: int | None, on_drop: Callable[[], object]) -> None:
        super().__init__()
        self._descriptor, self._on_drop = descriptor, on_drop
        self._waiting = SimpleQueue[bytes | threading.Event]()
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        if self._waiting.qsize() >= MAX_WAITING_LINES:
            self._on_drop()
            return
        try:
            self._waiting.put(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001 (logging never raises, as in the standard library's handlers)
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines so far are written or dropped, for at most a second."""
        reached = threading.Event()
        self._waiting.put(reached)
        reached.wait(_FLUSH_TIMEOUT_S)

    def _write_lines(self) -> None:
        while True:
            entry = self._waiting.get()
            if isinstance(entry, threading.Event):
                entry.set()
            elif not self._write(entry):
                self._on_drop()

    def _write(self, line: bytes) -> bool:
        """Write a line, waiting while a pipe is full; False if it cannot be written."""
        while line and self._descriptor is not None:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:
                has_room(self._descriptor)
            except OSError:
                return False
        return not line


def set_up_logs(level: str, on_drop: Callable[[], object] = lambda: None) -> None:
    """Write all logs to stderr as JSON; `on_drop` is called for each line that cannot be written.

    `logging.shutdown` waits up to a second for the remaining lines.
    """
    try:
        descriptor = sys.stderr.fileno() if sys.stderr else None
    except OSError:  # a replacement without a file
        descriptor = None
    handler = LineHandler(descriptor, on_drop)
    handler.setFormatter(JsonFormatter())
    handler.start()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
