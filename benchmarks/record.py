"""`swiftrec bench record`: stands between clients and a live server, passes everything on, notes one method."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from swiftrec.benchmarks.access import TlsSettings
from swiftrec.benchmarks.client import ANY_SIZE
from swiftrec.benchmarks.extra import sentence
from swiftrec.benchmarks.first import wait_ready
from swiftrec.benchmarks.recording import FORMAT, Marks
from swiftrec.benchmarks.texts import TokenCounter
from swiftrec.benchmarks.workload import PATHS, Method
from swiftrec.server.models.bundle import find_bundle
from swiftrec.server.signals import on_signals

_OURS = ("grpc-", "user-agent")  # metadata that the channel writes itself


class RecordSettings(TlsSettings):
    """Pass calls on to a server and write a recording of one method, by default without any text or id."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench record", cli_kebab_case=True, cli_implicit_flags=True
    )

    target: str = Field(description="HOST:PORT of the server")
    output: Path = Field(description="the recording: JSON lines")
    method: Method = Field("recommend", description="what is recorded; the rest only passes")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose tokenizer counts")
    keep_texts: bool = Field(False, description="also write texts and item ids in the clear")
    port: int = Field(0, ge=0, le=65_535, description="where clients call; 0 takes a free one")
    workers: int = Field(256, ge=1, description="calls at once")


def run(settings: RecordSettings) -> int:
    """Record until SIGTERM or Ctrl-C; 1 if the recording ended before, which the calls do not.

    Raises:
        RuntimeError: no server answers.
        OSError: not even the head of the recording can be written.
    """
    stop = threading.Event()
    on_signals(stop.set)
    marks = Marks(TokenCounter(find_bundle(settings.bundle)).count, keep_texts=settings.keep_texts)
    with ExitStack() as stack:
        channel = stack.enter_context(settings.access.channel(settings.target, [ANY_SIZE]))
        wait_ready(channel, settings.target, settings.access)  # before an older recording is written over
        file = stack.enter_context(settings.output.open("wb", buffering=0))  # a buffer would fail when it is closed
        recorder = Recorder(settings.method, marks, file)
        server, port = proxy(channel, recorder, settings.port, settings.workers)
        server.start()
        sys.stdout.write(f"recording on 127.0.0.1:{port}, passed on to {settings.target}\n")
        sys.stdout.flush()
        stop.wait()
        server.stop(10).wait()
        recorder.close()
    sys.stdout.write(f"{recorder.written} calls in {settings.output}\n")
    return 1 if recorder.has_failed else 0


def proxy(channel: grpc.Channel, recorder: Recorder, port: int = 0, workers: int = 8) -> tuple[grpc.Server, int]:
    """A server that passes everything on over `channel`, and its port; it is the server there that limits sizes."""
    options = (("grpc.so_reuseport", 0), ANY_SIZE)
    server = grpc.server(ThreadPoolExecutor(workers), options=options)
    server.add_generic_rpc_handlers((Proxy(channel, recorder),))
    return server, server.add_insecure_port(f"127.0.0.1:{port}")


class Sink(Protocol):
    """A file without a buffer."""

    def write(self, line: bytes, /) -> int | None:
        """Take the first bytes of a line, and say how many."""


class Recorder:
    """Writes a line a call. The first that cannot be written is the end of the recording, and of no call.

    Args:
        method: what is recorded.
        marks: what is kept of a request.
        file: not buffered.

    Raises:
        OSError: nothing can be written.
    """

    def __init__(self, method: Method, marks: Marks, file: Sink) -> None:
        self._method, self._marks, self._file = method, marks, file
        self._first: float | None = None
        self._lock = threading.Lock()
        self._is_open = True
        self.written, self.has_failed = 0, False
        self._write({"format": FORMAT, "method": method})

    def note(self, path: str, payload: bytes) -> None:
        """Write the call down if it is of the method; what is no message is not written."""
        now = time.monotonic()
        if path != PATHS[self._method]:
            return
        try:
            requests = self._marks.call(self._method, payload)
        except DecodeError:
            return
        with self._lock:
            if not self._is_open:
                return
            self._first = now if self._first is None else self._first
            row = {"t": round(max(0.0, now - self._first), 6), "requests": requests}
            try:
                self._write(row)
            except OSError as error:  # a full disk is no reason to fail the clients' calls
                self._is_open, self.has_failed = False, True
                sys.stderr.write(f"benchmarks record: {sentence(error)}; calls pass on and are not written any more\n")
                return
            self.written += 1

    def _write(self, row: Mapping[str, Any]) -> None:
        line = f"{json.dumps(row)}\n".encode()
        try:
            while line:  # a disk that is full takes a part, and says so when it is asked to take the rest
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            error.filename = getattr(self._file, "name", None)
            raise

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            self._is_open = False


class Proxy(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Passes every method on, as a stream of bytes each way: a single message is a stream of one."""

    def __init__(self, channel: grpc.Channel, recorder: Recorder) -> None:
        self._channel, self._recorder = channel, recorder

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for any method."""
        path = handler_call_details.method
        call = self._channel.stream_stream(path, request_serializer=None, response_deserializer=None)

        def noted(requests: Iterator[bytes]) -> Iterator[bytes]:
            for request in requests:
                self._recorder.note(path, request)
                yield request

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            metadata = tuple((key, value) for key, value in context.invocation_metadata() if not key.startswith(_OURS))
            answers: Any = call(noted(requests), timeout=context.time_remaining(), metadata=metadata)
            context.add_callback(answers.cancel)
            try:
                yield from answers
            except grpc.RpcError:
                context.set_trailing_metadata(answers.trailing_metadata() or ())
                context.abort(answers.code(), answers.details())

        return grpc.stream_stream_rpc_method_handler(handle)
