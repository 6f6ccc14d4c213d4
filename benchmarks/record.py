"""`swiftrec bench record`: records the shape of live requests, by a proxy in front of a server."""

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

from swiftrec.benchmarks.client import ANY_SIZE
from swiftrec.benchmarks.connection import TlsSettings, wait_ready
from swiftrec.benchmarks.item_texts import TokenCounter
from swiftrec.benchmarks.optional_deps import error_sentence
from swiftrec.benchmarks.recording import FORMAT, Pseudonyms
from swiftrec.benchmarks.workload import PATHS, MethodName
from swiftrec.server.models.bundle import find_bundle
from swiftrec.server.signals import on_signals

_CHANNEL_METADATA = ("grpc-", "user-agent")  # metadata that the channel writes itself


class RecordSettings(TlsSettings):
    """Forward calls to a server and record those of one method, without texts and ids by default.

    Use it to benchmark with the traffic of your clients: they call its port; `swiftrec bench load --recording`
    replays the file.
    Prints its address, and at the end the number of recorded calls.
    """

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench record", cli_kebab_case=True, cli_implicit_flags=True
    )

    target: str = Field(description="HOST:PORT of the server")
    output: Path = Field(description="file of the recording (JSON lines)")
    method: MethodName = Field("recommend", description="method to record; others are only forwarded")
    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle with the tokenizer that counts tokens")
    keep_texts: bool = Field(False, description="write texts and item ids in the clear as well")
    port: int = Field(0, ge=0, le=65_535, description="port for clients; 0 takes a free one")
    workers: int = Field(256, ge=1, description="maximum number of concurrent calls")


def run(settings: RecordSettings) -> int:
    """Record until SIGTERM or Ctrl-C; 1 if the recording ended early, while calls were still forwarded.

    Raises:
        RuntimeError: no server responds.
        OSError: not even the header of the recording can be written.
    """
    stop = threading.Event()
    on_signals(stop.set)
    pseudonyms = Pseudonyms(TokenCounter(find_bundle(settings.bundle)).count, keep_texts=settings.keep_texts)
    with ExitStack() as stack:
        channel = stack.enter_context(settings.access.channel(settings.target, [ANY_SIZE]))
        wait_ready(channel, settings.target, settings.access)  # before an older recording is overwritten
        file = stack.enter_context(settings.output.open("wb", buffering=0))  # a buffer would fail when it is closed
        recorder = Recorder(settings.method, pseudonyms, file)
        server, port = proxy(channel, recorder, settings.port, settings.workers)
        server.start()
        sys.stdout.write(f"recording on 127.0.0.1:{port}, forwarded to {settings.target}\n")
        sys.stdout.flush()
        stop.wait()
        server.stop(10).wait()
        recorder.close()
    sys.stdout.write(f"{recorder.written} calls in {settings.output}\n")
    return 1 if recorder.has_failed else 0


def proxy(channel: grpc.Channel, recorder: Recorder, port: int = 0, workers: int = 8) -> tuple[grpc.Server, int]:
    """A server that forwards everything over `channel`, and its port; the server behind it limits message sizes."""
    options = (("grpc.so_reuseport", 0), ANY_SIZE)
    server = grpc.server(ThreadPoolExecutor(workers), options=options)
    server.add_generic_rpc_handlers((Proxy(channel, recorder),))
    return server, server.add_insecure_port(f"127.0.0.1:{port}")


class Sink(Protocol):
    """An unbuffered file."""

    def write(self, line: bytes, /) -> int | None:
        """Write the first bytes of a line, and return their number."""


class Recorder:
    """Writes a line for each call. A line that cannot be written ends the recording, but no call.

    Args:
        method: to record.
        pseudonyms: turns requests into shapes.
        file: unbuffered.

    Raises:
        OSError: nothing can be written.
    """

    def __init__(self, method: MethodName, pseudonyms: Pseudonyms, file: Sink) -> None:
        self._method, self._pseudonyms, self._file = method, pseudonyms, file
        self._first: float | None = None
        self._lock = threading.Lock()
        self._is_open = True
        self.written, self.has_failed = 0, False
        self._write({"format": FORMAT, "method": method})

    def record(self, path: str, payload: bytes) -> None:
        """Record the call if it is of the method and can be decoded."""
        now = time.monotonic()
        if path != PATHS[self._method]:
            return
        try:
            requests = self._pseudonyms.call(self._method, payload)
        except DecodeError:
            return
        with self._lock:
            if not self._is_open:
                return
            self._first = now if self._first is None else self._first
            row = {"t": round(max(0.0, now - self._first), 6), "requests": requests}
            try:
                self._write(row)
            except OSError as error:  # a full disk must not fail the clients' calls
                self._is_open, self.has_failed = False, True
                sys.stderr.write(
                    f"swiftrec bench record: {error_sentence(error)}; calls are forwarded, but no longer recorded\n"
                )
                return
            self.written += 1

    def _write(self, row: Mapping[str, Any]) -> None:
        line = f"{json.dumps(row)}\n".encode()
        try:
            while line:  # a full disk may accept a part of the line, and fail with the next write
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            error.filename = getattr(self._file, "name", None)
            raise

    def close(self) -> None:
        """End the recording."""
        with self._lock:
            self._is_open = False


class Proxy(grpc.GenericRpcHandler):  # type: ignore[type-arg] # its annotation is generic, the class is not
    """Forwards every method as a stream of bytes in each direction: a single message is a stream of one."""

    def __init__(self, channel: grpc.Channel, recorder: Recorder) -> None:
        self._channel, self._recorder = channel, recorder

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for any method."""
        path = handler_call_details.method
        call = self._channel.stream_stream(path, request_serializer=None, response_deserializer=None)

        def recorded(requests: Iterator[bytes]) -> Iterator[bytes]:
            for request in requests:
                self._recorder.record(path, request)
                yield request

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            metadata = tuple(
                (key, value) for key, value in context.invocation_metadata() if not key.startswith(_CHANNEL_METADATA)
            )
            responses: Any = call(recorded(requests), timeout=context.time_remaining(), metadata=metadata)
            context.add_callback(responses.cancel)
            try:
                yield from responses
            except grpc.RpcError:
                context.set_trailing_metadata(responses.trailing_metadata() or ())
                context.abort(responses.code(), responses.details())

        return grpc.stream_stream_rpc_method_handler(handle)
