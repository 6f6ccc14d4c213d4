"""Requests from bytes: malformed ones are INVALID_ARGUMENT, and nothing of ours leaks."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from server.errors import InvalidRequest

M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes) -> M:
    """Parse a message.

    Raises:
        InvalidRequest: it is malformed.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidRequest("", f"malformed protobuf: not a {name}, or a text in it is not UTF-8") from None
