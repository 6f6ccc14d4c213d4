"""Decoding requests ourselves: bad bytes are INVALID_ARGUMENT with the name of the field, and nothing of ours leaks."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from server.errors import InvalidRequest

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SEARCHED_BYTES = 65_536  # of a malformed message: a longer one is refused without the name of the field


def decode(kind: type[Message], data: bytes) -> Message:
    """Parse a message.

    Raises:
        InvalidRequest: names the first field that is malformed.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        searched = _first_fault(kind.DESCRIPTOR, data, "") if len(data) <= _SEARCHED_BYTES else None
        field, reason = searched or ("", "malformed protobuf")
        raise InvalidRequest(field, reason) from None


def _first_fault(descriptor: Any, data: bytes, path: str) -> tuple[str, str] | None:  # noqa: ANN401
    """Walk the wire format (protobuf encoding guide) to the first fault: (field, reason)."""
    seen: dict[int, int] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        known = descriptor.fields_by_number.get(number)
        name = path + (known.name if known else f"#{number}")
        if known and known.is_repeated:
            name += f"[{seen.get(number, 0)}]"
            seen[number] = seen.get(number, 0) + 1
        if tag < 0 or number == 0:
            return path.rstrip("."), "malformed protobuf"
        size, place = _size(wire, data, place)
        if size < 0 or place + size > len(data):
            return name, "malformed protobuf: truncated or of a wrong type"
        if known and wire == _BYTES and (fault := _fault_in(known, data[place : place + size], name)):
            return fault
        place += size
    return None


def _fault_in(field: FieldDescriptor, value: bytes, name: str) -> tuple[str, str] | None:
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return name, "not UTF-8"
    if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type:
        return _first_fault(field.message_type, value, f"{name}.")
    return None


def _size(wire: int, data: bytes, place: int) -> tuple[int, int]:
    """Length of a field's value and where it starts; length -1 if the wire type is none."""
    if wire == _VARINT:
        value, end = _varint(data, place)
        return (end - place if value >= 0 else -1), place
    if wire == _BYTES:
        return _varint(data, place)
    return {_FIXED64: 8, _FIXED32: 4}.get(wire, -1), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A varint and the place behind it; -1 if it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            return -1, place
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
    return -1, place
