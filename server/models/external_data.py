"""Finds the files that an ONNX model reads its weights from.

ONNX can store the data of a tensor in another file ("external data"), whose path is relative to the model's folder. The
paths are read from the model file itself, which is a protobuf message (onnx.proto3, section TensorProto),
so that the server does not need the onnx package. Weights inside the model are skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from swiftrec.server.errors import BundleError

_Bytes: TypeAlias = "bytes | mmap.mmap"

# Messages that can contain a tensor: the numbers of the fields that lead to it, and the types of these fields.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
}
_OPERATOR_FIELD, _COMPILED = 4, b"EPContext"  # a node of this operator loads a compiled model from another file
_KEY_FIELD, _VALUE_FIELD, _LOCATION = 1, 2, b"location"
_VARINT, _BITS_64, _LENGTH, _BITS_32 = 0, 1, 2, 5  # wire types; the others are of groups, which ONNX does not use
_MAX_VARINT_BYTES = 10


def external_files(model: Path) -> set[str]:
    """The paths of external data in a model, as they are in the model.

    Raises:
        BundleError: the file is not an ONNX model, or loads a compiled model from another file.
    """
    if not model.stat().st_size:
        return set()  # which cannot be mapped
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return {location.decode() for location in _locations(data)}
        except ValueError as error:  # UnicodeDecodeError is one, too
            raise BundleError(
                f"{model}: not an ONNX model that this server can read ({error}): export it again"
            ) from None


def _locations(data: _Bytes) -> Iterator[bytes]:
    """The values of all entries called "location" in the model's tensors."""
    left = [("ModelProto", 0, len(data))]
    while left:
        message, start, end = left.pop()
        if message == "StringStringEntryProto":
            yield from _location(data, start, end)
            continue
        for field, first, last in _fields(data, start, end):
            if field in MESSAGES[message]:
                left.append((MESSAGES[message][field], first, last))
            elif message == "NodeProto" and field == _OPERATOR_FIELD and data[first:last] == _COMPILED:
                raise ValueError(f"it has the operator {_COMPILED.decode()}, which loads another file")


def _location(data: _Bytes, start: int, end: int) -> Iterator[bytes]:
    fields = [*_fields(data, start, end)]
    if any(field == _KEY_FIELD and data[first:last] == _LOCATION for field, first, last in fields):
        yield from (data[first:last] for field, first, last in fields if field == _VALUE_FIELD)


def _fields(data: _Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the length-delimited fields of a message: strings, bytes and messages.

    Raises:
        ValueError: this is not a protobuf message.
    """
    offset = start
    while offset < end:
        tag, offset = _varint(data, offset, end)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, offset = _varint(data, offset, end)
        elif kind == _LENGTH:
            length, offset = _varint(data, offset, end)
            if length <= end - offset:
                yield field, offset, offset + length
            offset += length
        elif kind in {_BITS_64, _BITS_32}:
            offset += 8 if kind == _BITS_64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {offset}")
        if offset > end:
            raise ValueError(f"a field goes beyond byte {end}")


def _varint(data: _Bytes, offset: int, end: int) -> tuple[int, int]:
    """A varint and the offset after it."""
    number = 0
    for n in range(min(_MAX_VARINT_BYTES, end - offset)):
        byte = data[offset + n]
        number |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return number, offset + n + 1
    raise ValueError(f"no valid varint at byte {offset}")
