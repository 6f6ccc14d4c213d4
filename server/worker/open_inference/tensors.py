"""Reads and writes the protocol's tensors. Checks that shape, type and bytes agree; errors name the input."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.errors import InvalidInput, Unsupported

_MAX_ELEMENTS = 2**24
_TYPED = {"BYTES": "bytes_contents", "INT32": "int_contents"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a model; the first dimension is the batch, -1 means any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements in row-major order: texts (BYTES) or numbers (INT32)."""

    shape: tuple[int, ...]
    elements: Sequence[str] | Sequence[int]


def read_inputs(
    request: pb.ModelInferRequest, model: str, specs: Sequence[TensorSpec], max_batch: int
) -> dict[str, Tensor]:
    """Check and decode every input.

    Raises:
        InvalidRequest: names the input.
        Unsupported: it is in shared memory.
    """
    known = {spec.name: spec for spec in specs}
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            "raw_input_contents",
            f"raw_input_contents: expected {len(request.inputs)}, one for each input of '{model}', got {len(raw)}",
        )
    tensors: dict[str, Tensor] = {}
    for offset, message in enumerate(request.inputs):
        if message.name not in known:
            raise InvalidInput(message.name, f"unexpected inference input '{message.name}' for model '{model}'")
        if message.name in tensors:
            raise InvalidInput(message.name, f"input '{message.name}' already exists in request")
        tensors[message.name] = _read(message, known[message.name], model, raw[offset] if raw else None)
    for spec in specs:
        if not spec.is_optional and spec.name not in tensors:
            raise InvalidInput(spec.name, f"input '{spec.name}' is missing for model '{model}'")
    if not tensors:
        raise InvalidInput("inputs", f"expected at least one input of {', '.join(known)} for model '{model}'")
    _check_batch(tensors, model, max_batch)
    return tensors


def _check_batch(tensors: dict[str, Tensor], model: str, max_batch: int) -> None:
    sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
    first = next(iter(sizes))
    for name, size in sizes.items():
        if size != sizes[first]:
            raise InvalidInput(name, f"input '{name}' batch size does not match other inputs for '{model}'")
        if not 1 <= size <= max_batch:
            raise InvalidInput(
                name, f"input '{name}': inference request batch-size must be 1..{max_batch} for '{model}', got {size}"
            )


def _read(message: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, model: str, raw: bytes | None) -> Tensor:
    name = spec.name
    if any(key.startswith("shared_memory") for key in message.parameters):
        raise Unsupported(f"input '{name}': shared memory is not supported; send the contents")
    if message.datatype != spec.datatype:
        raise InvalidInput(
            name,
            f"inference input '{name}' data-type is '{message.datatype}', but model '{model}' expects "
            f"'{spec.datatype}'",
        )
    shape = tuple(message.shape)
    fits = len(shape) == len(spec.shape) and all(
        size >= 0 and expected in {-1, size} for size, expected in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            name,
            f"unexpected shape for input '{name}' for model '{model}'. Expected {_format_shape(spec.shape)}, "
            f"got {_format_shape(shape)}",
        )
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        raise InvalidInput(name, f"input '{name}': {count} elements, at most {_MAX_ELEMENTS}")
    if raw is None:
        return Tensor(shape, _typed(message, spec, count))
    if message.HasField("contents") and message.contents.ListFields():
        raise InvalidInput(
            name,
            f"contents field must not be specified when using raw_input_contents for '{name}' for model '{model}'",
        )
    return Tensor(shape, _bytes(raw, name, count) if spec.datatype == "BYTES" else _int32(raw, name, count))


def _typed(
    message: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, count: int
) -> Sequence[str] | Sequence[int]:
    expected = _TYPED[spec.datatype]
    for field, _ in message.contents.ListFields():
        if field.name != expected:
            raise InvalidInput(
                spec.name, f"input '{spec.name}': {spec.datatype} belongs in {expected}, not {field.name}"
            )
    values = getattr(message.contents, expected)
    if len(values) != count:
        raise InvalidInput(spec.name, f"input '{spec.name}': expected {count} elements by its shape, got {len(values)}")
    if spec.datatype == "BYTES":
        return [_text(value, spec.name, n) for n, value in enumerate(values)]
    return list(values)


def _bytes(raw: bytes, name: str, count: int) -> list[str]:
    """Decode elements, each of which is its length (4 bytes, little-endian) and its bytes."""
    elements: list[str] = []
    offset = 0
    while offset < len(raw):
        if offset + 4 > len(raw):
            raise InvalidInput(
                name,
                f"incomplete string length indicator for inference input '{name}', expecting 4 bytes but only "
                f"{len(raw) - offset} bytes available",
            )
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > len(raw):
            raise InvalidInput(
                name,
                f"incomplete string data for inference input '{name}', expecting string of length {length} but only "
                f"{len(raw) - offset} bytes available",
            )
        if len(elements) == count:
            raise InvalidInput(
                name,
                f"unexpected number of string elements {count + 1} or more for inference input "
                f"'{name}', expecting {count}",
            )
        elements.append(_text(raw[offset : offset + length], name, len(elements)))
        offset += length
    if len(elements) != count:
        raise InvalidInput(name, f"expected {count} strings for inference input '{name}', got {len(elements)}")
    return elements


def _int32(raw: bytes, name: str, count: int) -> list[int]:
    if len(raw) != 4 * count:
        raise InvalidInput(
            name, f"unexpected total byte size {len(raw)} for input '{name}', expecting {4 * count} by its shape"
        )
    return list(struct.unpack(f"<{count}i", raw))


def _text(value: bytes, name: str, offset: int) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(name, f"input '{name}' element {offset} is not UTF-8") from None


def raw_bytes(values: Sequence[bytes]) -> bytes:
    """Encode BYTES elements."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def classes(scores: NDArray[np.float32], labels: Sequence[Sequence[str]] | None, k: int) -> list[list[bytes]]:
    """The classification extension: the `k` highest of each row as "value:index" or "value:index:label"."""
    rows = []
    for n, row in enumerate(scores):
        order = np.argsort(-row, kind="stable")[:k]
        rows.append([f"{row[i]:f}:{i}{f':{labels[n][i]}' if labels and labels[n][i] else ''}".encode() for i in order])
    return rows


def _format_shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
