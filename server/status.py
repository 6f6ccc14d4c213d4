"""Maps errors to gRPC status codes and google.rpc details."""

from __future__ import annotations

import math

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from swiftrec.server.errors import (
    BundleError,
    Busy,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    MessageTooLarge,
    ModelFailed,
    NotFound,
    NotServing,
    Overloaded,
    RequestMissing,
    ShuttingDown,
    SwiftrecError,
    Unauthenticated,
    Unsupported,
)

_CODES: dict[type, int] = {
    Unauthenticated: code_pb2.UNAUTHENTICATED,
    RequestMissing: code_pb2.INVALID_ARGUMENT,
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    MessageTooLarge: code_pb2.OUT_OF_RANGE,
    NotFound: code_pb2.NOT_FOUND,
    NotServing: code_pb2.UNAVAILABLE,
    Busy: code_pb2.UNAVAILABLE,
    BundleError: code_pb2.FAILED_PRECONDITION,
    Unsupported: code_pb2.UNIMPLEMENTED,
    Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    Cancelled: code_pb2.CANCELLED,
    ShuttingDown: code_pb2.UNAVAILABLE,
    ModelFailed: code_pb2.INTERNAL,
}


_INTERNAL: int = code_pb2.INTERNAL
# Messages may quote the request, and a status is sent in trailers, which clients limit to 8 KB by default.
_MAX_MESSAGE_BYTES, _MAX_FIELD_BYTES = 1_000, 256


def code_of(error: SwiftrecError) -> int:
    """The google.rpc.Code of an error."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), _INTERNAL)


def sentence(error: SwiftrecError) -> str:
    """The error message for the client, cut to the size of a trailer."""
    return _cut(str(error), _MAX_MESSAGE_BYTES)


def to_status(error: SwiftrecError) -> status_pb2.Status:
    """The error as google.rpc.Status: BadRequest names the field, RetryInfo says when to retry."""
    details: list[Message] = []
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field, _MAX_FIELD_BYTES), description=_cut(error.reason, _MAX_MESSAGE_BYTES)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        seconds = math.floor(error.retry_after)
        delay = duration_pb2.Duration(seconds=seconds, nanos=int((error.retry_after - seconds) * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for container, detail in zip(packed, details, strict=True):
        container.Pack(detail)
    return status_pb2.Status(code=code_of(error), message=sentence(error), details=packed)


def _cut(text: str, size: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= size else data[:size].decode(errors="ignore") + " ..."
